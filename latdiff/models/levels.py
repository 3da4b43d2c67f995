"""Noise levels to train at: drawn with the cosine schedule's density of log-SNR, and what an error weighs there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LIMIT = 15.0  # log-SNRs beyond are not drawn: 1 in 1,400 of the cosine schedule's


def cosine_log_snr(count: int, generator: torch.Generator) -> Tensor:
    """Log-SNRs [B] with the density sech(g/2) / 2 pi, that of uniform times, cut to [-15, 15].

    One lies in each of B equally likely parts (Kingma et al. 2021, appendix I.1), in random order.

    Args:
        count: B.
        generator: on the CPU.
    """
    share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    first = math.atan(math.exp(-LIMIT / 2)) * 2 / math.pi  # the time at which the log-SNR is 15
    times = first + (1 - 2 * first) * share.double()
    return (-2 * (times * math.pi / 2).tan().log()).clamp(-LIMIT, LIMIT).float()


def v_weight(log_snr: Tensor) -> Tensor:
    """What a squared error of v weighs at log-SNRs [B] that were drawn by `cosine_log_snr`: 2 pi sech(g/2), [B].

    The weight that is wanted is sigmoid(-g) on the error of eps, which is sech^2(g/2) on that of v; divided by the
    density it is this (STAR-LDM, Lovelace et al. 2025). Both ends hardly count.
    """
    return 2 * math.pi / (log_snr / 2).cosh()
