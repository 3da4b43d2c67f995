"""The sampling loop: noise to latents under any diffusers scheduler that takes estimates of x0.

    z = sample(denoise, scheduler, torch.randn(8, L, D), num_inference_steps=25)

A scheduler may keep z at unit variance (DDPM, DDIM, DPM-Solver, UniPC) or let it grow with sigma (Euler, LMS): what the
denoise function sees is always variance preserving, z = alpha x0 + sigma eps, with the solver's own noise level.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from latdiff.config import SCHEDULERS, SamplingConfig
from latdiff.errors import UserError, first_line, nearest
from latdiff.models.conditions import Condition

TRIALS = 256  # numbers that a scheduler is tried on
MOST_SPREAD = 1.3  # of theirs, where 1 is right; none of SCHEDULERS exceeds 1.1
LEAST_NOISE = 0.02  # the signal variance that a first step may have at most: there sampling begins from pure noise
FIT = "make one that fits with latdiff.make_scheduler('ddim', pipe.scheduler.config.trained_betas)"


class SchedulerError(UserError):
    """A scheduler that these latents cannot be sampled with, in one sentence."""


class Denoise(Protocol):
    """An estimate of clean latents; what guides wrap and samplers call."""

    def __call__(
        self, z: Tensor, alpha2: Tensor, cond: Condition | None = None, x_prev: Tensor | None = None
    ) -> Tensor:
        """Estimate x0 [B, L, D].

        Args:
            z: alpha x0 + sigma eps, [B, L, D].
            alpha2: signal variance of each row, [B], best on the CPU, where reading it waits for no device.
            cond: a condition for each row, or None.
            x_prev: an earlier estimate of x0 [B, L, D], or None.
        """


Callback = Callable[[int, Tensor, dict[str, Tensor]], dict | None]  # (step, timestep, {"latents", "x0"})


@torch.no_grad()
def sample(
    denoise: Denoise, scheduler, z: Tensor, num_inference_steps: int, cond: Condition | None = None, generator=None,
    callback: Callback | None = None, begin: int = 0, x_prev: Tensor | None = None, progress: Callable = iter,
) -> Tensor:
    """Denoise z [B, L, D] step by step; a loop without state of its own, so that it may run inside another one.

    Args:
        denoise: estimates x0.
        scheduler: of diffusers, fed with x0; its timesteps are set, and a copy of it keeps the solver's state.
        z: where it starts: standard Gaussian noise, or what `noised` makes of clean latents for `begin`.
        num_inference_steps: of the whole way from noise.
        cond: a condition for each row.
        generator: one of torch's, or a list of one a row, for samplers that draw noise on the way.
        callback: called as callback(step, timestep, {"latents": z, "x0": x0}) after every step; what it returns under
            "latents" takes the place of z.
        begin: how many of the steps are left out.
        x_prev: the first estimate of x0 that the denoiser is given, [B, L, D].
        progress: wraps the timesteps, as tqdm does.

    Returns:
        Clean latents [B, L, D].

    Examples:
        >>> from latdiff import make_scheduler, sample
        >>> from latdiff.schedule import betas
        >>> def denoise(z, alpha2, cond=None, x_prev=None):  # exact for standard Gaussian data
        ...     return alpha2.sqrt().view(-1, 1, 1) * z
        >>> noise = torch.randn(1000, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> latents = sample(denoise, make_scheduler("ddim", betas("cosine")), noise, num_inference_steps=25)
        >>> bool(0.9 < latents.std() < 1.1)
        True
    """
    _begin(scheduler, num_inference_steps, z.device, begin)  # for callbacks that look at its timesteps
    scheduler = copy.deepcopy(scheduler)  # a solver's memory is of one loop, and another thread may run beside it
    timesteps = _begin(scheduler, num_inference_steps, z.device, begin)
    if not begin:
        z = z * scheduler.init_noise_sigma
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for step, t in enumerate(progress(timesteps)):
        alpha2 = torch.full((len(z),), _signal_variance(scheduler, t, begin + step))
        x_prev = denoise(scheduler.scale_model_input(z, t), alpha2, cond, x_prev)
        z = scheduler.step(x_prev, t, z, **extra).prev_sample
        if callback is not None:
            z = (callback(step, t, {"latents": z, "x0": x_prev}) or {}).get("latents", z)
    return z


def noised(scheduler, x0: Tensor, noise: Tensor, num_inference_steps: int, begin: int) -> Tensor:
    """Clean latents [B, L, D] with noise [B, L, D], as `sample` takes them at step `begin`."""
    t = _begin(scheduler, num_inference_steps, x0.device, begin)[0]
    alpha2 = _signal_variance(scheduler, t, begin)
    z = alpha2**0.5 * x0 + (1 - alpha2) ** 0.5 * noise
    return z / scheduler.scale_model_input(torch.ones((), device=z.device), t)


def first_step(scheduler, num_inference_steps: int, strength: float) -> int:
    """Where an edit of some strength in (0, 1] begins, as an index into the scheduler's timesteps."""
    return scheduler.order * min(num_inference_steps - 1, round(num_inference_steps * (1 - strength)))


def make_scheduler(name: str, trained_betas: list[float]):
    """A diffusers scheduler by its short name, fed with x0.

    DDPM has the smaller of its two variances: on storyworld the larger one is a tie (docs/lab/results.md).

    Args:
        name: one of SCHEDULERS.
        trained_betas: of the noise schedule that the denoiser was trained with.

    Raises:
        SchedulerError: For a name that is not in SCHEDULERS.
    """
    if name not in SCHEDULERS:
        raise SchedulerError(f"no scheduler {name!r}, only {', '.join(SCHEDULERS)}{nearest(name, SCHEDULERS)}")
    common = {"num_train_timesteps": len(trained_betas), "trained_betas": trained_betas, "prediction_type": "sample",
              "timestep_spacing": "trailing"}
    multistep = {"final_sigmas_type": "zero", "lower_order_final": True}
    consistency = {"clip_sample": False, "set_alpha_to_one": True, "original_inference_steps": len(trained_betas)}
    return {
        "ddpm": lambda: DDPMScheduler(**common, clip_sample=False, variance_type="fixed_small"),
        "ddim": lambda: DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True),
        "dpm++": lambda: DPMSolverMultistepScheduler(**common, **multistep),
        "sde-dpm++": lambda: DPMSolverMultistepScheduler(**common, **multistep, algorithm_type="sde-dpmsolver++"),
        "unipc": lambda: UniPCMultistepScheduler(**common),
        # between ddim and full renoising: down to 0.7 of the next time, and by noise back up to it
        "tcd": lambda: TCDScheduler(**common, **consistency),
        # z <- alpha x0 + sigma eps at every step, which diffusers ships as the sampler of latent consistency models
        "renoise": lambda: LCMScheduler(**common, **consistency),
    }[name]()


