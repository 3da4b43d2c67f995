"""What a denoiser is conditioned on beside the noise level: a class, a source text, or nothing.

Both kinds are used alike: `cond[rows]` takes rows of the batch, `cond.without(rows)` drops the condition of those rows,
which is how classifier-free guidance learns, and asks for, the unconditional model (Ho & Salimans 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Condition(Protocol):
    """A condition for each of B texts."""

    def __getitem__(self, rows) -> Condition:
        """Those of some rows: an index, a list or a tensor of them, a slice."""

    def without(self, rows: Tensor) -> Condition:
        """The same without a condition where rows [B] is True."""


@dataclass(frozen=True)
class Labels:
    """A class for each text.

    Attributes:
        index: [B], 0 where there is no condition, else 1 + the class.
    """

    index: Tensor

    @classmethod
    def of(cls, labels: Sequence[str], classes: list[str]) -> Labels:
        """Of labels [B], all of which are among the classes [C]."""
        order = {label: 1 + i for i, label in enumerate(classes)}
        return cls(torch.tensor([order[label] for label in labels]))

    def __getitem__(self, rows) -> Labels:
        return Labels(self.index[rows])

    def without(self, rows: Tensor) -> Labels:
        return Labels(self.index.masked_fill(rows.to(self.index.device), 0))

    def to(self, device) -> Labels:
        return Labels(self.index.to(device))


@dataclass(frozen=True)
class Source:
    """A source text for each text.

    Attributes:
        features: the frozen encoder's, [B, T, H].
        mask: [B, T], True where there is text.
    """

    features: Tensor
    mask: Tensor

    def __getitem__(self, rows) -> Source:
        return Source(self.features[rows], self.mask[rows])

    def without(self, rows: Tensor) -> Source:
        return Source(self.features, self.mask & ~rows.to(self.mask.device)[:, None])
