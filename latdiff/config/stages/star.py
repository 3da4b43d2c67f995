"""recipes/train_star.py: a language model that stops to think of a plan and writes on."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, headed, stage


class StarConfig(Section):
    """The language model, the codec of its plans, and the two networks between them."""

    language_model: str = Field("checkpoints/storyworld-ar", description="the causal language model to begin "
                                "with, such as `latdiff train-ar` writes: a folder, a hub id, or a name that `latdiff "
                                "fetch` knows")
    plan: str = Field("checkpoints/storyworld", description="a checkpoint whose codec's latents are the plans")
    num_prompts: Whole = Field(8, ge=1, description="K, soft prompts that the language model reads a plan as")
    width: Whole = Field(256, ge=8, description="of both networks")
    depth: Whole = Field(2, ge=1, description="blocks in each")
    heads: Whole = Field(4, ge=1, description="attention heads; must divide width")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("star", self.width, self.heads)


class TrainStarConfig(Section):
    """Its training."""

    steps: Whole = Field(3000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=1, description="cut texts per step")
    learning_rate: Number = Field(1e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    splits: Whole = Field(4, ge=1, description="places at which each text is cut")
    plan_weight: Number = Field(5.0, ge=0.0, description="of the plan's error, beside the nats a token")
    condition_dropout: Number = Field(0.1, ge=0.0, le=1.0, description="probability that a plan is estimated without "
                                      "the text before it")
    ema_decay: Number = Field(0.999, ge=0.0, le=1.0, description="largest decay of the averaged weights")
    sample_every: Whole = Field(500, ge=1, description="steps between printed texts")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")


stage(
    "train_star",
    shared=("data", "sampling"),
    help="train a language model to think of a plan before it writes on",
    star=StarConfig,
    train_star=TrainStarConfig,
)
