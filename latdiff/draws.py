"""Random numbers of a training step: the whole batch's, of which each process takes those of its own rows.

So a batch that several processes share is trained on with the numbers that one process would draw.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Draws:
    """What is drawn for B' rows of a batch of B.

    Args:
        generator: on the CPU; it decides everything that is drawn.
        batch: B.
        own: the rows that are here; all by default.
    """

    def __init__(self, generator: torch.Generator, batch: int, own: slice = slice(None)):
        self.generator, self.batch, self.own = generator, batch, own

    @classmethod
    def of(cls, generator: torch.Generator | Draws, batch: int) -> Draws:
        """Those of a generator, for a batch that is all here; draws as they are."""
        return generator if isinstance(generator, Draws) else cls(generator, batch)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [B', *shape]."""
        return torch.rand(self.batch, *shape, generator=self.generator)[self.own]

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers [B', *shape]."""
        return torch.randn(self.batch, *shape, generator=self.generator)[self.own]


class SharedDropout(TorchFunctionMode):
    """Within the block, dropout of some rows of a batch, as if the whole batch were here.

    Masks are drawn for all rows, by torch's global generator on the CPU, as torch's own dropout draws them there.

    Args:
        batch: rows of the whole batch, B.
        own: the rows that are here. What has as many in its first dimension is taken for rows of the batch; anything
            else, such as embeddings of positions, has the same mask in every process.
    """

    def __init__(self, batch: int, own: slice):
        super().__init__()
        self.batch, self.own = batch, own

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.dropout:
            return self._dropout(*args, **kwargs)
        if function is F.scaled_dot_product_attention and kwargs.get("dropout_p"):
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not (training and p):
            return x
        of_rows = len(x) == len(range(self.batch)[self.own])
        kept = torch.empty(self.batch if of_rows else len(x), *x.shape[1:], dtype=torch.bool).bernoulli_(1 - p)
        return x * (kept[self.own] if of_rows else kept).to(x) / (1 - p)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:
        """torch's attention with dropout of its weights, written out."""
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(-1).nan_to_num()  # torch's are 0 where all keys are masked
        return self._dropout(weights, dropout_p) @ value
