"""How does a causal language model write, every row by random numbers of its own?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, TopPLogitsWarper

from latdiff.lm.loading import context
from latdiff.lm.reading import Past, empty_cache, led, left_padded


@torch.no_grad()
def write(
    model, prefix_ids: Sequence[list[int]], streams: Sequence[torch.Generator], max_new_tokens: int,
    top_p: float = 1.0, greedy: bool = False, lead: Tensor | None = None, prompts: Tensor | None = None,
    past: Past | None = None, until: Callable[[list[int]], bool] | None = None, end_when_likeliest: bool = False,
) -> list[list[int]]:
    """Continue every prefix token by token, up to the model's end-of-text, which is kept.

    Row i is sampled from numbers of its own, one for each token: it depends on its prefix and its stream, not on the
    rows beside it.

    Args:
        model: a causal language model.
        prefix_ids: N rows of any lengths, none empty unless there is a lead or there are prompts.
        streams: a generator for each row, on any device; greedy writing takes no numbers from them.
        max_new_tokens: of each row; nor does a row outgrow the model's context.
        top_p: 1 is ancestral sampling; less, nucleus sampling (Holtzman et al. 2020).
        greedy: take the likeliest token.
        lead: embeddings [N, K, H] that are read before the prefixes.
        prompts: embeddings [N, K, H] that are read behind them.
        past: what `read` has read of the prefixes, in place of reading them again; only with prompts.
        until: gets the ids that a row has written and says whether it stops there.
        end_when_likeliest: end where end-of-text is the likeliest token, whatever is drawn. A model that misses an end
            seldom finds another.

    Returns:
        The ids of each row behind its prefix.

    Raises:
        ValueError: For an empty prefix, another number of streams than of rows to be sampled, or a past without
            prompts or with a lead.
        LanguageModelError: For a model whose past is not a cache of keys and values, such as Mamba.
    """
    _check_rows(prefix_ids, None if greedy else streams, lead, prompts, past)
    ends = ends_of(model)
    at_once = ends if end_when_likeliest else ()
    beside = sum(given.shape[1] for given in (lead, prompts) if given is not None)
    room = [min(max_new_tokens, context(model) - beside - len(prefix)) for prefix in prefix_ids]
    written: list[list[int]] = [[] for _ in prefix_ids]
    rows = [row for row, most in enumerate(room) if most > 0]
    first, behind = (None if given is None else given[rows] for given in (lead, prompts))
    inputs, mask, cache = _begun(model, [prefix_ids[row] for row in rows], first, behind,
                                 None if past is None else past.rows(rows))
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, cache.get_seq_length() :]
    takes = inspect.signature(model.forward).parameters  # BLOOM's has positions from the mask
    while rows:
        given = {name: value for name, value in (("position_ids", positions), ("logits_to_keep", 1)) if name in takes}
        out = model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        own = None if greedy else [streams[row] for row in rows]
        for row, token in zip(rows, choose(out.logits[:, -1].float(), own, top_p, at_once), strict=True):
            written[row].append(token)
            if token in ends or (until is not None and until(written[row])):
                room[row] = 0
        going = [place for place, row in enumerate(rows) if len(written[row]) < room[row]]
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            kept = torch.tensor(going, dtype=torch.long, device=model.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
        inputs = {"input_ids": torch.tensor([written[row][-1:] for row in rows], device=model.device)}
        mask, positions = F.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
    return written


def _check_rows(
    prefix_ids: Sequence[list[int]], streams: Sequence[torch.Generator] | None, lead: Tensor | None,
    prompts: Tensor | None, past: Past | None,
) -> None:
    """Raise ValueError for rows that `write` cannot begin."""
    if lead is None and prompts is None and not all(prefix_ids):
        raise ValueError("a prefix is empty; begin it with the model's beginning-of-text token")
    if streams is not None and len(streams) != len(prefix_ids):
        raise ValueError(f"{len(streams)} streams for {len(prefix_ids)} prefixes; give one for each")
    if past is not None and prompts is None:
        raise ValueError("there is a past, but no prompts to read behind it; leave past out")
    if past is not None and lead is not None:
        raise ValueError("there is a past, before which nothing can be read; leave it or lead out")


def _begun(
    model, prefix_ids: Sequence[list[int]], lead: Tensor | None, prompts: Tensor | None, past: Past | None
) -> tuple[dict[str, Tensor], Tensor, DynamicCache]:
    """What the model reads first, lead, prefixes with their ends aligned and prompts, and its mask [B, T].

    The cache is empty, or that of the past; then the prompts alone are left to be read.
    """
    if past is not None and prompts is not None:
        embedded = prompts.to(model.get_input_embeddings().weight)
        return {"inputs_embeds": embedded}, F.pad(past.mask, (0, prompts.shape[1]), value=1), past.cache
    ids, mask = left_padded(prefix_ids, model.device)
    if lead is None and prompts is None:
        return {"input_ids": ids}, mask, empty_cache(model)
    words = model.get_input_embeddings()(ids)
    if lead is not None:
        words, mask = led(model, lead, prefix_ids)
    if prompts is not None:
        words, mask = torch.cat([words, prompts.to(words)], 1), F.pad(mask, (0, prompts.shape[1]), value=1)
    return {"inputs_embeds": words}, mask, empty_cache(model)


def ends_of(model) -> set[int]:
    """The ids that end a text, as the model's generation settings have them: one, several or none."""
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or [])


def choose(
    logits: Tensor, streams: Sequence[torch.Generator] | None, top_p: float, at_once: Collection[int] = ()
) -> list[int]:
    """A token for each row of logits [B, V]: the likeliest without streams, else one of the row's distribution.

    Tokens of `at_once` are taken wherever they are the likeliest, whatever is drawn.
    """
    likeliest = logits.argmax(-1).tolist()
    if streams is None:
        return likeliest
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    below = logits.double().softmax(-1).cumsum(-1)
    below = below / below[:, -1:]  # the last is 1 exactly, above every number drawn
    drawn = [torch.rand(1, generator=one, device=one.device, dtype=torch.float64) for one in streams]
    found = torch.searchsorted(below, torch.stack([one.to(below.device) for one in drawn]), right=True)[:, 0].tolist()
    return [one if one in at_once else other for one, other in zip(likeliest, found, strict=True)]
