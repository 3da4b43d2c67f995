"""One transformer for masked, block and causal language models: what a position may read is given with the ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, LlamaConfig, LlamaForCausalLM

from latdiff.errors import UserError


def token_model(vocab_size: int, width: int = 256, layers: int = 8, heads: int = 4, context: int = 128,
                ) -> LlamaForCausalLM:
    """A network with random weights over V tokens and, in the two rows behind them, the mask and a start.

    The start is read before every text: rotary positions say no more than how far apart tokens are, by which all
    places of a text of masks alone are the same. The network does not see the time of a diffusion, for the optimal
    predictor of a masked token does not depend on it (Sahoo et al. 2024). Embeddings are tied, and there is no dropout;
    256 x 8 is 6.8 M weights for 1,800 tokens.

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
        vocab_size=vocab_size + 2, hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=context + 1, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, initializer_range=width**-0.5,  # .02 is for wide ones
    ))


def mask_id_of(model: LlamaForCausalLM) -> int:
    """The id of the mask of a `token_model`, V."""
    return model.config.vocab_size - 2


def token_logits(model: LlamaForCausalLM, ids: Tensor, allowed: Tensor, positions: Tensor | None = None,
                 cache: Cache | None = None, last: int = 0) -> Tensor:
    """Logits [B, L, V] of the tokens alone, of ids that are read behind the start.

    Args:
        model: a `token_model`.
        ids: [B, L], with the mask where a token is hidden.
        allowed: bool [L, T] or [B, L, T], which of the T = L positions, and before them those of the cache, each
            position reads; all read the start as well.
        positions: [L] in the text, without a cache; by default 0 to L - 1.
        cache: keys and values of what was read before, to which those of these ids are added, and of the start.
        last: the logits of so many last positions alone, [B, last, V]; 0 for all.
    """
    length, allowed = ids.shape[1], F.pad(allowed.to(ids.device), (1, 0), value=True)
    if cache is None or not cache.get_seq_length():
        ids = F.pad(ids, (1, 0), value=mask_id_of(model) + 1)
        allowed = F.pad(allowed, (0, 0, 1, 0), value=False)
        allowed[..., 0, 0] = True
    # added, not a mask of bools, which eager attention would add as it is
    barred = torch.zeros(allowed.shape, dtype=model.dtype, device=ids.device)
    barred = barred.masked_fill(~allowed, torch.finfo(model.dtype).min).reshape(-1, 1, *allowed.shape[-2:])
    places = None if positions is None else F.pad(positions.to(ids.device) + 1, (1, 0))[None]
    out = model(ids, attention_mask=barred, position_ids=places, past_key_values=cache, use_cache=cache is not None,
                logits_to_keep=last or length)
    return out.logits[..., : mask_id_of(model)]
