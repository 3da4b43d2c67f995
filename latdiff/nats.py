"""How likely are texts to a model, exactly or at least? What every model with a likelihood answers in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Nats:
    """Log-probabilities of B texts.

    Attributes:
        values: in nats, end-of-text included, [B]: below 0, or NaN for a text that the model cannot read.
        kind: "exact", or "bound" where the probability is at least that, such as an evidence lower bound.
        standard_errors: of each value [B], where it is an estimate by sampling, as a bound over noise levels is. The
            estimates are independent of each other.
    """

    values: Tensor
    kind: Literal["exact", "bound"]
    standard_errors: Tensor | None = None
