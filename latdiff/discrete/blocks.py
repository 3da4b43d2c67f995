"""Block diffusion (BD3-LM, Arriola et al. 2025): masked diffusion of each block of a text, given the blocks before it.

Blocks of 1 token make a language model that writes from left to right, one block of L tokens masked diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from latdiff.discrete.masked import Predictor, check_block
from latdiff.discrete.sampling import Read, Sampled, ranks_of, reveal, steps_of, uniforms
from latdiff.errors import check_whole
from latdiff.lm import Past, empty_cache
from latdiff.models.token_model import mask_id_of, token_logits


def block_mask(length: int, block_size: int) -> Tensor:
    """What each of 2L positions reads, bool [2L, 2L]: L of the whole text, then L of the noisy one.

    A noisy block reads itself and the whole blocks before it; a whole block itself and those before it.
    """
    whole = torch.arange(2 * length) < length
    block = torch.arange(2 * length) % length // block_size
    query, key = block[:, None], block[None]
    to_whole = whole & torch.where(whole[:, None], query >= key, query > key)
    return to_whole | (~whole[:, None] & ~whole & (query == key))


def block_predictor(model: LlamaForCausalLM, clean: Tensor, block_size: int) -> Predictor:
    """What `masked_loss` and bounds take, all blocks of texts [B, L] read at once behind what comes before each.

    Args:
        model: a `token_model`.
        clean: the texts, whose noisy ones the predictor reads.
        block_size: L'.

    Raises:
        UserError: For a block size that does not divide L.
    """
    length = clean.shape[1]
    size = check_block(length, block_size)
    if size == length:  # there is nothing before the only block
        allowed = torch.ones(length, length, dtype=torch.bool)
        return lambda noisy: token_logits(model, noisy, allowed)
    allowed, positions = block_mask(length, size), torch.arange(length).repeat(2)
    return lambda noisy: token_logits(model, torch.cat([clean, noisy], 1), allowed, positions, last=length)


def read_block(model: LlamaForCausalLM, past: Past, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Past]:
    """Read a noisy block behind all blocks before it, the last of which may be read in the same call.

    Args:
        model: a `token_model`.
        past: what was read before, which stays as it was.
        clean: the block before, [B, L'], or [B, 0] where the past holds it.
        noisy: a block [B, L'].

    Returns:
        Logits [B, L', V] of the noisy block, and the past with the clean one.
    """
    before, size = past.mask.shape[1] + clean.shape[1], noisy.shape[1]
    allowed = torch.ones(clean.shape[1] + size, before + size, dtype=torch.bool)
    allowed[: clean.shape[1], before:] = False
    cache = past.fork()
    logits = token_logits(model, torch.cat([clean, noisy], 1), allowed, cache=cache, last=size)
    if not clean.shape[1]:
        return logits, past
    cache.crop(-size)
    return logits, Past(cache, F.pad(past.mask, (0, clean.shape[1]), value=1))


def nothing_read(model: LlamaForCausalLM, count: int) -> Past:
    """The past of so many texts of which nothing has been read."""
    return Past(empty_cache(model), torch.ones(count, 0, dtype=torch.long, device=model.device))


@torch.no_grad()
def write_blocks(
    model: LlamaForCausalLM, ids: Tensor, block_size: int, streams: Sequence[torch.Generator],
    steps: int | None = None, top_p: float = 1.0, end_id: int | None = None,
) -> Sampled:
    """Write texts block by block, keys and values of what is written kept.

    Args:
        model: a `token_model`.
        ids: texts [B, L], masks where a token is to be written; the others are left as they are.
        block_size: L'.
        streams: a generator for each text, which depends on no other.
        steps: of each block, as of `ancestral`; by default one token at a time, as by `first_hitting`.
        top_p: less than 1 draws from the nucleus.
        end_id: ends a text: behind the block that it is in, all masks become this token, and no more is read.

    Raises:
        UserError: For a block size that does not divide L, steps below 1, or a top_p that is not above 0 and at most 1.
    """
    length, mask_id = ids.shape[1], mask_id_of(model)
    size = check_block(length, block_size)
    steps = None if steps is None else check_whole("steps", steps)
    order, numbers = (one.to(ids.device) for one in uniforms(streams, ids))
    ids, calls = ids.clone(), torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    going, past = torch.arange(len(ids), device=ids.device), nothing_read(model, len(ids))
    for start in range(0, length, size):
        going, past = _still_going(ids[:, start:] == mask_id, going, past)
        if not len(going):
            break
        block = ids[going, start : start + size]
        first, past = read_block(model, past, ids[going, max(start - size, 0) : start], block)
        own = order[going, start : start + size]
        when = ranks_of(own, block == mask_id) if steps is None else steps_of(own, steps)
        found = reveal(_reading(model, past, block, first), block, mask_id, when,
                       numbers[going, start : start + size], top_p)
        ids[going, start : start + size] = found.ids
        calls[going] += found.calls.clamp(min=1)
        if end_id is not None:
            over = going[(found.ids == end_id).any(1)]
            rest = ids[over, start + size :]
            ids[over, start + size :] = rest.masked_fill(rest == mask_id, end_id)
    return Sampled(ids, calls)


def _still_going(hidden: Tensor, going: Tensor, past: Past) -> tuple[Tensor, Past]:
    """Those of the rows that are `going` with masks [B, ...] to be written, and their past."""
    left = hidden[going].any(1)
    if left.all():
        return going, past
    return going[left], past.rows(left.nonzero()[:, 0].tolist())


def _reading(model: LlamaForCausalLM, past: Past, begun: Tensor, first: Tensor) -> Read:
    """Reads blocks behind the past, except as they were begun, whose logits `first` are there already."""

    def read(ids: Tensor, rows: Tensor) -> Tensor:
        logits, new = first[rows], (ids != begun[rows]).any(1)
        if new.any():
            own = past if len(rows) == len(begun) and new.all() else past.rows(rows[new].tolist())
            logits[new] = read_block(model, own, ids[new][:, :0], ids[new])[0]
        return logits

    return read
