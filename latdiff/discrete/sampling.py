"""In which order are hidden tokens written, and how is each drawn?

Every sampler takes texts with `mask_id` where a token is to be written, and leaves the others as they are: a text of
masks alone is written from nothing, one with gaps is filled in. A text depends on its own stream alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import BlockRefinementScheduler
from torch import Tensor

from latdiff.discrete.masked import Predictor, without_mask
from latdiff.errors import UserError, check_number, check_whole

Read: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # ids [N, L] of some rows [N] -> logits [N, L, V]


@dataclass(frozen=True)
class Sampled:
    """Texts that were written.

    Attributes:
        ids: [B, L], without masks.
        calls: how often the network read each text, [B].
    """

    ids: Tensor
    calls: Tensor


@torch.no_grad()
def ancestral(
    predictor: Predictor, ids: Tensor, mask_id: int, steps: int, streams: Sequence[torch.Generator],
    top_p: float = 1.0,
) -> Sampled:
    """Write tokens at times of their own, those of one of T equal steps at once (Sahoo et al. 2024).

    A text is read only at steps at which a token of it is written, as what was read before holds until then: in the
    mean T(1 - (1 - 1/T)^L) calls. Tokens written at one step do not see each other: an error that falls as 1/T.

    Args:
        predictor: reads ids [B, L].
        ids: texts [B, L], masks where a token is to be written.
        mask_id: the mask.
        steps: T, any number; the more the better, up to about L calls a text.
        streams: a generator for each text.
        top_p: less than 1 draws from the nucleus.

    Raises:
        UserError: For steps below 1, or a top_p that is not above 0 and at most 1.
    """
    steps = check_whole("steps", steps)
    order, numbers = uniforms(streams, ids)
    return reveal(_all(predictor), ids, mask_id, steps_of(order, steps), numbers, top_p)


@torch.no_grad()
def first_hitting(
    predictor: Predictor, ids: Tensor, mask_id: int, streams: Sequence[torch.Generator], top_p: float = 1.0
) -> Sampled:
    """Write one token at a time, at a place drawn uniformly from those left (Zheng et al. 2025).

    The law of `ancestral` with infinitely many steps, in as many calls as there are masks.

    Args:
        predictor: reads ids [B, L].
        ids: texts [B, L], masks where a token is to be written.
        mask_id: the mask.
        streams: a generator for each text.
        top_p: less than 1 draws from the nucleus.

    Raises:
        UserError: For a top_p that is not above 0 and at most 1.
    """
    order, numbers = uniforms(streams, ids)
    return reveal(_all(predictor), ids, mask_id, ranks_of(order, ids == mask_id), numbers, top_p)


@torch.no_grad()
def confidence(
    predictor: Predictor, ids: Tensor, mask_id: int, steps: int, streams: Sequence[torch.Generator],
    temperature: float = 1.0, top_p: float = 1.0,
) -> Sampled:
    """Draw all hidden tokens at every step and keep the surest, an equal number a step (LLaDA, Nie et al. 2025).

    It does not draw from the model's law: sure tokens first makes texts more alike.

    Args:
        predictor: reads ids [B, L].
        ids: texts [B, L], masks where a token is to be written.
        mask_id: the mask.
        steps: calls a text, at most L; a text with fewer masks takes as many calls as it has masks.
        streams: a generator for each text.
        temperature: 0 takes the likeliest tokens.
        top_p: less than 1 draws from the nucleus.

    Raises:
        UserError: For steps that are not 1 to L, a temperature below 0, or a top_p that is not above 0 and at most 1.
    """
    if check_whole("steps", steps) > ids.shape[1]:
        raise UserError(f"steps is {steps}, but a text has {ids.shape[1]} tokens, of which every step writes at least "
                        "one; set fewer, or take another order")
    temperature = check_number("temperature", temperature, least=0)
    top_p = check_number("top_p", top_p, above=0, most=1)
    ids, calls = ids.clone(), torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    schedulers = [_scheduler(count, steps) for count in (ids == mask_id).sum(1).tolist()]
    for step in range(steps):
        rows = (ids == mask_id).any(1).nonzero()[:, 0]
        if not len(rows):
            break
        logits = nucleus(without_mask(predictor(ids[rows]), mask_id) / (temperature or 1.0), top_p)
        for row, own in zip(rows.tolist(), logits, strict=True):
            device = streams[row].device  # where it draws
            found = schedulers[row].step(
                own[None].to(device), step, ids[row][None].to(device), mask_token_id=mask_id, threshold=math.inf,
                temperature=1.0 if temperature else 0.0, generator=streams[row],
            )
            ids[row] = found.prev_sample[0].to(ids)
        calls[rows] += 1
    return Sampled(ids, calls)


def _scheduler(masks: int, steps: int) -> BlockRefinementScheduler:
    made = BlockRefinementScheduler()
    if masks:
        made.set_timesteps(min(steps, masks), block_length=masks)
    return made


def _all(predictor: Predictor) -> Read:
    return lambda ids, rows: predictor(ids)


def uniforms(streams: Sequence[torch.Generator], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniform numbers for every token of texts [B, L], in float64: when it is written [B, L], and what [B, L].

    Raises:
        ValueError: For another number of streams than of texts.
    """
    if len(streams) != len(ids):
        raise ValueError(f"{len(streams)} streams for {len(ids)} texts; give one for each")
    length = ids.shape[1]
    drawn = [torch.rand(2, length, generator=one, device=one.device, dtype=torch.float64).cpu() for one in streams]
    order, numbers = torch.stack(drawn, 1)
    return order, numbers


