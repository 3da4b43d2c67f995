"""Language models of transformers: how they are loaded, how they score texts, how they write them."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    TopPLogitsWarper,
)
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from latdiff.errors import UserError, first_line
from latdiff.fetch import MODELS, located
from latdiff.precision import default_device

LOGITS = 8192 * 50257  # computed at a time when texts are scored, which take 1.6 GB: 8192 tokens of GPT-2's


class LanguageModelError(UserError):
    """A language model that cannot be loaded or used, in one sentence."""


def load_pretrained(
    auto, path: str | Path, refuse: Callable[[str], UserError], tokenizer: str | Path | None = None,
    prepare: Callable[[PreTrainedConfig], None] | None = None,
) -> tuple:
    """Tokenizer and model, in float32 and ready to read.

    Weights are read from safetensors alone and no code of the repository's is run; a folder is never looked up on the
    hub. A pooler may lack weights, for nothing here reads it.

    Args:
        auto: a transformers auto class, such as AutoModelForCausalLM.
        path: a folder or a hub id.
        refuse: makes the error to raise of a reason, such as "lacks 2 weights, the first is ...".
        tokenizer: the folder or hub id of one that lies elsewhere.
        prepare: gets the configuration before a weight is read, to refuse it or to change it.
    """
    with _refusing(path, refuse):
        config = AutoConfig.from_pretrained(path, **_safely(path))
        if prepare:
            prepare(config)
        read = load_tokenizer(tokenizer or path, refuse)
        model, loading = auto.from_pretrained(path, config=config, dtype=torch.float32, use_safetensors=True,
                                              output_loading_info=True, **_safely(path))
        lost = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
        if lost:  # transformers only warns, and leaves them random
            raise refuse(f"lacks {len(lost)} weights, the first is {lost[0]}; copy or save it again")
        for name in loading["missing_keys"]:  # a pooler's, which are the same at every loading
            torch.nn.init.zeros_(model.get_parameter(name))
        rows = model.get_input_embeddings().num_embeddings
        if len(read) > rows:
            raise refuse(f"has embeddings of {rows:,} tokens, but a tokenizer of {len(read):,}; take its own")
    return read, model.eval()


def load_tokenizer(path: str | Path, refuse: Callable[[str], UserError]):
    """The tokenizer of a folder or a hub id.

    Args:
        path: a folder or a hub id.
        refuse: makes the error to raise of a reason.
    """
    with _refusing(path, refuse):
        found = AutoTokenizer.from_pretrained(path, **_safely(path))
        if not found("a", add_special_tokens=False).input_ids:  # transformers makes an empty one where there is none
            raise refuse("has no tokenizer; save its own beside it")
        return found


def _safely(path: str | Path) -> dict:
    return {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}


@contextlib.contextmanager
def _refusing(path: str | Path, refuse: Callable[[str], UserError]):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, hub and safetensors each raise kinds of their own
        local, reason = Path(path).is_dir(), first_line(error)
        if re.search("no file named|use_safetensors", reason):
            reason = ("there are no weights in safetensors, and only those are read, for a pickle can run code; save "
                      "the model again with transformers' save_pretrained")
        place = "read from this folder" if local else "fetched from the hub (offline? give a local folder)"
        raise refuse(f"could not be {place}: {reason}") from error


def load_language_model(auto, path: str | Path) -> tuple:
    """Tokenizer and model, on the GPU where there is one.

    Args:
        auto: a transformers auto class, such as AutoModelForCausalLM.
        path: a folder, a hub id, or a name that `latdiff fetch` knows.

    Raises:
        UserError: Where there is no such model.
    """
    path = located(str(path)) if path in MODELS else str(path)
    if not Path(path).is_dir() and path.count("/") != 1:
        raise LanguageModelError(f"no language model {path!r}: a folder or a hub id, e.g. openai-community/gpt2")
    tokenizer, model = load_pretrained(
        auto, path, lambda reason: LanguageModelError(f"the language model {path!r} {reason}")
    )
    return tokenizer, model.to(default_device())


def causal_language_model(path: str | Path) -> tuple:
    """Tokenizer, model and the id that a text begins after.

    Raises:
        LanguageModelError: Where there is no causal language model.
    """
    tokenizer, model = load_language_model(AutoModelForCausalLM, path)
    start = model.config.bos_token_id if model.config.bos_token_id is not None else model.config.eos_token_id
    if not isinstance(start, int):
        raise LanguageModelError(f"the language model {str(path)!r} has no beginning-of-text token; take another")
    return tokenizer, model, start


def class_prefix(tokenizer, label: str, start: int) -> list[int]:
    """Ids that stand between beginning-of-text and a text of a class: the label's, and beginning-of-text again.

    Args:
        tokenizer: the language model's.
        label: the class.
        start: the id of beginning-of-text.
    """
    return [*(piece for piece in tokenizer(label).input_ids if piece != tokenizer.eos_token_id), start]


def context(model) -> int:
    """The most tokens that the model can read, by its configuration; without bound where that does not say."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


