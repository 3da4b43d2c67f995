"""The denoising transformer: what it sees, what it refuses, and that it comes back from disk."""

import math

import pytest
import torch
from denoisers import random_denoiser

from latdiff.models.denoiser import LatentDenoiser

L, D = 3, 4


@pytest.fixture
def denoiser():
    return random_denoiser(L, D, depth=2, codec_digest="abc")


@pytest.fixture
def z():
    return torch.randn(2, L, D, generator=torch.Generator().manual_seed(0))


SNR = torch.tensor([-1.0, 2.0])


def test_a_new_denoiser_predicts_zero(z):
    new = LatentDenoiser(num_latents=L, latent_dim=D, width=16, depth=1, heads=2)
    assert torch.equal(new(z, SNR), torch.zeros_like(z))


@torch.no_grad()
def test_the_prediction_has_the_latents_shape_and_full_precision(denoiser, z):
    assert denoiser(z, SNR).shape == z.shape
    with torch.autocast("cpu", torch.bfloat16):
        assert denoiser(z, SNR).dtype == torch.float32


@torch.no_grad()
def test_every_input_matters(denoiser, z):
    prediction = denoiser(z, SNR)
    assert not torch.allclose(prediction, denoiser(z + 1, SNR))
    assert not torch.allclose(prediction, denoiser(z, SNR + 1))
    assert not torch.allclose(prediction, denoiser(z, SNR, x_prev=z))
    assert not torch.allclose(prediction, denoiser(z.flip(1), SNR).flip(1))  # latents have places


@torch.no_grad()
def test_all_that_is_but_noise_is_one_noise_level(denoiser, z):
    at = denoiser.least_log_snr
    assert L * D * math.log1p(math.exp(at)) / 2 == pytest.approx(0.25, rel=0.05)  # a Gaussian channel, in nats
    prediction = denoiser(z, torch.full((2,), at))
    torch.testing.assert_close(denoiser(z, torch.full((2,), -20.0)), prediction)
    assert not torch.allclose(denoiser(z, torch.full((2,), at + 1)), prediction)


@torch.no_grad()
def test_no_earlier_estimate_is_an_estimate_of_zero(denoiser, z):
    torch.testing.assert_close(denoiser(z, SNR), denoiser(z, SNR, x_prev=torch.zeros_like(z)))


@torch.no_grad()
def test_rows_of_a_batch_are_on_their_own(denoiser, z):
    together = denoiser(z, SNR, x_prev=z.flip(0))
    for row in range(2):
        one = slice(row, row + 1)
        torch.testing.assert_close(together[one], denoiser(z[one], SNR[one], x_prev=z.flip(0)[one]))


def test_conditioning_is_refused(denoiser, z):
    with pytest.raises(ValueError, match="without conditioning"):
        denoiser(z, SNR, cond=torch.zeros(2))


def test_gradients_reach_every_weight(denoiser, z):
    denoiser(z, SNR, x_prev=z).square().sum().backward()
    assert [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_a_saved_denoiser_is_the_same(denoiser, z, tmp_path):
    denoiser.save_pretrained(tmp_path)
    again = LatentDenoiser.from_pretrained(tmp_path)
    assert torch.equal(again(z, SNR), denoiser(z, SNR))
    assert again.config.codec_digest == "abc"
    assert again.config.prediction == "v"


@torch.no_grad()
def test_one_that_ignores_estimates_says_the_same_whatever_they_are(denoiser, z):
    assert not torch.equal(denoiser(z, SNR, x_prev=z), denoiser(z, SNR))
    assert torch.equal(denoiser.ignore_estimates()(z, SNR, x_prev=z), denoiser(z, SNR))
