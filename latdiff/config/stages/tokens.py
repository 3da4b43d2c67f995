"""recipes/train_tokens.py: diffusion of the tokens themselves, masked, in blocks, or uniform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, stage


class TokensConfig(Section):
    """The process and the network."""

    process: Literal["masked", "block", "uniform"] = Field("masked", description="what noise does to tokens: masked "
                                                           "hides them; block does, from left to right; uniform turns "
                                                           "them into others")
    block_size: Whole = Field(4, ge=1, description="tokens of a block; must divide data.max_tokens, to which texts are "
                              "filled up")
    width: Whole = Field(256, ge=8, description="hidden size")
    layers: Whole = Field(8, ge=1, description="blocks of the network")
    heads: Whole = Field(4, ge=1, description="attention heads; each needs an even part of the width")
    sampling_steps: Whole = Field(64, ge=1, description="steps of the trained pipeline's sampler")
    top_p: Number = Field(1.0, gt=0, le=1, description="below 1, tokens are drawn from the nucleus")

    def problems(self, recipe) -> Iterator[str]:
        length = recipe.data.max_tokens
        if self.process == "block" and length % self.block_size:
            fits = ", ".join(str(n) for n in range(1, length + 1) if length % n == 0)
            yield (f"tokens.block_size: {self.block_size} does not divide data.max_tokens={length}; set one of {fits}, "
                   "or another data.max_tokens")
        if self.width % (2 * self.heads):
            near = -(-self.width // (2 * self.heads)) * 2 * self.heads
            yield f"tokens.width: {self.width} is not divisible by twice heads={self.heads}; try {near}"
        if recipe.data.condition != "none":
            yield (f"data.condition: is {recipe.data.condition}, but these models are unconditional; set "
                   "data.condition=none")


class TrainTokensConfig(Section):
    """Its training."""

    steps: Whole = Field(3000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=1, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    ema_decay: Number = Field(0.999, ge=0.0, le=1.0, description="largest decay of the averaged weights")
    sample_every: Whole = Field(500, ge=1, description="steps between printed samples")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")


stage(
    "train_tokens",
    shared=("data", "backbone"),
    help="train masked, block or uniform diffusion of the tokens themselves",
    tokens=TokensConfig,
    train_tokens=TrainTokensConfig,
)