@torch.no_grad()
def token_losses(model, start: int, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats [N] of every row, and the tokens [N] that it is the sum of.

    Args:
        model: a causal language model.
        start: the id that every row is read after.
        ids: N rows, without `start`. Tokens beyond the model's context are not scored.
    """
    longest = context(model) - 1
    rows = [torch.tensor(row[:longest], dtype=torch.long) for row in ids]
    counts = torch.tensor([len(row) for row in rows], dtype=torch.long)
    nats = torch.zeros(len(rows))
    for chunk in _chunks(counts.tolist(), LOGITS // model.config.get_text_config().vocab_size):
        targets = pad_sequence([rows[place] for place in chunk], batch_first=True, padding_value=start)
        targets = targets.to(model.device)
        inputs = F.pad(targets[:, :-1], (1, 0), value=start)
        logits = model(inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits.float()
        losses = F.cross_entropy(logits.mT, targets, reduction="none").cpu()
        nats[chunk] = losses.masked_fill(torch.arange(losses.shape[1]) >= counts[chunk, None], 0).sum(1)
    return nats, counts


def _chunks(lengths: list[int], most: int) -> list[list[int]]:
    """Places of rows that are not empty, the longest first, in groups of at most `most` tokens once padded."""
    chunks: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if lengths[place] == 0:
            break
        if not chunks or (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] > most:
            chunks.append([])
        chunks[-1].append(place)
    return chunks


@dataclass(frozen=True)
class Interrupt:
    """What happens when a row writes a token: ids are computed and put behind it, and writing goes on.

    Attributes:
        token: the id that interrupts.
        compute: gets all ids of the row, its prefix and `token` included, and returns those to put behind them.
    """

    token: int
    compute: Callable[[list[int]], list[int]]


@dataclass(frozen=True)
class Past:
    """What a model has read of N texts, their ends aligned: it can be gone on from more than once.

    Attributes:
        cache: its keys and values.
        mask: [N, T], 1 on real tokens.
    """

    cache: DynamicCache
    mask: Tensor

    def rows(self, rows: Sequence[int]) -> Past:
        """A copy of some rows, each as often as it is named."""
        kept, cache = torch.tensor(rows, dtype=torch.long, device=self.mask.device), self.fork()
        cache.batch_select_indices(kept)
        return Past(cache, self.mask[kept])

    def fork(self) -> DynamicCache:
        """A cache to read on in, which shares keys and values with this one; they are never changed in place."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return cache


@torch.no_grad()
def read(model, prefix_ids: Sequence[list[int]]) -> Past:
    """Read N texts once.

    Args:
        model: a causal language model.
        prefix_ids: N rows of any lengths, none empty.

    Raises:
        ValueError: For an empty row.
        LanguageModelError: As `write` does.
    """
    if not all(prefix_ids):
        raise ValueError("a prefix is empty; begin it with the model's beginning-of-text token")
    (ids, mask), cache = left_padded(prefix_ids, model.device), _cache(model)
    _features(model, {"input_ids": ids}, mask, cache)
    return Past(cache, mask)


def look_ahead(model, past: Past, prompts: Tensor) -> Tensor:
    """Last hidden states [N, K, H] at embeddings [N, K, H] that are read behind a past, which stays as it was."""
    mask = F.pad(past.mask, (0, prompts.shape[1]), value=1)
    embedded = prompts.to(model.get_input_embeddings().weight)
    return _features(model, {"inputs_embeds": embedded}, mask, past.fork())


def _features(model, inputs: dict[str, Tensor], mask: Tensor, cache: DynamicCache) -> Tensor:
    """Last hidden states [N, T', H] of inputs of length T', the last columns of the mask [N, T]."""
    (given,), takes = inputs.values(), inspect.signature(model.base_model.forward).parameters
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
    extra = {"position_ids": positions} if "position_ids" in takes else {}  # BLOOM has positions from the mask
    out = model.base_model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
    return out.last_hidden_state


@torch.no_grad()
def write(
    model, prefix_ids: Sequence[list[int]], streams: Sequence[torch.Generator], max_new_tokens: int,
    top_p: float = 1.0, greedy: bool = False, interrupts: Sequence[Interrupt] = (), lead: Tensor | None = None,
    prompts: Tensor | None = None, past: Past | None = None, until: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue every prefix token by token, up to the model's end-of-text, which is kept.

    Row i is sampled from numbers of its own, one for each token that it chooses: it depends on its prefix and its
    stream, not on the rows beside it. Every step feeds every row one token, what it chose or the next of those that
    an interrupt put there, so that rows stay in step in one cache.

    Args:
        model: a causal language model.
        prefix_ids: N rows of any lengths, none empty unless there is a lead or there are prompts.
        streams: a generator for each row, on any device; greedy writing takes no numbers from them.
        max_new_tokens: of each row, interrupts' tokens among them; nor does a row outgrow the model's context.
        top_p: 1 is ancestral sampling; less, nucleus sampling (Holtzman et al. 2020).
        greedy: take the likeliest token.
        interrupts: heeded where a row chose the token itself, as end-of-text is.
        lead: embeddings [N, K, H] that are read before the prefixes.
        prompts: embeddings [N, K, H] that are read behind them.
        past: what `read` has read of the prefixes, in place of reading them again; only with prompts.
        until: gets the ids that a row has written and says whether it stops there.

    Returns:
        The ids of each row behind its prefix.

    Raises:
        ValueError: For an empty prefix, another number of streams than of rows to be sampled, or a past without
            prompts or with a lead.
        LanguageModelError: For a model whose past is not a cache of keys and values, such as Mamba.
    """
    _check_rows(prefix_ids, None if greedy else streams, lead, prompts, past)
    ends, compute = _ends(model), {one.token: one.compute for one in interrupts}
    beside = sum(given.shape[1] for given in (lead, prompts) if given is not None)
    room = [min(max_new_tokens, context(model) - beside - len(prefix)) for prefix in prefix_ids]
    written: list[list[int]] = [[] for _ in prefix_ids]
    waiting: list[list[int]] = [[] for _ in prefix_ids]  # what an interrupt put there and the row has yet to take
    rows = [row for row, most in enumerate(room) if most > 0]
    first, behind = (None if given is None else given[rows] for given in (lead, prompts))
    inputs, mask, cache = _begun(model, [prefix_ids[row] for row in rows], first, behind,
                                 None if past is None else past.rows(rows))
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, cache.get_seq_length() :]
    takes = inspect.signature(model.forward).parameters  # BLOOM's has positions from the mask
    while rows:
        given = {name: value for name, value in (("position_ids", positions), ("logits_to_keep", 1)) if name in takes}
        out = model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        logits = out.logits[:, -1].float()
        free = [place for place, row in enumerate(rows) if not waiting[row]]
        own = None if greedy else [streams[rows[place]] for place in free]
        chosen = dict(zip(free, choose(logits[free], own, top_p), strict=True))
        for place, row in enumerate(rows):
            token = chosen[place] if place in chosen else waiting[row].pop(0)
            written[row].append(token)
            if (place in chosen and token in ends) or (until is not None and until(written[row])):
                room[row] = 0
            elif place in chosen and token in compute:
                waiting[row] = list(compute[token]([*prefix_ids[row], *written[row]]))
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
        return {"input_ids": ids}, mask, _cache(model)
    words = model.get_input_embeddings()(ids)
    if lead is not None:
        words, mask = led(model, lead, prefix_ids)
    if prompts is not None:
        words, mask = torch.cat([words, prompts.to(words)], 1), F.pad(mask, (0, prompts.shape[1]), value=1)
    return {"inputs_embeds": words}, mask, _cache(model)


def led(model, lead: Tensor, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, K + T, H] of a lead [B, K, H] and B rows of ids behind it, their ends aligned, and their mask."""
    count = lead.shape[1]
    padded, mask = left_padded([[0] * count + list(row) for row in ids], model.device)
    words = model.get_input_embeddings()(padded)
    first = padded.shape[1] - count - torch.tensor([len(row) for row in ids], dtype=torch.long, device=words.device)
    places = first[:, None] + torch.arange(count, device=words.device)
    return words.scatter(1, places[..., None].expand(-1, -1, words.shape[-1]), lead.to(words)), mask


def _cache(model) -> DynamicCache:
    """Where the model keeps what it has read, from which rows that end can be taken out."""
    cache = DynamicCache(config=model.config)
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if recurrent or "past_key_values" not in inspect.signature(model.forward).parameters:
        raise LanguageModelError(
            f"the language model's kind is {model.config.model_type}, whose past is not a cache of keys and values; "
            "take one that can write beside others, e.g. openai-community/gpt2"
        )
    return cache


def _ends(model) -> set[int]:
    """The ids that end a text, as the model's generation settings have them: one, several or none."""
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or [])


def left_padded(ids: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [B, T] with their ends aligned, and their mask [B, T], 1 on real tokens."""
    rows = [torch.tensor(row, dtype=torch.long, device=device) for row in ids]
    if not rows:
        return (torch.zeros(0, 1, dtype=torch.long, device=device),) * 2
    padded = pad_sequence(rows, batch_first=True, padding_side="left")
    return padded, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")


def choose(logits: Tensor, streams: Sequence[torch.Generator] | None, top_p: float) -> list[int]:
    """A token for each row of logits [B, V]: the likeliest without streams, else one of the row's distribution."""
    if streams is None:
        return logits.argmax(-1).tolist()
    if not streams:
        return []
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    below = logits.double().softmax(-1).cumsum(-1)
    below = below / below[:, -1:]  # the last is 1 exactly, above every number drawn
    drawn = [torch.rand(1, generator=one, device=one.device, dtype=torch.float64) for one in streams]
    return torch.searchsorted(below, torch.stack([one.to(below.device) for one in drawn]), right=True)[:, 0].tolist()
