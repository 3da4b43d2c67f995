"""The two frozen models of a sentence codec: an encoder of sentences, and a language model that writes from prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from latdiff.errors import UserError
from latdiff.lm import load_pretrained
from latdiff.models.backbone import fast_attention, keep_tokens_alone


class SentenceModelError(UserError):
    """A sentence encoder or a language model that cannot be used, in one sentence."""


def load_encoder(path: str) -> tuple[Any, PreTrainedModel]:
    """Tokenizer and frozen sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2.

    Raises:
        SentenceModelError: When there is none, and for a model that writes.
    """

    def must_encode(config) -> None:
        kind = (config.architectures or [""])[0]
        if config.is_encoder_decoder or ("LM" in kind and "MaskedLM" not in kind):
            raise SentenceModelError(f"the sentence encoder is {path!r}, a {config.model_type} that writes; take one "
                                     "that only reads, e.g. sentence-transformers/all-MiniLM-L6-v2")

    tokenizer, model = load_pretrained(
        AutoModel, path, lambda reason: SentenceModelError(f"the sentence encoder {path!r} {reason}"),
        prepare=must_encode,
    )
    return tokenizer, model.requires_grad_(False)


def load_writer(path: str) -> tuple[Any, PreTrainedModel]:
    """Tokenizer and frozen causal language model, such as HuggingFaceTB/SmolLM2-135M.

    Raises:
        SentenceModelError: When there is none, and for one that has no token to end a text with.
    """
    tokenizer, model = load_pretrained(
        AutoModelForCausalLM, path, lambda reason: SentenceModelError(f"the language model {path!r} {reason}")
    )
    if tokenizer.eos_token_id is None:
        raise SentenceModelError(f"the language model {path!r} has no end-of-text token, so that no text would end; "
                                 "set its tokenizer's eos_token, or take another")
    keep_tokens_alone(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return tokenizer, fast_attention(model).requires_grad_(False)


def sentence_vectors(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Vectors [B, E] of norm 1 of ids [B, T] with mask [B, T]: the mean of the features (Reimers & Gurevych 2019)."""
    ids, mask = ids.to(model.device), mask.to(model.device)
    features = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    weights = mask[..., None].to(features)
    return F.normalize((features * weights).sum(1) / weights.sum(1), dim=-1)


def writer_features(
    model: PreTrainedModel, prompts: Tensor, ids: Sequence[list[int]], starts: Sequence[list[int]] = ()
) -> Tensor:
    """Features [N, H] that predict N ids, those of all rows one after another.

    Args:
        model: a causal language model.
        prompts: [B, K, H].
        ids: B rows; each id is predicted from the row's prompts, its start and the ids before it, in this order.
        starts: ids of the B rows' starts, which may be empty.
    """
    count, pad_id = prompts.shape[1], 0  # behind a text, where nothing looks
    begun = [len(start) for start in starts] or [0] * len(ids)
    rows = [[*start, *row[:-1]] for start, row in zip(starts or [[]] * len(ids), ids, strict=True)]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], dtype=torch.long,
                          device=model.device)
    embedded = model.get_input_embeddings()(padded)
    features = model.base_model(inputs_embeds=torch.cat([prompts.to(embedded), embedded], 1),
                                use_cache=False).last_hidden_state
    kept = [features[row, begin + count - 1 : begin + count - 1 + len(ids[row])] for row, begin in enumerate(begun)]
    return torch.cat(kept)


def fit_end(features: Tensor, odds: Tensor, ends: Tensor, penalty: float = 1e-3) -> Tensor:
    """What to add to the output embedding of end-of-text so that texts end where they should, [H].

    The likeliest vector, all other weights as they are: a logistic regression with an offset. Low-rank updates of inner
    layers, which serve all tokens alike, raise the odds of a token that a language model hardly ever wrote slowly.

    Args:
        features: that predict N tokens, [N, H].
        odds: logit of end-of-text minus the log-sum-exp of the others', [N].
        ends: whether it is what comes, [N].
        penalty: of the vector's squared length, for features of unit variance.
    """
    features, odds, ends = features.double(), odds.double(), ends.double()
    scale = features.std(0).clamp(min=1e-6)
    weight = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device, requires_grad=True)
    inputs = features / scale
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.binary_cross_entropy_with_logits(odds + inputs @ weight, ends) + penalty * weight.square().sum()
        found.backward()
        return found

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]
    return (weight.detach() / scale).float()


def add_updates(model: PreTrainedModel, rank: int) -> nn.ModuleList:
    """Low-rank updates of all linear layers (LoRA, Hu et al. 2022); returns what is to be trained.

    They are zero, or those that the model came with, whose sum with its weights is undone (`merge_updates`).
    """
    found = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    for part in found:
        part.unmerge()
    if not found:
        model.add_adapter(LoraConfig(r=rank, lora_alpha=max(1, rank // 2), target_modules="all-linear"))
    updates = (part for name, part in model.named_modules() if name.endswith((".lora_A", ".lora_B")))
    return nn.ModuleList(updates).requires_grad_(True)


def merge_updates(model: PreTrainedModel) -> None:
    """Add the low-rank updates to the weights, which makes writing faster."""
    for part in model.modules():
        if isinstance(part, BaseTunerLayer):
            part.merge()
