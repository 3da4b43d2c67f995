"""One transformer for masked, block and causal language models: what a position may read is given with the ids."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, LlamaConfig, LlamaForCausalLM

from latdiff.errors import UserError


def token_model(vocab_size: int, width: int = 256, layers: int = 8, heads: int = 4, context: int = 128,
                ) -> LlamaForCausalLM:
    """A network with random weights over V tokens and, in the row behind them, the mask.

    It has rotary positions, tied embeddings and no dropout, and does not see the time of a diffusion: the optimal
    predictor of a masked token does not depend on it (Sahoo et al. 2024). 256 x 8 is 6.8 M weights for 1,800 tokens.

    Args:
        vocab_size: V.
        width: of the hidden states.
        layers: how many.
        heads: of attention, in each layer.
        context: the most tokens of a text.

    Raises:
        UserError: For a width that cannot be shared out among the heads in even parts, which rotary positions need.
    """
    if width % (2 * heads):
        raise UserError(f"width is {width} for {heads} heads, each of which needs an even part; set a width that "
                        f"{2 * heads} divides, such as {-(-width // (2 * heads)) * 2 * heads}")
    hidden = -(-8 * width // 24) * 8  # gated, so that it has the weights of one of 4 x width that is not
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocab_size + 1, hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=context, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    ))


def mask_id_of(model: LlamaForCausalLM) -> int:
    """The id of the mask, the last row of a `token_model`."""
    return model.config.vocab_size - 1


def token_logits(model: LlamaForCausalLM, ids: Tensor, allowed: Tensor, positions: Tensor | None = None,
                 cache: Cache | None = None, last: int = 0) -> Tensor:
    """Logits [B, L, V] of the tokens, without the mask's.

    Args:
        model: a `token_model`.
        ids: [B, L], with the mask where a token is hidden.
        allowed: bool [L, T] or [B, L, T], which of the T = L positions, and before them those of the cache, each
            position reads; at least one each.
        positions: [L] in the text; by default those behind the cache's.
        cache: keys and values of what was read before, to which those of these ids are added.
        last: the logits of so many last positions alone, [B, last, V]; 0 for all.
    """
    # added, not a mask of bools, which eager attention would add as it is
    barred = torch.zeros(allowed.shape, dtype=model.dtype, device=ids.device)
    barred = barred.masked_fill(~allowed.to(ids.device), torch.finfo(model.dtype).min)
    places = None if positions is None else positions.to(ids.device)[None]
    out = model(ids, attention_mask=barred.reshape(-1, 1, *allowed.shape[-2:]), position_ids=places,
                past_key_values=cache, use_cache=cache is not None, logits_to_keep=last)
    return out.logits[..., : mask_id_of(model)]
