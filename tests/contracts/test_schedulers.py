"""One suite over every scheduler: through the sampling loop, with the ideal denoiser of Gaussian data.

For data ~ N(MEAN, STD²) the ideal denoiser is linear in z, so the distribution that a sampler should
reach is known, and for the samplers that are one formula a step, so is what they reach in few steps.
"""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from latdiff.config import SCHEDULERS
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import stack
from latdiff.diffusion.sampling import (
    SchedulerError,
    check_scheduler,
    first_step,
    make_scheduler,
    noised,
    sample,
)
from latdiff.schedule import betas

MEAN, STD, N = 0.6, 0.5, 20_000


class Ideal:
    """E[x0 | z] of the Gaussian, in the interface of a denoiser that predicts x0 or v."""

    def __init__(self, prediction="x0"):
        self.config, self.calls = SimpleNamespace(prediction=prediction), 0

    def __call__(self, z, log_snr, cond=None, x_prev=None):
        self.calls += 1
        alpha2 = torch.sigmoid(log_snr.double()).view(-1, 1, 1)
        x0 = MEAN + gain(alpha2) * (z.double() - alpha2.sqrt() * MEAN)
        v = (alpha2.sqrt() * z - x0) / (1 - alpha2).sqrt()
        return (v if self.config.prediction == "v" else x0).to(z.dtype)


def gain(alpha2):
    """d E[x0 | z] / dz"""
    return alpha2**0.5 * STD**2 / (alpha2 * STD**2 + 1 - alpha2)


def draw(name, steps, seed=0, n=N, schedule="cosine", prediction="x0", guides=(), callback=None):
    """Samples [n] and the denoiser that made them; `name` may be a scheduler itself."""
    ideal = Ideal(prediction)
    scheduler = make_scheduler(name, betas(schedule)) if isinstance(name, str) else name
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, 1, generator=generator)
    clean = sample(stack(GaussianDiffusion(ideal).denoise, guides), scheduler, z, steps, None, generator, callback)
    assert clean.shape == (n, 1, 1)
    return clean.flatten(), ideal


def foreseen(name, steps, schedule="cosine"):
    """Mean and standard deviation after `steps` of ddpm, ddim, tcd or renoise, from their formulas."""
    scheduler = make_scheduler(name, betas(schedule))
    scheduler.set_timesteps(steps)
    times = [*scheduler.timesteps.tolist(), 0]
    alpha2 = [scheduler.alphas_cumprod[t].item() for t in times[:-1]] + [1.0]
    mean, variance = 0.0, 1.0  # of z
    for (now, after), then in zip(itertools.pairwise(alpha2), times[1:], strict=True):
        slope = gain(now)  # x0 = slope * z + offset
        offset = MEAN - slope * now**0.5 * MEAN
        if name == "renoise":  # z <- alpha' x0 + sigma' eps
            for_x0, for_z, noise = after**0.5, 0.0, 1 - after
        elif name == "ddim":  # z <- alpha' x0 + sigma' eps(z, x0)  (Song et al. 2021, eq. 12 with sigma = 0)
            for_z = ((1 - after) / (1 - now)) ** 0.5
            for_x0, noise = after**0.5 - for_z * now**0.5, 0.0
        elif name == "tcd":  # ddim to 0.7 of the next time, and noise from there  (Zheng et al. 2024, algorithm 4)
            below = scheduler.alphas_cumprod[int(0.7 * then)].item() if then else 1.0
            for_z = (after / below * (1 - below) / (1 - now)) ** 0.5
            for_x0, noise = after**0.5 - for_z * now**0.5, 1 - after / below
        else:  # the posterior of z' given z and x0  (Ho et al. 2020, eq. 7)
            kept = now / after
            for_x0 = after**0.5 * (1 - kept) / (1 - now)
            for_z = kept**0.5 * (1 - after) / (1 - now)
            noise = (1 - after) / (1 - now) * (1 - kept)
        mean = (for_x0 * slope + for_z) * mean + for_x0 * offset
        variance = (for_x0 * slope + for_z) ** 2 * variance + noise
    return mean, variance**0.5


@pytest.mark.parametrize("schedule", ["cosine", "tan-3"])
@pytest.mark.parametrize("steps", [2, 5, 20, 50])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "tcd", "renoise"])
def test_a_sampler_gives_what_its_formula_foresees(name, steps, schedule):
    samples, _ = draw(name, steps, schedule=schedule)
    mean, std = foreseen(name, steps, schedule)
    assert samples.mean().item() == pytest.approx(mean, abs=0.015)
    assert samples.std().item() == pytest.approx(std, abs=0.015)


# How near the data each comes in 50 steps. Samplers of the first order shrink towards the mean in few steps;
# full re-noising stays narrow, for each step starts from an average once more.
WITHIN = {"ddpm": 0.04, "ddim": 0.02, "dpm++": 0.015, "sde-dpm++": 0.03, "unipc": 0.015, "tcd": 0.06,
          "renoise": 0.18}


