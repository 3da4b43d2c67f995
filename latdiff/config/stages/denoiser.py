"""recipes/train_denoiser.py: the denoising transformer on a codec's latents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from latdiff.config.sections import Number, Section, Times, Whole, headed, stage
from latdiff.errors import shown


class DenoiserConfig(Section):
    """The denoising transformer."""

    width: Whole = Field(256, ge=8, description="model width")
    depth: Whole = Field(6, ge=1, description="blocks")
    heads: Whole = Field(4, ge=1, description="attention heads; must divide width")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("denoiser", self.width, self.heads)


class DiffusionConfig(Section):
    """The noising process and what the network predicts."""

    schedule: str = Field("cosine", description="cosine, or tan-D: cosine with its noise-to-signal ratio times D")
    prediction: Literal["v", "x0"] = Field("v", description="what the network predicts")
    times: Times = Field("stratified", description="distribution of the times t in training: stratified, one in each "
                         "of B equal intervals; uniform; or logit-normal")
    logit_mean: Number = Field(0.0, description="mean of logit(t) of logit-normal times; above 0 there is more "
                               "noise")
    logit_std: Number = Field(1.0, ge=0.01, description="standard deviation of logit(t) of logit-normal times")
    self_conditioning: Number = Field(0.5, ge=0, le=1, description="probability of an estimate as extra input in "
                                      "training")

    def problems(self, recipe) -> Iterator[str]:
        ratio = re.fullmatch(r"cosine|tan-([0-9]{1,4}(\.[0-9]{1,9})?)", self.schedule)
        if not ratio or float(ratio[1] or 1) == 0:
            yield (f"diffusion.schedule: is {shown(self.schedule)}, must be cosine or tan-D, e.g. tan-5, with D above "
                   "0 and below 10,000")


class TrainDenoiserConfig(Section):
    """Its training."""

    steps: Whole = Field(2000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(128, ge=1, description="latents per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    condition_dropout: Number = Field(0.1, ge=0, le=1, description="probability that the condition, if there is one, "
                                      "is left out")
    ema_decay: Number = Field(0.999, ge=0.0, le=1.0, description="largest decay of the averaged weights")
    sample_every: Whole = Field(500, ge=1, description="steps between printed samples")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")


stage(
    "train_denoiser",
    shared=("data", "sampling"),
    builds=("train_{codec}",),
    command="train-diffusion",
    help="train the denoiser, and first what it needs and is missing",
    denoiser=DenoiserConfig,
    diffusion=DiffusionConfig,
    train_denoiser=TrainDenoiserConfig,
)
