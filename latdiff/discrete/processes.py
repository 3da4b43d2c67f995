"""The discrete diffusions by name: how one network learns each of them, how likely texts are to it, how it writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from latdiff.discrete.blocks import block_predictor, write_blocks
from latdiff.discrete.bounds import Bound, estimated_bound, exact_bound
from latdiff.discrete.masked import check_block, masked_loss, masked_predictor
from latdiff.discrete.reverse import uniform_kernel, walk
from latdiff.discrete.sampling import Sampled, ancestral, confidence, first_hitting
from latdiff.discrete.uniform import Predictor as UniformPredictor
from latdiff.discrete.uniform import bound as uniform_bound
from latdiff.discrete.uniform import loss as uniform_loss
from latdiff.discrete.uniform import numbers_of
from latdiff.errors import UserError, nearest
from latdiff.models.token_model import mask_id_of, token_logits

ORDERS = ("ancestral", "first-hitting", "confidence")  # in which masked diffusion writes


class Process(Protocol):
    """What noise does to texts of L tokens, and back.

    Attributes:
        fills: whether it writes between tokens that are given.
        exact: whether its bound is the probability itself.
    """

    fills: bool = False
    exact: bool = False

    @abstractmethod
    def loss(self, model: LlamaForCausalLM, ids: Tensor, generator) -> Tensor:
        """Nats a token of texts [B, L], a scalar with a gradient; see `masked_loss`."""

    @abstractmethod
    def bound(self, model: LlamaForCausalLM, ids: Tensor, streams: Sequence[torch.Generator], draws: int) -> Bound:
        """Upper bounds on -log p of texts [B, L], a generator for each; see `estimated_bound`."""

    @abstractmethod
    def write(self, model: LlamaForCausalLM, ids: Tensor, steps: int, streams: Sequence[torch.Generator],
              top_p: float = 1.0, order: str = ORDERS[0]) -> Sampled:
        """Write what is masked of texts [B, L] in so many steps.

        Raises:
            UserError: For steps, top_p or an order that the process does not have.
        """


@dataclass(frozen=True)
class Masked(Process):
    """Masked diffusion (Sahoo et al. 2024): tokens are hidden, and written in any order."""

    fills = True

    def loss(self, model, ids, generator):
        return masked_loss(masked_predictor(model), ids, mask_id_of(model), generator)

    def bound(self, model, ids, streams, draws):
        return estimated_bound(masked_predictor(model), ids, mask_id_of(model), streams, draws)

    def write(self, model, ids, steps, streams, top_p=1.0, order=ORDERS[0]):
        predictor, mask_id = masked_predictor(model), mask_id_of(model)
        if order == "first-hitting":
            return first_hitting(predictor, ids, mask_id, streams, top_p)
        if order == "confidence":
            return confidence(predictor, ids, mask_id, steps, streams, top_p=top_p)
        check_order(order, ORDERS)
        return ancestral(predictor, ids, mask_id, steps, streams, top_p)


@dataclass(frozen=True)
class Blocks(Process):
    """Block diffusion (Arriola et al. 2025): masked diffusion of each block of a text, from left to right.

    Attributes:
        size: tokens of a block, L'; 1 makes a language model.
        end_id: the token behind which a text holds nothing else.
    """

    size: int
    end_id: int

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return self.size == 1

    def loss(self, model, ids, generator):
        return masked_loss(block_predictor(model, ids, self.size), ids, mask_id_of(model), generator, self.size)

    def bound(self, model, ids, streams, draws):
        predictor, mask_id = block_predictor(model, ids, self.size), mask_id_of(model)
        if 2**self.size <= draws:  # all that can be hidden of a block takes fewer calls
            return exact_bound(predictor, ids, mask_id, self.size)
        return estimated_bound(predictor, ids, mask_id, streams, draws, self.size)

    def write(self, model, ids, steps, streams, top_p=1.0, order="first-hitting"):
        check_order(order, ORDERS[:2])
        own = None if order == "first-hitting" else -(-steps * self.size // check_block(ids.shape[1], None))
        return write_blocks(model, ids, self.size, streams, own, top_p, self.end_id)


@dataclass(frozen=True)
class Uniform(Process):
    """Uniform diffusion (Schiff et al. 2024): tokens turn into any others, and may be revised on the way back."""

    def loss(self, model, ids, generator):
        return uniform_loss(_of_noise(model), ids, mask_id_of(model), generator)

    def bound(self, model, ids, streams, draws):
        return Bound(*uniform_bound(_of_noise(model), ids, mask_id_of(model), streams, draws))

    def write(self, model, ids, steps, streams, top_p=1.0, order=ORDERS[0]):
        check_order(order, ORDERS[:1])
        if top_p != 1:
            raise UserError(f"top_p is {top_p:g}, but uniform diffusion draws from the whole distribution, as it may "
                            "mend a rare token later; leave it out")
        start = numbers_of(streams, len(ids), 1, ids.shape[1])[:, 0] * mask_id_of(model)
        texts = walk(uniform_kernel(_of_noise(model)), start.long().to(ids.device), steps, streams)
        return Sampled(texts, torch.full((len(ids),), steps, device=ids.device))


def _of_noise(model: LlamaForCausalLM) -> UniformPredictor:
    """The network sees the level of noise in the text alone."""

    def predict(ids: Tensor, alpha: Tensor) -> Tensor:
        everything = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool)
        return token_logits(model, ids, everything).float().log_softmax(-1)

    return predict


def check_order(order: str, known: Sequence[str]) -> None:
    """Raise UserError for an order that a process does not write in."""
    if order not in known:
        raise UserError(f"order is {order!r}, must be {' or '.join(known)} here{nearest(order, known)}")
