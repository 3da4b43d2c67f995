"""Noise schedules against their formulas and diffusers, and the algebra between x0, eps and v."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from latdiff.schedule import add_noise, alpha2_at, betas, log_snr, v_target, x0_from_v

SCHEDULES = ("cosine", "tan-5", "tan-0.5")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_scheduler_fed_with_the_betas_has_the_schedules_signal_variance(schedule):
    scheduler = DDPMScheduler(trained_betas=betas(schedule))
    expected = alpha2_at(schedule, torch.linspace(0, 1, 1001)[1:])
    # the last step differs: no beta exceeds 0.999, so a little signal is left
    torch.testing.assert_close(scheduler.alphas_cumprod[:-1], expected[:-1], rtol=2e-3, atol=1e-6)
    assert 0 < scheduler.alphas_cumprod[-1] < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [10, 1000])
def test_betas_are_as_many_as_steps_and_fit_for_a_variance(schedule, steps):
    given = betas(schedule, steps)
    assert len(given) == steps
    assert all(0 < beta <= 0.999 for beta in given)


def test_cosine_is_the_squared_cosine():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(alpha2_at("cosine", t), torch.cos(t * math.pi / 2) ** 2)
    assert alpha2_at("cosine", torch.tensor([[0.0, 1.0]])).shape == (1, 2)


def test_signal_falls_from_all_to_nothing():
    for schedule in SCHEDULES:
        alpha2 = alpha2_at(schedule, torch.linspace(0, 1, 101, dtype=torch.float64))
        assert (alpha2.diff() < 0).all()
        assert alpha2[0] == 1
        assert alpha2[-1] < 1e-12


def test_tan_1_is_cosine():
    t = torch.linspace(0, 1, 101)
    torch.testing.assert_close(alpha2_at("tan-1", t), alpha2_at("cosine", t))


@pytest.mark.parametrize("ratio", [0.5, 3, 9])
def test_tan_shifts_the_log_snr(ratio):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    shift = log_snr(alpha2_at(f"tan-{ratio}", t)) - log_snr(alpha2_at("cosine", t))
    torch.testing.assert_close(shift, torch.full_like(t, -2 * math.log(ratio)))


def test_tan_multiplies_the_noise_to_signal_ratio():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    ratio = [((1 - a) / a).sqrt() for a in (alpha2_at("tan-5", t), alpha2_at("cosine", t))]
    torch.testing.assert_close(ratio[0] / ratio[1], torch.full_like(t, 5.0))


@pytest.mark.parametrize("schedule", ["linear", "tan", "tan-", "tan-x", "cosine-2", ""])
def test_an_unknown_schedule_is_refused(schedule):
    with pytest.raises(ValueError):
        betas(schedule)


def test_an_unknown_schedule_is_named_with_what_there_is():
    with pytest.raises(ValueError, match=r"'linear', must be cosine or tan-D"):
        alpha2_at("linear", torch.tensor([0.5]))


def test_log_snr_is_the_log_ratio_and_stays_finite():
    alpha2 = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    snr = log_snr(alpha2)
    torch.testing.assert_close(snr[1:4], torch.log(alpha2[1:4] / (1 - alpha2[1:4])))
    assert snr[0] == -20
    assert snr[4] == 20
    assert snr.dtype == alpha2.dtype


@pytest.fixture
def noised():
    scheduler = DDIMScheduler(trained_betas=betas("tan-3"))
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 3, 4, generator=generator).unbind(0)
    t = torch.tensor([0, 10, 300, 500, 900, 999])
    return scheduler, x0, eps, t, scheduler.alphas_cumprod[t]


def test_noise_and_velocity_are_those_of_diffusers(noised):
    scheduler, x0, eps, t, alpha2 = noised
    torch.testing.assert_close(add_noise(x0, eps, alpha2), scheduler.add_noise(x0, eps, t))
    torch.testing.assert_close(v_target(x0, eps, alpha2), scheduler.get_velocity(x0, eps, t))


def test_x0_comes_back_from_v(noised):
    _, x0, eps, _, alpha2 = noised
    z, v = add_noise(x0, eps, alpha2), v_target(x0, eps, alpha2)
    torch.testing.assert_close(x0_from_v(z, v, alpha2), x0)


def test_eps_comes_back_from_v(noised):
    _, x0, eps, _, alpha2 = noised
    z, v = add_noise(x0, eps, alpha2), v_target(x0, eps, alpha2)
    alpha, sigma = alpha2.sqrt().view(-1, 1, 1), (1 - alpha2).sqrt().view(-1, 1, 1)
    torch.testing.assert_close(sigma * z + alpha * v, eps)
