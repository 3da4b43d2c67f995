"""How likely is a text to a masked or block diffusion model? At least as likely as a bound on its nats says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latdiff.discrete.masked import Hidden, Hide, Predictor, check_block, hide_by_count, weighted_nats
from latdiff.errors import UserError, check_whole

MOST = 16  # tokens of a block all of whose subsets are read


@dataclass(frozen=True)
class Bound:
    """Upper bounds on -log p of texts.

    Attributes:
        nats: of every text, [B] in float64.
        error: their standard errors [B]; 0 where nothing is estimated.
    """

    nats: Tensor
    error: Tensor


@torch.no_grad()
def exact_bound(predictor: Predictor, ids: Tensor, mask_id: int, block_size: int | None = None) -> Bound:
    """The bound as the sum over all 2^L' - 1 sets of tokens that can be hidden of a block.

    A set M of k tokens weighs (k - 1)! (L' - k)! / L'!, so that the bound is the mean over all orders of writing a
    block (Ou et al. 2025). It is -log p of a model whose conditionals are those of one law. The same set
    is hidden in every block at once: with 4 tokens a block, a text takes 15 calls whatever its length.

    Args:
        predictor: of `masked_predictor`, or of `blocks.block_predictor` for these texts.
        ids: texts [B, L].
        mask_id: what hides a token.
        block_size: L'; by default L.

    Returns:
        The bound, without error.

    Raises:
        UserError: For blocks of more than 16 tokens, and a block size that does not divide L.
    """
    size = check_block(ids.shape[1], block_size)
    if size > MOST:
        raise UserError(f"a block has {size} tokens, too many to hide all their subsets; {MOST} is the most. Estimate "
                        "the bound, or set a smaller block_size")
    nats = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    for count in range(1, size + 1):
        weight = 1 / (count * math.comb(size, count))
        for places in itertools.combinations(range(size), count):
            weights = torch.zeros(ids.shape[1] // size, size, dtype=torch.float64, device=ids.device)
            weights[:, list(places)] = weight
            weights = weights.flatten().expand(ids.shape)
            hidden = Hidden(ids.masked_fill(weights > 0, mask_id), weights)
            nats += weighted_nats(predictor, ids, hidden, mask_id).double()
    return Bound(nats, torch.zeros_like(nats))


@torch.no_grad()
def estimated_bound(
    predictor: Predictor, ids: Tensor, mask_id: int, streams: Sequence[torch.Generator], draws: int = 128,
    block_size: int | None = None, hide: Hide = hide_by_count,
) -> Bound:
    """The bound from a mean over draws of what is hidden, one level in each of as many equal parts of [0, 1).

    Args:
        predictor: of `masked_predictor`, or of `blocks.block_predictor` for these texts.
        ids: texts [B, L].
        mask_id: what hides a token.
        streams: a CPU generator for each text, whose estimate depends on no other.
        draws: how many, each a call for all texts.
        block_size: L'; by default L.
        hide: which tokens are hidden at a level.

    Returns:
        Means and their standard errors, these from differences of neighbouring draws: what the bound's terms change
        with the level is no error of a mean over all levels, and each is a fresh draw.

    Raises:
        UserError: For fewer than two draws, and a block size that does not divide L.
    """
    draws, length = check_whole("draws", draws, least=2), ids.shape[1]
    count = length // check_block(length, block_size)
    drawn = [torch.rand(draws, count + length, generator=one, dtype=torch.float64) for one in streams]
    levels, numbers = torch.stack(drawn, 1).split([count, length], -1)  # [draws, B, ...]
    levels = (levels + torch.arange(draws)[:, None, None]) / draws
    found = [weighted_nats(predictor, ids, hide(ids, mask_id, *of_draw), mask_id).double()
             for of_draw in zip(levels, numbers, strict=True)]
    terms = torch.stack(found, 1)
    variance = terms.diff(dim=1).square().mean(1) / 2
    return Bound(terms.mean(1), (variance / draws).sqrt())
