"""Which rows does each step of a training take, and which random numbers are its own?"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import torch

from latdiff.errors import UserError


class BatchOrder:
    """Which rows each step trains on, a function of (seed, step) alone, so that a resumed run replays.

    Every epoch is a fresh permutation. With `lengths`, rows of similar length share a batch (little
    padding), sorted within pools of 32 batches whose order is shuffled again. Raises UserError for no rows.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: Sequence[int] | None = None):
        if not rows:
            raise UserError("there is nothing to train on: no text, or pair, is short enough; raise data.max_tokens, "
                            "and for the sources of pairs autoencoder.max_tokens")
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self.seed, self.lengths = seed, lengths
        self.epoch = -1
        self.order, self.starts = array("q"), array("q")  # of rows, and where in it each batch begins

    def __getitem__(self, step: int) -> list[int]:
        per_epoch = self.rows // self.batch_size
        epoch, position = divmod(step, per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self._shuffle(random.Random(f"{self.seed}/{epoch}"))
        start = self.starts[position]
        return self.order[start : start + self.batch_size].tolist()

    def _shuffle(self, rng: random.Random) -> None:
        order, size = array("q", range(self.rows)), self.batch_size
        rng.shuffle(order)
        if self.lengths is not None:
            pool = 32 * size
            for i in range(0, len(order), pool):
                order[i : i + pool] = array("q", sorted(order[i : i + pool], key=self.lengths.__getitem__))
        self.order, self.starts = order, array("q", range(0, len(order) - size + 1, size))
        rng.shuffle(self.starts)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The step's own random numbers: the same whether or not the run was resumed before it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
