"""recipes/train_ar.py: a GPT-2 on the recipe's texts, fluency judge and autoregressive baseline."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, headed, stage


class TrainArConfig(Section):
    """Its sizes and its training."""

    width: Whole = Field(192, ge=8, description="n_embd")
    layers: Whole = Field(4, ge=1, description="blocks")
    heads: Whole = Field(6, ge=1, description="attention heads; must divide width")
    steps: Whole = Field(3000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=1, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    condition_dropout: Number = Field(0.1, ge=0.0, le=1.0, description="share of texts whose class is left out, where "
                                      "there is one")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("train_ar", self.width, self.heads)


stage(
    "train_ar",
    shared=("data", "backbone"),
    help="train a language model of the recipe's texts: a fluency judge and a baseline",
    train_ar=TrainArConfig,
)
