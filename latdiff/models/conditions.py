"""What the denoiser is told beside the noise level: a class, a source text, or nothing.

Both kinds are used alike: `cond[rows]` takes rows of the batch, `cond.without(rows)` tells those rows nothing, which
is how classifier-free guidance learns the unconditional model (Ho & Salimans 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """A class for each text: index [B], 0 where nothing is told, else 1 + the class."""

    index: Tensor

    @classmethod
    def of(cls, labels: list[str], classes: list[str]) -> Labels:
        """Of labels [B], all of which are among the classes [C]."""
        order = {label: 1 + i for i, label in enumerate(classes)}
        return cls(torch.tensor([order[label] for label in labels]))

    def __getitem__(self, rows) -> Labels:
        return Labels(self.index[rows])

    def without(self, rows: Tensor) -> Labels:
        """Tell nothing where rows [B] is True."""
        return Labels(self.index.masked_fill(rows.to(self.index.device), 0))

    def to(self, device) -> Labels:
        return Labels(self.index.to(device))


@dataclass(frozen=True)
class Source:
    """A source text for each text: the frozen encoder's features [B, T, H], mask [B, T] True where there is text."""

    features: Tensor
    mask: Tensor

    def __getitem__(self, rows) -> Source:
        return Source(self.features[rows], self.mask[rows])

    def without(self, rows: Tensor) -> Source:
        """Tell nothing where rows [B] is True."""
        return Source(self.features, self.mask & ~rows.to(self.mask.device)[:, None])