def steps_of(order: Tensor, steps: int) -> Tensor:
    """The step [B, L], of so many, at which numbers in [0, 1) fall."""
    return (order * steps).long().clamp(max=steps - 1)


def ranks_of(order: Tensor, hidden: Tensor) -> Tensor:
    """The place [B, L] of each number among those of the text's hidden tokens [B, L]."""
    return order.masked_fill(~hidden.to(order.device), torch.inf).argsort(-1).argsort(-1)


def reveal(read: Read, ids: Tensor, mask_id: int, when: Tensor, numbers: Tensor, top_p: float = 1.0) -> Sampled:
    """Write hidden tokens at given steps.

    Args:
        read: logits of those texts of which a token is written at a step.
        ids: texts [B, L].
        mask_id: the mask.
        when: the step of every token, [B, L].
        numbers: uniform, [B, L]; each decides what its token is.
        top_p: less than 1 draws from the nucleus.
    """
    check_number("top_p", top_p, above=0, most=1)
    ids, calls = ids.clone(), torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    hidden, when, numbers = ids == mask_id, when.to(ids.device), numbers.to(ids.device)
    for step in when[hidden].unique().tolist():
        due = hidden & (when == step)
        rows, (at, place) = due.any(1).nonzero()[:, 0], due.nonzero(as_tuple=True)
        within = torch.searchsorted(rows, at)
        logits = read(ids[rows], rows)[within, place]
        ids[at, place] = draw(without_mask(logits, mask_id), numbers[at, place], top_p)
        calls[rows] += 1
    return Sampled(ids, calls)


def draw(logits: Tensor, numbers: Tensor, top_p: float = 1.0) -> Tensor:
    """Tokens [N] at uniform numbers [N] in [0, 1), by the inverse of the distribution function in float64.

    Adding float32 Gumbel noise, which never exceeds 16.7, would leave out rare tokens (Zheng et al. 2025).
    """
    below = nucleus(logits.double(), top_p).softmax(-1).cumsum(-1)
    below = below / below[:, -1:]  # the last is 1 exactly, above every number
    return torch.searchsorted(below, numbers.to(below)[:, None], right=True)[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [..., V], those of tokens outside of the nucleus -inf.

    It holds the likeliest tokens whose probabilities sum to at most `top_p`, and the likeliest one of all (BD3-LM,
    Arriola et al. 2025). That of Holtzman et al. (2020), which transformers has, holds one token more.
    """
    if top_p == 1:
        return logits
    ranked, tokens = logits.sort(dim=-1, descending=True, stable=True)
    outside = ranked.softmax(-1).cumsum(-1) > top_p
    outside[..., 0] = False
    return logits.masked_fill(outside.scatter(-1, tokens, outside), -torch.inf)
