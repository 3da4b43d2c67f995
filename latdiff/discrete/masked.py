"""Masked diffusion (MDLM, Sahoo et al. 2024): which tokens are hidden, what each weighs, and the loss of a predictor.

A predictor reads ids with `mask_id` where a token is hidden. Texts have L tokens; of N blocks, each has a level of
noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from latdiff.draws import Draws
from latdiff.errors import UserError, check_whole
from latdiff.models.token_model import token_logits

Predictor: TypeAlias = Callable[[Tensor], Tensor]  # ids [B, L] -> logits [B, L, V]
FIRST = 1e-3  # the earliest time that is drawn


@dataclass(frozen=True)
class Hidden:
    """Texts some of whose tokens are hidden.

    Attributes:
        ids: what is read, [B, L].
        weight: what the loss of each token counts for [B, L]; 0 where it is visible.
    """

    ids: Tensor
    weight: Tensor


Hide: TypeAlias = Callable[[Tensor, int, Tensor, Tensor], Hidden]  # as `hide_by_count` and `hide_by_time`


def masked_predictor(model: LlamaForCausalLM) -> Predictor:
    """The predictor of a `token_model` each of whose positions reads all others."""
    return lambda ids: token_logits(model, ids, torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool))


def subs(logits: Tensor, ids: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities [..., V]: the mask is never predicted, and a visible token is certain to be itself.

    The parameterisation SUBS of Sahoo et al. (2024).

    Args:
        logits: [..., V], of tokens alone or of the mask among them.
        ids: what was read, [...].
        mask_id: V, or less where the mask has a logit.
    """
    found = without_mask(logits, mask_id).log_softmax(-1)
    itself = torch.full_like(found, -torch.inf).scatter(-1, ids.clamp(max=found.shape[-1] - 1)[..., None], 0.0)
    return torch.where((ids == mask_id)[..., None], found, itself)


def without_mask(logits: Tensor, mask_id: int) -> Tensor:
    """Logits [..., V] in float32 or float64, the mask's -inf if there is one."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    if mask_id >= logits.shape[-1]:
        return exact
    return exact.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)


def hide_by_count(ids: Tensor, mask_id: int, levels: Tensor, numbers: Tensor) -> Hidden:
    """Hide exactly k of every block's L' tokens, k in 1 to L' at levels in [0, 1); each weighs L'/k.

    Over uniform levels it has the mean of `hide_by_time`, for any predictor, and a far smaller variance: none at all
    where all tokens have the same loss (LLaDA, Nie et al. 2025, equation 6, block by block).

    Args:
        ids: texts [B, L].
        mask_id: what hides a token.
        levels: of each of N blocks, [B, N].
        numbers: uniform, [B, L]; the tokens with the k least ones are hidden.
    """
    size = ids.shape[1] // levels.shape[1]
    counts = 1 + (levels.double() * size).long().clamp(max=size - 1)
    ranks = numbers.unflatten(1, (-1, size)).argsort(-1).argsort(-1)
    return _hidden(ids, mask_id, ranks < counts[..., None], size / counts.to(levels))


def hide_by_time(
    ids: Tensor, mask_id: int, levels: Tensor, numbers: Tensor, first: float = FIRST, last: float = 1.0
) -> Hidden:
    """Hide every token of a block with probability t, its time; each weighs 1/t.

    1/t is the weight of continuous time under the log-linear schedule, and the bound does not depend on the schedule
    (Sahoo et al. 2024, equation 10). Times from `first` on give each token the weight 1 in the mean, as those from 0
    on do, but none of it from where nearly all others are seen: the mean is above the bound, by 1/999 of it at most,
    where a token is the easier to predict the more is seen.

    Args:
        ids: texts [B, L].
        mask_id: what hides a token.
        levels: of each of N blocks, [B, N] in [0, 1): its time is as far on from `first` to `last`.
        numbers: uniform, [B, L]; a token is hidden where its number is below the time.
        first: the earliest time.
        last: the latest; with 0.3 to 0.8 and the like, BD3-LM's clipped schedules, training varies less, but what is
            computed is no bound.
    """
    times = first + (last - first) * levels
    hidden = numbers.unflatten(1, (levels.shape[1], -1)) < times[..., None]
    return _hidden(ids, mask_id, hidden, 1 / times)


def _hidden(ids: Tensor, mask_id: int, hidden: Tensor, weight: Tensor) -> Hidden:
    """Of places [B, N, L'] that are hidden and the weight [B, N] of each block's."""
    weights = (hidden * weight[..., None]).flatten(1).to(ids.device)
    return Hidden(ids.masked_fill(hidden.flatten(1).to(ids.device), mask_id), weights)


def weighted_nats(predictor: Predictor, ids: Tensor, hidden: Hidden, mask_id: int) -> Tensor:
    """Nats [B] of every text: the losses of its hidden tokens, each times its weight."""
    rows, places = hidden.weight.nonzero(as_tuple=True)
    logits = without_mask(predictor(hidden.ids)[rows, places], mask_id)
    losses = F.cross_entropy(logits, ids[rows, places], reduction="none")
    weighted = losses * hidden.weight[rows, places].to(losses)
    return torch.zeros(len(ids), dtype=losses.dtype, device=ids.device).index_add(0, rows, weighted)


def masked_loss(
    predictor: Predictor, ids: Tensor, mask_id: int, generator: torch.Generator | Draws,
    block_size: int | None = None, hide: Hide = hide_by_count,
) -> Tensor:
    """The bound in nats a token, estimated with levels drawn anew: what masked and block diffusion are trained by.

    Levels of the batch lie evenly in [0, 1), in every block (Sahoo et al. 2024).

    Args:
        predictor: of `masked_predictor`, or of `blocks.block_predictor` for these texts.
        ids: texts [B, L].
        mask_id: what hides a token.
        generator: on the CPU; it decides everything that is drawn. Or the draws of a batch of which these are B.
        block_size: L', of blocks with levels of their own; by default L.
        hide: which tokens are hidden at a level.

    Returns:
        The loss, a scalar.

    Raises:
        UserError: For a block size that does not divide L.
    """
    length = ids.shape[1]
    draws, count = Draws.of(generator, len(ids)), length // check_block(length, block_size)
    offsets, rows = torch.rand(count, generator=draws.generator), torch.arange(draws.batch)[draws.own]
    levels = (offsets + rows[:, None] / draws.batch) % 1
    return weighted_nats(predictor, ids, hide(ids, mask_id, levels, draws.rand(length)), mask_id).mean() / length


def check_block(length: int, block_size: int | None) -> int:
    """The block size, by default the length. Raise UserError for one that does not divide the length."""
    size = length if block_size is None else check_whole("block_size", block_size)
    if length % size:
        fit = ", ".join(str(one) for one in range(1, length + 1) if length % one == 0)
        raise UserError(f"block_size is {size}, which does not divide the {length} tokens of a text; set one of {fit}")
    return size
