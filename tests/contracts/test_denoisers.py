"""One suite that every denoiser passes: each kind of LatentDenoiser, and an exact one of a few lines."""

from types import SimpleNamespace

import pytest
import torch
from denoisers import random_denoiser

from latdiff import GaussianDiffusion, LatentDenoiser, make_scheduler, sample
from latdiff.models.conditions import Labels, Source
from latdiff.schedule import betas

L, D, B = 3, 4, 5


class Exact(torch.nn.Module):
    """Of latents that are standard Gaussian: E[x0 | z] = alpha z, so that v is 0."""

    config = SimpleNamespace(prediction="v", codec_digest="", classes=None, source_dim=0)

    def forward(self, z, log_snr, cond=None, x_prev=None):
        return torch.zeros_like(z)


def latent_denoiser(**settings):
    return random_denoiser(L, D, depth=2, **settings)


MAKERS = {
    "exact": (Exact, None),
    "v": (lambda: latent_denoiser(), None),
    "x0": (lambda: latent_denoiser(prediction="x0"), None),
    "classes": (lambda: latent_denoiser(classes=["a", "b"]), Labels(torch.tensor([1, 2, 1, 2, 1]))),
    "source": (lambda: latent_denoiser(source_dim=6), Source(torch.randn(B, 7, 6), torch.ones(B, 7).bool())),
}


@pytest.fixture(params=MAKERS)
def kind(request):
    make, cond = MAKERS[request.param]
    return make(), cond


@pytest.fixture
def z():
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_prediction_has_the_shape_of_the_latents_at_every_noise_level(kind, z):
    model, cond = kind
    for level in (-20.0, 0.0, 20.0):
        found = model(z, torch.full((B,), level), cond, z)
        assert found.shape == z.shape
        assert found.dtype == torch.float32
        assert found.isfinite().all()


@torch.no_grad()
def test_condition_and_earlier_estimate_may_be_left_out(kind, z):
    model, cond = kind
    level = torch.zeros(B)
    torch.testing.assert_close(model(z, level), model(z, level, None, torch.zeros_like(z)))
    if cond is not None:
        free = model(z, level, cond.without(torch.ones(B).bool()))
        torch.testing.assert_close(free, model(z, level), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(z, level, cond), free, atol=1e-3)


@torch.no_grad()
def test_each_row_is_predicted_by_itself(kind, z):
    model, cond = kind
    level = torch.linspace(-3, 3, B)
    whole = model(z, level, cond, z.flip(0))
    for row in range(B):
        part = slice(row, row + 1)
        alone = model(z[part], level[part], None if cond is None else cond[part], z.flip(0)[part])
        torch.testing.assert_close(alone, whole[part], rtol=1e-4, atol=1e-4)


def test_a_guide_can_differentiate_through_it(kind, z):
    model, cond = kind
    z = z.requires_grad_()
    x0 = GaussianDiffusion(model).denoise(z, torch.full((B,), 0.5), cond)
    (gradient,) = torch.autograd.grad(x0.sum(), z)
    assert gradient.shape == z.shape
    assert gradient.abs().sum() > 0


def test_it_is_sampled_from(kind, z):
    model, cond = kind
    out = sample(GaussianDiffusion(model).denoise, make_scheduler("ddim", betas("cosine")), z, 4, cond)
    assert out.shape == z.shape
    assert out.isfinite().all()


def test_the_exact_one_leaves_a_gaussian_as_it_is(z):
    out = sample(GaussianDiffusion(Exact()).denoise, make_scheduler("unipc", betas("cosine")), z, 25)
    torch.testing.assert_close(out, z, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "exact"])
def test_it_is_saved_and_opened_as_it_was(name, z, tmp_path):
    make, cond = MAKERS[name]
    model = make()
    model.save_pretrained(tmp_path)
    again = LatentDenoiser.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(z, torch.zeros(B), cond), again(z, torch.zeros(B), cond))
