"""Conditions: rows follow, and leaving one out is the unconditional model."""

import pytest
import torch
from denoisers import random_denoiser

from latdiff.models.conditions import Labels, Source
from latdiff.models.denoiser import LatentDenoiser

L, D, H = 3, 4, 6
SNR = torch.tensor([-1.0, 2.0, 0.5])


def random_source(batch=3, length=5, seed=0):
    features = torch.randn(batch, length, H, generator=torch.Generator().manual_seed(seed))
    return Source(features, torch.arange(length).expand(batch, -1) < torch.tensor([[5], [3], [1]])[:batch])


BUILT = {
    "label": (lambda: random_denoiser(L, D, depth=2, classes=["a", "b"]),
              lambda: Labels.of(["a", "b", "a"], ["a", "b"])),
    "text": (lambda: random_denoiser(L, D, depth=2, source_dim=H), random_source),
}


@pytest.fixture(params=BUILT)
def conditional(request):
    """A denoiser and a condition for three rows."""
    denoiser, cond = BUILT[request.param]
    return denoiser(), cond()


@pytest.fixture
def z():
    return torch.randn(3, L, D, generator=torch.Generator().manual_seed(0))


ALL, NONE = torch.tensor([True] * 3), torch.tensor([False] * 3)


@torch.no_grad()
def test_a_condition_matters_and_to_its_own_row_alone(conditional, z):
    denoiser, cond = conditional
    given, free = denoiser(z, SNR, cond), denoiser(z, SNR)
    assert all((given - free).abs().amax((1, 2)) > 1e-3)
    one = denoiser(z, SNR, cond.without(torch.tensor([True, False, True])))
    torch.testing.assert_close(one[1], given[1])
    torch.testing.assert_close(one[[0, 2]], free[[0, 2]])


@torch.no_grad()
def test_no_condition_for_any_row_is_no_condition(conditional, z):
    denoiser, cond = conditional
    torch.testing.assert_close(denoiser(z, SNR, cond.without(ALL)), denoiser(z, SNR))
    torch.testing.assert_close(denoiser(z, SNR, cond.without(NONE)), denoiser(z, SNR, cond))


@torch.no_grad()
@pytest.mark.parametrize("rows", [[2, 0], slice(1, 3), torch.tensor([True, False, True])], ids=str)
def test_rows_are_taken_as_of_a_tensor(conditional, z, rows):
    denoiser, cond = conditional
    part = denoiser(z[rows], SNR[rows], cond[rows])
    torch.testing.assert_close(part, denoiser(z, SNR, cond)[rows])


@torch.no_grad()
def test_padding_of_a_source_is_not_read(z):
    denoiser, cond = random_denoiser(L, D, depth=2, source_dim=H), random_source()
    spoilt = Source(cond.features.masked_fill(~cond.mask[..., None], 7.0), cond.mask)
    torch.testing.assert_close(denoiser(z, SNR, spoilt), denoiser(z, SNR, cond))


def test_a_new_conditional_denoiser_predicts_zero(z):
    for settings, cond in (({"classes": ["a", "b"]}, BUILT["label"][1]()), ({"source_dim": H}, random_source())):
        new = LatentDenoiser(num_latents=L, latent_dim=D, width=16, depth=1, heads=2, **settings)
        assert torch.equal(new(z, SNR, cond), torch.zeros_like(z))


def test_every_weight_of_a_condition_gets_a_gradient(conditional, z):
    denoiser, cond = conditional
    denoiser(z, SNR, cond).square().sum().backward()
    own = [p for name, p in denoiser.named_parameters() if "source" in name or "class" in name]
    assert own and all(p.grad.abs().sum() > 0 for p in own)


def test_a_condition_of_another_kind_is_refused(z):
    for denoiser, cond in ((BUILT["label"][0](), random_source()), (BUILT["text"][0](), BUILT["label"][1]())):
        with pytest.raises(ValueError, match="built to be conditioned on a"):
            denoiser(z, SNR, cond)


def test_labels_in_the_order_of_the_classes():
    assert Labels.of(["b", "a", "b"], ["a", "b"]).index.tolist() == [2, 1, 2]


def test_a_conditional_denoiser_comes_back_from_disk(conditional, z, tmp_path):
    denoiser, cond = conditional
    denoiser.save_pretrained(tmp_path)
    again = LatentDenoiser.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(z, SNR, cond), denoiser(z, SNR, cond))
