"""Muon where bfloat16 is not multiplied in hardware."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its Newton-Schulz iterations in float32, and the rate matched to AdamW's.

    torch iterates in bfloat16 (Jordan et al. 2024). On a processor that only emulates it, a denoiser's step takes ten
    times as long as in float32.
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step on all gradients that there are."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("momentum_buffer", torch.zeros_like(weight.grad))
                average.lerp_(weight.grad, 1 - momentum)
                update = weight.grad.lerp(average, momentum)
                update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"])
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * rate * math.sqrt(max(weight.shape)))


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """About U V^T of a matrix U S V^T, by a quintic Newton-Schulz iteration in float32."""
    a, b, c = coefficients
    x = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
