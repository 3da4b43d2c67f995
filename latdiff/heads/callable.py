"""A head of any differentiable function of clean latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latdiff.diffusion.guidance import Guide
from latdiff.heads.inputs import HeadError


class CallableHead:
    """A function as a head, e.g. a neural classifier's. It is not saved: a checkpoint holds no code.

    Args:
        function: clean latents [B, L, D] -> log-probability [B], by torch operations.
        name: of what the function scores.
        codec_digest: of the codec whose latents it reads; None is not checked.

    Examples:
        >>> import torch
        >>> centred = CallableHead(lambda x: -x.square().mean((1, 2)), name="centred")
        >>> guide = centred.guide(scale=0.1)
        >>> guide.title
        'centred=high'
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "callable", codec_digest: str | None = None):
        self.function, self.name, self.codec_digest = function, name, codec_digest
        self.radius: float | None = None

    def to(self, device: torch.device | str) -> CallableHead:
        """Move the function where it is a module; returns the head."""
        if isinstance(self.function, torch.nn.Module):
            self.function.to(device)
        return self

    def log_prob_of(self, target: None, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """The function's log-probability [B]. Raises HeadError when it has another shape or no gradient."""
        log_prob = self.function(x)
        if log_prob.shape != x.shape[:1] or not log_prob.requires_grad:
            raise HeadError(
                f"head {self.name!r} returned a tensor of shape {list(log_prob.shape)}, "
                f"{'with' if log_prob.requires_grad else 'without'} a gradient, for latents {list(x.shape)}; it must "
                "be one log-probability a text, computed by torch operations on the latents"
            )
        return log_prob

    def guide(self, scale: float, mode: str = "x0", **settings) -> Guide:
        """A guide that makes the log-probability larger; what scale is usual depends on the function."""
        if mode == "noisy":
            raise HeadError(f"head {self.name!r} is a function of clean latents; take mode x0, denoiser or monte-carlo")
        return Guide(self, None, scale, mode, **settings)

    def describe(self, target: None) -> str:
        """Always "high"."""
        return "high"

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides push this function up and down at once."""
        return two.head is self and one.scale * two.scale < 0
