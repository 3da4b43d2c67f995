"""Heads over noise levels: accuracy, and weights between and beyond the levels."""

import numpy as np
import pytest
import torch
from toy_heads import CODEC, D, L, labelled, random_head, refusal

from latdiff.heads import fitting
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.fitting import fit_head
from latdiff.schedule import add_noise, alpha2_at, log_snr


def estimate(z, alpha2):
    return alpha2**0.5 * z  # of x ~ N(0, I)


def test_a_noise_aware_head_reads_noised_latents_and_trusts_them_less():
    texts, labels = labelled("ad", each=60)
    head = fit_head(CODEC, texts, labels, noise_aware=True)
    assert head.noise_aware
    latents = CODEC.encode(texts)
    sure, accuracy = [], []
    for time in (0.1, 0.5, 0.9):
        alpha2 = alpha2_at("cosine", torch.full((len(latents),), time))
        z = add_noise(latents, torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)), alpha2)
        found = head.log_prob(z, log_snr(alpha2))
        sure.append(found.exp().max(1).values.mean().item())
        accuracy.append((head.classes_[found.argmax(1).numpy()] == np.array(labels)).mean())
    assert sure[0] > sure[1] > sure[2]
    assert accuracy[0] > 0.95 > accuracy[2]
    clean = fit_head(CODEC, texts, labels)
    torch.testing.assert_close(head.log_prob(latents), clean.log_prob(latents))


@pytest.mark.parametrize("noise_aware", [False, True])
def test_the_report_shows_how_accuracy_falls_with_noise(noise_aware):
    by_noise = fit_head(CODEC, *labelled("ad", each=60), noise_aware=noise_aware, estimate=estimate).report[
        "accuracy_by_noise"
    ]
    assert list(by_noise) == ["0.00", "0.16", "0.38", "0.59", "0.71", "0.81", "0.92", "0.99"]
    assert by_noise["0.00"] > 0.95
    assert by_noise["0.00"] >= by_noise["0.71"] > by_noise["0.99"]


@pytest.mark.parametrize("noise_aware", [False, True])
def test_the_report_reads_some_latents_at_a_time(noise_aware, monkeypatch):
    """Whatever their number, with the figures that all at once have."""
    def report():
        return fit_head(CODEC, *labelled("ad", each=60), noise_aware=noise_aware, estimate=estimate).report

    whole, sizes, own = report(), [], AttributeHead.log_prob
    monkeypatch.setattr(fitting, "BATCH", 7)
    monkeypatch.setattr(AttributeHead, "log_prob", lambda self, x, *given: sizes.append(len(x)) or own(self, x, *given))
    assert report() == whole and set(sizes) == {7, 24 % 7}


def test_weights_between_two_noise_levels_are_interpolated_in_log_snr(x0):
    weight = torch.randn(3, 2, L, D, generator=torch.Generator().manual_seed(0))
    head = AttributeHead.from_weights(["a", "b"], weight, torch.zeros(3, 2), torch.tensor([-4.0, 0.0, 2.0]))
    for at, expected in ((-4.0, weight[0]), (-1.0, 0.25 * weight[0] + 0.75 * weight[1]),
                         (1.0, (weight[1] + weight[2]) / 2), (2.0, weight[2]), (7.0, weight[2])):
        found = head.logits(x0, torch.full((5,), at))
        torch.testing.assert_close(found, torch.einsum("bld,cld->bc", x0, expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.logits(x0), torch.einsum("bld,cld->bc", x0, weight[2]))


def test_beyond_the_noisiest_level_weights_fall_like_the_signal(x0):
    weight = torch.randn(2, 2, L, D, generator=torch.Generator().manual_seed(0))
    head = AttributeHead.from_weights(["a", "b"], weight, torch.zeros(2, 2), torch.tensor([-4.0, 0.0]))
    alpha, lowest = (torch.tensor(x).sigmoid().sqrt() for x in (-9.0, -4.0))
    expected = torch.einsum("bld,cld->bc", x0, weight[0]) * alpha / lowest
    torch.testing.assert_close(head.logits(x0, torch.full((5,), -9.0)), expected)


@pytest.mark.parametrize("noise_aware", [False, True])
def test_weights_are_moved_once_and_not_at_every_step(noise_aware):
    """On the meta device, which computes nothing and tells a copy from what was there."""
    head = fit_head(CODEC, *labelled("ab"), noise_aware=noise_aware)
    x, noise = torch.empty(5, L, D, device="meta"), torch.zeros(5, device="meta")
    head.to("meta")
    weight = head.weight
    assert head.logits(x, noise).device.type == "meta"
    assert head.weight is weight and head.weight.dtype == torch.float32
    again = fit_head(CODEC, *labelled("ab"))
    again.logits(x)  # follows the latents where nobody moved it
    assert again.weight.device.type == "meta"


def test_a_clean_head_cannot_be_read_at_z():
    assert "fit it with noise_aware=True" in refusal(random_head().toward, "label0", mode="noisy")