def test_every_scheduler_has_its_tolerance():
    assert set(WITHIN) == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_samples_are_distributed_as_the_data(name):
    samples, _ = draw(name, 50)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert samples.std().item() == pytest.approx(STD, abs=WITHIN[name])
    # a Gaussian in, a linear map and Gaussian noise: a Gaussian out
    standard = (samples - samples.mean()) / samples.std()
    assert standard.pow(3).mean().abs() < 0.08
    assert standard.pow(4).mean().item() == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "sde-dpm++", "unipc", "tcd"])
def test_more_steps_come_nearer(name):
    few, many = (abs(draw(name, steps)[0].std().item() - STD) for steps in (4, 100))
    assert many < 0.5 * few


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_the_network_predicts_makes_no_difference(name):
    x0, v = (draw(name, 10, n=50, prediction=prediction)[0] for prediction in ("x0", "v"))
    torch.testing.assert_close(x0, v, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_are_calls_of_the_denoiser(name, steps):
    seen = []
    _, ideal = draw(name, steps, n=4, callback=lambda step, t, tensors: seen.append((step, int(t))))
    assert ideal.calls == steps
    assert [step for step, _ in seen] == list(range(steps))
    times = [t for _, t in seen]
    assert times == sorted(set(times), reverse=True)
    assert times[0] == 999  # from pure noise


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_step_gives_the_mean(name):
    samples, _ = draw(name, 1, n=100)
    torch.testing.assert_close(samples, torch.full((100,), MEAN), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_seed_decides(name):
    first, again, other = (draw(name, 6, seed, n=20)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().min() > 0


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_deterministic_samplers_draw_no_noise_on_the_way(name):
    z = torch.randn(8, 1, 1, generator=torch.Generator().manual_seed(0))
    runs = [
        sample(GaussianDiffusion(Ideal()).denoise, make_scheduler(name, betas("cosine")), z, 6,
               generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_scheduler_clips(name):
    """Latents are not images: an estimate outside [-1, 1] has to get through."""

    def far_away(denoise):
        return lambda z, alpha2, cond=None, x_prev=None: torch.full_like(z, 7.0)

    samples, _ = draw(name, 10, n=20, guides=[far_away])
    torch.testing.assert_close(samples, torch.full((20,), 7.0), rtol=1e-2, atol=0)


def test_the_earlier_estimate_comes_back_in():
    given = []

    def watch(denoise):
        def watched(z, alpha2, cond=None, x_prev=None):
            given.append(x_prev)
            return torch.full_like(z, float(len(given)))

        return watched

    draw("ddim", 4, n=2, guides=[watch])
    assert given[0] is None
    assert [x.unique().tolist() for x in given[1:]] == [[1.0], [2.0], [3.0]]


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(SchedulerError, match=r"no scheduler 'ddmp', only ddpm, .*did you mean ddpm\?"):
        make_scheduler("ddmp", betas("cosine"))


# Steering, where log p is linear: a constant push at every step, so the mean moves and the width stays

PUSH = 0.05


def constant_push(denoise):
    return lambda z, alpha2, cond=None, x_prev=None: denoise(z, alpha2, cond, x_prev) + PUSH


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_constant_push_moves_the_mean_and_keeps_the_width(name):
    plain, _ = draw(name, 25)
    pushed, _ = draw(name, 25, guides=[constant_push])
    assert pushed.mean() - plain.mean() > PUSH  # each step's push stays in z and is joined by the next
    assert pushed.std().item() == pytest.approx(plain.std().item(), rel=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_pushes_add_up(name):
    plain, once, twice = (draw(name, 12, n=100, guides=[constant_push] * times)[0] for times in (0, 1, 2))
    torch.testing.assert_close(twice - plain, 2 * (once - plain), rtol=1e-3, atol=1e-4)


# Other schedulers of diffusers, made from our settings as a user makes them

OURS = {"trained_betas": betas("cosine"), "prediction_type": "sample", "timestep_spacing": "trailing"}
# how near the data each comes in 50 steps
SWAPPED = {
    "euler": (lambda: EulerDiscreteScheduler(**OURS), 0.03),
    "lms": (lambda: LMSDiscreteScheduler(**OURS), 0.03),
    "singlestep": (lambda: DPMSolverSinglestepScheduler(**{k: v for k, v in OURS.items() if "spacing" not in k}), 0.03),
    "deis": (lambda: DEISMultistepScheduler(**OURS), 0.03),
    "karras": (lambda: DPMSolverMultistepScheduler(**OURS, use_karras_sigmas=True, final_sigmas_type="zero"), 0.03),
    "euler karras": (lambda: EulerDiscreteScheduler(**OURS, use_karras_sigmas=True), 0.08),
    "exponential": (lambda: DPMSolverMultistepScheduler(**OURS, use_exponential_sigmas=True), 0.06),
    "unipc karras": (lambda: UniPCMultistepScheduler(**OURS, use_karras_sigmas=True), 0.03),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_other_schedulers_reach_the_data_with_the_noise_level_that_they_are_at(name):
    make, within = SWAPPED[name]
    check_scheduler(make(), 50)
    samples, _ = draw(make(), 50)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(STD, abs=within)


@pytest.mark.parametrize("name", [*SCHEDULERS, "euler", "karras"])
def test_the_denoiser_sees_unit_variance_and_its_true_level(name):
    """Of x0 = 0, z / sigma is standard Gaussian at every step."""
    seen = []

    def nothing(z, alpha2, cond=None, x_prev=None):
        seen.append((z.std() / (1 - alpha2[0]).sqrt()).item())
        return torch.zeros_like(z)

    scheduler = make_scheduler(name, betas("cosine")) if name in SCHEDULERS else SWAPPED[name][0]()
    generator = torch.Generator().manual_seed(0)
    sample(nothing, scheduler, torch.randn(N, 1, 1, generator=generator), 10, generator=generator)
    assert seen[0] == pytest.approx(1, abs=0.02)
    if name in ("ddim", "dpm++", "unipc", "renoise", "euler", "karras"):  # the others shrink what is left of the noise
        assert seen == pytest.approx([1] * len(seen), abs=0.02)


@pytest.mark.parametrize(("make", "said"), [
    # clips, as diffusers does if nobody says not to
    (lambda: DDIMScheduler(**OURS), "turns an estimate of 4 into 0.96"),
    (lambda: DPMSolverMultistepScheduler(**OURS, thresholding=True), "thresholding=False"),
    (lambda: DDIMScheduler(**OURS | {"timestep_spacing": "leading"}, clip_sample=False), "begins at a signal variance"),
    (lambda: PNDMScheduler(trained_betas=OURS["trained_betas"]), "with prediction_type='epsilon' does not fit"),
    (lambda: HeunDiscreteScheduler(**OURS), "gives standard Gaussian data a standard deviation of 1"),
    (lambda: KDPM2DiscreteScheduler(**OURS), "KDPM2DiscreteScheduler cannot be run"),
    (lambda: FlowMatchEulerDiscreteScheduler(), "with prediction_type=None does not fit"),
])
def test_a_scheduler_that_would_mis_sample_is_refused(make, said):
    with pytest.raises(SchedulerError, match=said):
        check_scheduler(make(), 7)


def test_a_scheduler_that_gives_nan_is_refused():
    with pytest.raises(SchedulerError, match="estimate of 4 into nan"):
        check_scheduler(UniPCMultistepScheduler(**OURS, predict_x0=False), 12)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 25, 1000])
def test_our_own_are_not_refused(name, steps):
    check_scheduler(make_scheduler(name, betas("cosine")), steps)


@pytest.mark.parametrize("name", [*SCHEDULERS, "euler"])
def test_clean_latents_are_noised_to_the_level_of_the_step(name):
    scheduler = make_scheduler(name, betas("cosine")) if name in SCHEDULERS else SWAPPED[name][0]()
    begin, x0 = first_step(scheduler, 10, 0.6), torch.full((N, 1, 1), 2.0)
    z = noised(scheduler, x0, torch.randn(N, 1, 1, generator=torch.Generator().manual_seed(0)), 10, begin)
    seen = []

    def watched(z, alpha2, cond=None, x_prev=None):
        seen.append((z, alpha2[0]))
        return x0

    out = sample(watched, scheduler, z, 10, generator=torch.Generator().manual_seed(1), begin=begin)
    first, level = seen[0]
    assert len(seen) == 6
    assert first.mean().item() == pytest.approx(2 * level.sqrt().item(), abs=0.02)
    assert first.std().item() == pytest.approx((1 - level).sqrt().item(), abs=0.02)
    torch.testing.assert_close(out, x0, rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_loops_of_one_scheduler_may_run_side_by_side(name):
    """Each in a thread of its own, every step of one between two steps of the other."""
    scheduler, turns = make_scheduler(name, betas("cosine")), threading.Barrier(2, timeout=20)

    def run(level, together):
        def denoise(z, alpha2, cond=None, x_prev=None):
            if together:
                turns.wait()
            return level * alpha2.sqrt().view(-1, 1, 1) * z

        noise = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0))
        return sample(denoise, scheduler, noise, 6, generator=torch.Generator().manual_seed(1))

    alone = [run(level, False) for level in (0.5, 1.0)]
    with ThreadPoolExecutor(2) as threads:
        beside = list(threads.map(run, (0.5, 1.0), (True, True)))
    assert all(map(torch.equal, alone, beside))


def test_a_loop_may_run_inside_another():
    def thoughtful(z, alpha2, cond=None, x_prev=None):
        inner = make_scheduler("ddim", betas("cosine"))
        return sample(lambda z, *_: torch.full_like(z, 3.0), inner, torch.randn(z.shape), 2)

    out = sample(thoughtful, make_scheduler("unipc", betas("cosine")), torch.randn(4, 1, 1), 3)
    torch.testing.assert_close(out, torch.full((4, 1, 1), 3.0), rtol=1e-2, atol=0)
