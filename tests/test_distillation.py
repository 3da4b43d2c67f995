"""The loss of a denoiser of few calls, on Gaussian data, whose way from noise is known in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from latdiff.diffusion.distillation import Distillation, ddim_rates, ddim_step
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.sampling import make_scheduler, sample
from latdiff.schedule import betas

BETAS = betas("cosine")
ALPHA2 = make_scheduler("ddim", BETAS).alphas_cumprod
SHAPE = (2, 4)


def exact(z, alpha2, cond=None, x_prev=None):
    """The estimate of x0 where data are standard Gaussian."""
    return alpha2.sqrt().to(z).view(-1, 1, 1) * z


class Linear(nn.Module):
    """An estimate c(level) z, where any other is wrong for Gaussian data."""

    def __init__(self, levels):
        super().__init__()
        self.config = SimpleNamespace(prediction="v")
        self.levels, self.rates = levels, nn.Parameter(torch.zeros(levels + 1))

    def forward(self, z, log_snr, cond=None, x_prev=None):
        angle = torch.atan(torch.exp(-log_snr.double() / 2))
        level = (angle / (math.pi / 2) * self.levels).round().long()
        return self.rates[level].to(z).view(-1, 1, 1) * z


def trained(calls, levels, steps=400):
    torch.manual_seed(0)
    model = Linear(levels)
    diffusion = GaussianDiffusion(model, dtype="float32")
    distillation = Distillation(exact, diffusion, diffusion.denoise, ALPHA2, calls, levels, starts=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        loss = distillation.loss(torch.randn(64, *SHAPE, generator=generator), generator)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        optimizer.step()
    return diffusion


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_it_lands_where_the_teacher_does_in_all_its_steps(calls):
    """A step of DDIM with the exact estimate turns z by an angle, and shortens it to the cosine of that."""
    levels = 8
    denoise = trained(calls, levels).denoise
    noise = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        few = sample(denoise, make_scheduler("ddim", BETAS), noise, calls)
        many = sample(exact, make_scheduler("ddim", BETAS), noise, levels)
    assert torch.allclose(many, math.cos(math.pi / 2 / levels) ** levels * noise, atol=2e-3)
    assert torch.allclose(few, many, atol=2e-2)


def test_with_a_call_for_every_level_it_learns_the_teacher_itself():
    denoise = trained(4, 4).denoise
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    alpha2 = ALPHA2[[249, 499, 749]]
    with torch.no_grad():
        assert torch.allclose(denoise(z, alpha2), exact(z, alpha2), atol=1e-3)


def test_the_loss_of_the_teacher_of_itself_is_none():
    teacher = SimpleNamespace(denoise=exact)
    loss = Distillation(exact, teacher, exact, ALPHA2, 8, 8).loss(torch.randn(32, *SHAPE), torch.Generator())
    assert loss < 1e-9


@pytest.mark.parametrize(("starts", "seen"), [(0, 16), (1, 4)])
def test_it_may_be_trained_only_where_sampling_calls_it(starts, seen):
    asked = []

    def student(z, alpha2, cond=None):
        asked.append(alpha2)
        return exact(z, alpha2)

    distillation = Distillation(exact, SimpleNamespace(denoise=student), exact, ALPHA2, 4, 16, starts)
    distillation.loss(torch.randn(256, *SHAPE), torch.Generator().manual_seed(0))
    assert len(asked[0].unique()) == seen
    assert set(ALPHA2[[249, 499, 749, 999]].tolist()) <= set(asked[0].tolist())


def test_a_step_of_ddim_is_that_of_diffusers():
    scheduler = make_scheduler("ddim", BETAS)
    scheduler.set_timesteps(4)
    z, x0 = torch.randn(2, 5, *SHAPE, generator=torch.Generator().manual_seed(3))
    for t in scheduler.timesteps:
        previous = t - 250
        then = ALPHA2[previous] if previous >= 0 else torch.ones(())
        expected = scheduler.step(x0, t, z).prev_sample
        found = ddim_step(z, x0, ALPHA2[t].expand(5), then.expand(5))
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_step_to_clean_latents_is_the_estimate():
    keep, take = ddim_rates(ALPHA2[[100, 900]], torch.ones(2))
    assert (keep == 0).all() and (take == 1).all()


def test_one_seed_is_one_loss():
    diffusion = GaussianDiffusion(Linear(8), dtype="float32")
    distillation = Distillation(exact, diffusion, diffusion.denoise, ALPHA2, 2, 8)
    x0 = torch.randn(16, *SHAPE)
    losses = [distillation.loss(x0, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
