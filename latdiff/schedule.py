"""Noise schedules, and the algebra between x0, eps and v.

Variance preserving throughout: z_t = alpha x0 + sigma eps with alpha² + sigma² = 1. `alpha2` is the
signal variance alpha², the quantity diffusers calls `alphas_cumprod`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alpha2_at(schedule: str, t: Tensor) -> Tensor:
    """Signal variance at times t in [0, 1], any shape.

    `cosine` is cos²(πt/2) (Nichol & Dhariwal 2021, eq. 17, without offset). `tan-D` is
    1 / (1 + D² tan²(πt/2)) (TEncDM, section 4), which is the cosine schedule with its
    noise-to-signal ratio sigma/alpha multiplied by D: `tan-1` is `cosine`, and a log-SNR shift of
    -2 log D is the same thing by another name. Raises ValueError for any other name.
    """
    name, _, number = schedule.partition("-")
    if schedule == "cosine":
        ratio = 1.0
    elif name == "tan" and number:
        ratio = float(number)
    else:
        raise ValueError(f"noise schedule is {schedule!r}, must be cosine or tan-D, e.g. tan-5")
    angle = t * math.pi / 2
    return angle.cos() ** 2 / (angle.cos() ** 2 + ratio**2 * angle.sin() ** 2)


def betas(schedule: str, num_steps: int = 1000) -> list[float]:
    """The schedule as diffusers' `trained_betas`: beta_i = 1 - alpha2_i / alpha2_{i-1}, at most 0.999."""
    t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha2 = alpha2_at(schedule, t)
    return (1 - alpha2[1:] / alpha2[:-1]).clamp(max=0.999).tolist()


def log_snr(alpha2: Tensor) -> Tensor:
    """log(alpha² / sigma²), clamped to [-20, 20]."""
    return torch.logit(alpha2.double(), eps=1e-9).clamp(-20, 20).to(alpha2.dtype)


def add_noise(x0: Tensor, eps: Tensor, alpha2: Tensor) -> Tensor:
    """z_t [B, L, D] from x0 [B, L, D], eps [B, L, D] and alpha2 [B]."""
    alpha, sigma = _rates(alpha2)
    return alpha * x0 + sigma * eps


def v_target(x0: Tensor, eps: Tensor, alpha2: Tensor) -> Tensor:
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, appendix D), [B, L, D]."""
    alpha, sigma = _rates(alpha2)
    return alpha * eps - sigma * x0


def x0_from_v(z: Tensor, v: Tensor, alpha2: Tensor) -> Tensor:
    """x0 = alpha z - sigma v, [B, L, D]."""
    alpha, sigma = _rates(alpha2)
    return alpha * z - sigma * v


def _rates(alpha2: Tensor) -> tuple[Tensor, Tensor]:
    alpha2 = alpha2.view(-1, 1, 1)
    return alpha2.sqrt(), (1 - alpha2).sqrt()