def checked_scheduler(sampling: SamplingConfig, trained_betas: list[float]):
    """The scheduler of a recipe's section `sampling`; raises SchedulerError where it would mis-sample in its steps."""
    scheduler = make_scheduler(sampling.scheduler, trained_betas)
    try:
        check_scheduler(scheduler, sampling.steps)
    except SchedulerError as error:
        reason = str(error).partition(";")[0]  # what follows is for who makes schedulers in Python
        raise SchedulerError(f"sampling.steps is {sampling.steps}: {reason}; set others, or another "
                             "sampling.scheduler") from error
    return scheduler


def check_scheduler(scheduler, num_inference_steps: int) -> None:
    """Refuse a scheduler that would mis-sample: it is tried on numbers that are known, before a denoiser is called.

    Args:
        scheduler: of diffusers; a copy of it is run.
        num_inference_steps: how many steps it will take.

    Raises:
        SchedulerError: When it has no variance-preserving noise schedule or another prediction_type, cannot be run,
            does not start from noise, goes back to more noise, clips or rescales what it is fed, or, given the exact
            denoiser of a standard Gaussian, ends far outside of it.
    """
    name = type(scheduler).__name__
    kind = scheduler.config.get("prediction_type")
    if getattr(scheduler, "alphas_cumprod", None) is None or kind != "sample":
        raise SchedulerError(f"{name} with prediction_type={kind!r} does not fit: the denoiser estimates x0, so it "
                             f"must be variance preserving, with prediction_type='sample'; {FIT}")
    levels, known = [], 4.0  # a value that latents reach and that images, which some schedulers clip to, do not

    def tried(x0: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(TRIALS, 1, 1, generator=generator)
        return sample(lambda z, alpha2, *_: x0(z, alpha2.view(-1, 1, 1)), copy.deepcopy(scheduler), z,
                      num_inference_steps, generator=generator)

    def constant(z: Tensor, alpha2: Tensor) -> Tensor:
        levels.append(alpha2[0].item())
        return torch.full_like(z, known)

    try:
        found, spread = tried(constant).mean().item(), tried(lambda z, alpha2: alpha2.sqrt() * z).std().item()
    except Exception as error:  # each scheduler raises kinds of its own
        problem = f"{name} cannot be run for {num_inference_steps} steps ({first_line(error)})"
        raise SchedulerError(f"{problem}; {FIT}") from error
    wrong = ""
    if levels[0] > LEAST_NOISE:
        wrong = f"begins at a signal variance of {levels[0]:.3f} and not in noise; set timestep_spacing='trailing'"
    elif any(later < earlier for earlier, later in itertools.pairwise(levels)):
        wrong = "goes back to more noise on its way; take other sigmas"
    elif not abs(found - known) <= 0.05 * known:  # nor is NaN
        wrong = f"turns an estimate of {known:g} into {found:.2f}; set clip_sample=False and thresholding=False"
    elif not spread <= MOST_SPREAD:
        wrong = (f"gives standard Gaussian data a standard deviation of {spread:.2f} in {num_inference_steps} steps; "
                 "take more of them")
    if wrong:
        raise SchedulerError(f"{name} {wrong}, or {FIT}")


def _begin(scheduler, steps: int, device, begin: int) -> Tensor:
    """Timesteps from step `begin` on; the scheduler is made ready for them."""
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def _signal_variance(scheduler, t: Tensor, index: int) -> float:
    """alpha² of the noise level that the solver is at, also between the timesteps of the schedule."""
    scale = scheduler.scale_model_input(torch.ones((), dtype=torch.float64), t).item()
    if scale != 1:  # z = x0 + sigma eps, read at scale 1 / sqrt(1 + sigma²), which is alpha
        return scale**2
    if getattr(scheduler, "sigmas", None) is not None:  # sigma / alpha
        return 1 / (1 + float(scheduler.sigmas[index]) ** 2)
    return scheduler.alphas_cumprod[int(t)].item()
