"""What has a causal language model read? Embeddings in place of words, pasts that are gone on from more than once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from latdiff.lm.loading import LanguageModelError


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
    (ids, mask), cache = left_padded(prefix_ids, model.device), empty_cache(model)
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


def led(model, lead: Tensor, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, K + T, H] of a lead [B, K, H] and B rows of ids behind it, their ends aligned, and their mask."""
    count = lead.shape[1]
    padded, mask = left_padded([[0] * count + list(row) for row in ids], model.device)
    words = model.get_input_embeddings()(padded)
    first = padded.shape[1] - count - torch.tensor([len(row) for row in ids], dtype=torch.long, device=words.device)
    places = first[:, None] + torch.arange(count, device=words.device)
    return words.scatter(1, places[..., None].expand(-1, -1, words.shape[-1]), lead.to(words)), mask


def left_padded(ids: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [B, T] with their ends aligned, and their mask [B, T], 1 on real tokens."""
    rows = [torch.tensor(row, dtype=torch.long, device=device) for row in ids]
    if not rows:
        return (torch.zeros(0, 1, dtype=torch.long, device=device),) * 2
    padded = pad_sequence(rows, batch_first=True, padding_side="left")
    return padded, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")


def empty_cache(model) -> DynamicCache:
    """Where the model keeps what it has read, from which rows that end can be taken out."""
    cache = DynamicCache(config=model.config)
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if recurrent or "past_key_values" not in inspect.signature(model.forward).parameters:
        raise LanguageModelError(
            f"the language model's kind is {model.config.model_type}, whose past is not a cache of keys and values; "
            "take one that can write beside others, e.g. openai-community/gpt2"
        )
    return cache
