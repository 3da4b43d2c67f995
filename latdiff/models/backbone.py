"""The frozen encoder-decoder's two halves: text ids to features, features to text ids.

Any transformers encoder-decoder serves (T5, mT5, BART): the model is asked, never its name.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from latdiff.config import DECODING
from latdiff.data.tokens import pad, tokenize
from latdiff.errors import UserError, shown
from latdiff.lm import load_pretrained

TOKENS = tuple(f"{name}_token_id" for name in ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos"))


class BackboneError(UserError):
    """A backbone that cannot be used, in one sentence."""


def load_backbone(path: str, tokenizer: str | None = None, what: str = "") -> tuple[Any, PreTrainedModel]:
    """Tokenizer and frozen encoder-decoder in float32.

    Args:
        path: a folder or a hub id.
        tokenizer: the folder of one that lies elsewhere.
        what: what a message calls it (default: the setting backbone.path).

    Raises:
        BackboneError: When there is none, when files are missing or cut short, and for a model of another kind.
    """
    what = what or f"backbone.path is {path!r}"
    if not Path(path).is_dir() and (path.count("/") != 1 or path.startswith((".", "checkpoints/"))):
        raise BackboneError(
            f"{what}: no such folder. Train one with `latdiff pretrain-backbone`, "
            "or name a hub id such as google/flan-t5-base."
        )

    def must_have_halves(config) -> None:
        if not config.is_encoder_decoder:
            raise BackboneError(
                f"{what}, a {config.model_type} without encoder and decoder; "
                "take a T5, mT5 or BART, e.g. google/flan-t5-base."
            )
        if getattr(config, "decoder_start_token_id", None) is None:  # T5's own, where it is made from T5Config()
            config.decoder_start_token_id = config.pad_token_id
        if config.decoder_start_token_id is None:
            raise BackboneError(f"{what}, whose config.json names no token that the decoder begins with; add "
                                '"decoder_start_token_id": N to it, for T5 that of the padding')

    read, model = load_pretrained(
        AutoModelForSeq2SeqLM, path, lambda reason: BackboneError(f"{what}, which {reason}"), tokenizer,
        must_have_halves,
    )
    if model.generation_config.decoder_start_token_id is None:
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id
    _check_tokens(model, what)
    keep_tokens_alone(model)
    return read, fast_attention(model).requires_grad_(False)


def refuse_unreadable(model: PreTrainedModel, max_tokens: int) -> None:
    """Raises BackboneError for more tokens than a model with learned positions, such as BART, has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)  # relative ones, as T5's, have no end
    if positions is not None and max_tokens > positions:
        raise BackboneError(
            f"autoencoder.max_tokens is {max_tokens}, but the backbone, a {model.config.model_type}, has no more than "
            f"{positions} positions; set autoencoder.max_tokens={positions} or less, data.max_tokens likewise"
        )


def _check_tokens(model: PreTrainedModel, what: str) -> None:
    """Raise BackboneError for an id of no token among those that the model writes with."""
    most = model.get_input_embeddings().num_embeddings
    for name in TOKENS:
        value = getattr(model.generation_config, name, None)
        ids = value if name == "eos_token_id" and isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is int and 0 <= one < most for one in ids):
            raise BackboneError(f"{what}, whose generation_config.json or config.json has {name} {shown(value)}, must "
                                f"be the id of a token, a whole number below {most:,}; correct it, or copy the model "
                                "again")


def keep_tokens_alone(model: PreTrainedModel) -> None:
    """Leave nothing of a model's own settings of `generate` but the ids of tokens.

    Its generation_config.json may come from anyone, and stop a text early, mark it, or have several of each written.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in TOKENS})


def fast_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Plain attention on a CPU, where SDPA's backward is slow for short texts; torch's SDPA on a GPU."""
    model.set_attn_implementation("sdpa" if torch.cuda.is_available() else "eager")
    return model


def encode_features(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Encoder features [B, T, H] of ids [B, T] with mask [B, T]."""
    _onto_its_device(model)
    ids, mask = ids.to(model.device), mask.to(model.device).long()
    return model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state


def decoder_logits(model: PreTrainedModel, features: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Teacher-forced logits [B, T, V] for labels [B, T], the decoder reading features [B, L, H] where mask [B, L]."""
    mask = features.new_ones(features.shape[:2], dtype=torch.long) if mask is None else mask.long()
    outputs = BaseModelOutput(last_hidden_state=features)
    inputs = model.prepare_decoder_input_ids_from_labels(labels)  # not `labels=`: that computes the loss once more
    return model(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits


def generate_ids(
    model: PreTrainedModel, features: Tensor, max_new_tokens: int, mask: Tensor | None = None, **options
) -> Tensor:
    """Ids [B, T'] that the decoder writes from features [B, L, H] where mask [B, L], its start token first.

    Greedily, whatever the model's configuration says of beams and penalties (and `load_backbone` keeps no more of it
    than ids of tokens); options of transformers' `generate` change
    that. Token ids that it forces stay forced.
    """
    _onto_its_device(model)
    features = features.to(model.device, model.dtype)
    mask = torch.ones(features.shape[:2]) if mask is None else mask
    mask = mask.to(features.device, torch.long)
    outputs = BaseModelOutput(last_hidden_state=features)
    options = DECODING["greedy"] | options
    return model.generate(encoder_outputs=outputs, attention_mask=mask, max_new_tokens=max_new_tokens, **options)


@torch.no_grad()
def copied_share(model: PreTrainedModel, tokenizer, texts: list[str]) -> float:
    """Share of texts that the model by itself writes again, character by character, from all features of its encoder.

    Greedily, and all texts at once: give a few dozen.
    """
    ids, mask = pad(tokenize(tokenizer, texts), tokenizer.pad_token_id)
    written = generate_ids(model, encode_features(model, ids, mask), ids.shape[1], mask)
    copies = tokenizer.batch_decode(written, skip_special_tokens=True)
    return sum(map(operator.eq, copies, texts)) / len(texts)


def _onto_its_device(model: PreTrainedModel) -> None:
    # a hook of accelerate's, such as an offloaded model has, sees `forward` alone, and neither half is called by that
    if hasattr(model, "_hf_hook"):
        model._hf_hook.pre_forward(model)
