"""A denoiser that is distilled into one of few calls: the loss, beside a teacher that it replaces.

Sampling with C calls of DDIM cuts the way from noise into C parts. Within its part, the student is to land where the
teacher's probability-flow ODE lands, in one call: multistep consistency distillation (Heek et al. 2024, sections 3.1
and 3.2; with one part it is that of Song et al. 2023). A student that predicts v is the identity where a part ends at
clean latents, as a consistency model has to be. It is a function of z alone: an earlier estimate, which z holds no more
than that of, would be another input in sampling than in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.sampling import Denoise
from latdiff.draws import Draws
from latdiff.models.conditions import Condition
from latdiff.schedule import add_noise


@dataclass(frozen=True)
class Distillation:
    """The student's loss.

    Attributes:
        teacher: estimates x0; it is called twice, the second time with its own first estimate.
        student: what is trained.
        average: estimates x0 with averaged weights of the student, at the end of a step of the teacher.
        alpha2: signal variance of every timestep [T], a diffusers scheduler's `alphas_cumprod`.
        calls: C, the calls of the student that a text will take.
        levels: of noise, among which a step of the teacher goes from one to the next; a multiple of C.
        starts: share of the batch that is trained where a part begins, which is where sampling calls the student.
    """

    teacher: Denoise
    student: GaussianDiffusion
    average: Denoise
    alpha2: Tensor
    calls: int
    levels: int
    starts: float = 0.5

    def loss(self, x0: Tensor, generator: torch.Generator | Draws, cond: Condition | None = None) -> Tensor:
        """Mean squared error of the student's v against the v that lands where teacher and average do.

        Args:
            x0: clean latents [B, L, D].
            generator: on the CPU; it decides everything that is drawn. Or the draws of a batch of which these are B.
            cond: a condition for each of the B rows.

        Returns:
            The loss, a scalar.
        """
        draws = Draws.of(generator, len(x0))
        spread = (torch.arange(draws.batch) + torch.rand(draws.batch, generator=draws.generator)) / draws.batch
        level = (spread * self.levels).long().clamp(max=self.levels - 1)[draws.own] + 1
        width = self.levels // self.calls
        end = (level - 1) // width * width
        level = torch.where(draws.rand() < self.starts, end + width, level)
        eps = draws.randn(*x0.shape[1:]).to(x0)
        z = add_noise(x0, eps, self._signal(level).to(x0))
        with torch.no_grad():
            target = self._target(z, level, end, cond)
        estimate = self.student.denoise(z, self._signal(level), cond)
        sigma = (1 - self._signal(level)).sqrt().to(z).view(-1, 1, 1)
        return ((estimate - target) / sigma).square().mean()

    def _target(self, z: Tensor, level: Tensor, end: Tensor, cond: Condition | None) -> Tensor:
        """The x0 [B, L, D] by which one step of DDIM goes from z to where teacher and average together go."""
        at, below, last = self._signal(level), self._signal(level - 1), self._signal(end)
        estimate = self.teacher(z, at, cond, self.teacher(z, at, cond))
        nearer = ddim_step(z, estimate, at, below)
        landed = ddim_step(nearer, self.average(nearer, below, cond), below, last)
        landed = torch.where((level - 1 == end).to(z.device).view(-1, 1, 1), nearer, landed)
        keep, take = ddim_rates(at, last)
        return (landed - keep.to(z) * z) / take.to(z)

    def _signal(self, level: Tensor) -> Tensor:
        """Signal variance [B] at levels from 0, clean, to `levels`, noise."""
        steps = (level * len(self.alpha2)).float() / self.levels
        signal = self.alpha2.cpu()[(steps.round().long() - 1).clamp(min=0)]
        return torch.where(level == 0, 1.0, signal)


def ddim_rates(alpha2: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
    """What a DDIM step without noise (Song et al. 2021, eq. 12) multiplies z and the estimate of x0 by, [B, 1, 1]."""
    alpha2, then = alpha2.double().view(-1, 1, 1), then.double().view(-1, 1, 1)
    keep = ((1 - then) / (1 - alpha2)).sqrt()
    return keep, then.sqrt() - keep * alpha2.sqrt()


def ddim_step(z: Tensor, x0: Tensor, alpha2: Tensor, then: Tensor) -> Tensor:
    """z [B, L, D] at signal variance alpha2 [B] moved to `then` [B], given an estimate of x0 [B, L, D]."""
    keep, take = ddim_rates(alpha2, then)
    return keep.to(z) * z + take.to(z) * x0
