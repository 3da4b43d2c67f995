"""recipes/distill.py: a trained denoiser distilled into one that needs few calls."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, stage


class DistillConfig(Section):
    """Which pipeline is distilled, and how; `sampling.steps` are the calls that it is distilled to."""

    teacher: str = Field("storyworld", description="the finished pipeline: a folder, a hub id, or the name of one that "
                         "comes with latdiff")
    levels: Whole = Field(64, ge=1, le=1000, description="steps that the teacher takes from noise to text; a multiple "
                          "of sampling.steps")
    starts: Number = Field(0.5, ge=0, le=1, description="share of the latents that are trained at a level at which "
                           "sampling calls the denoiser")
    steps: Whole = Field(2000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(128, ge=1, description="latents per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    ema_decay: Number = Field(0.99, ge=0.0, le=1.0, description="largest decay of the averaged weights")
    sample_every: Whole = Field(500, ge=1, description="steps between printed samples")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")

    def problems(self, recipe) -> Iterator[str]:
        if "distill" in recipe.stages:
            yield from self.conflicts(recipe)

    def conflicts(self, recipe) -> Iterator[str]:
        """What does not go together with the sampler of a recipe that is to be distilled, a sentence each."""
        calls = recipe.sampling.steps
        if recipe.sampling.scheduler != "ddim":
            yield (f"sampling.scheduler: is {recipe.sampling.scheduler}, but what is distilled is sampled with ddim; "
                   "set sampling.scheduler=ddim")
        if self.levels % calls:
            near = max(1, round(self.levels / calls)) * calls
            yield f"distill.levels: {self.levels} is not a multiple of sampling.steps={calls}; try {near}"


stage(
    "distill",
    shared=("data", "sampling"),
    help="distill a finished pipeline's denoiser into one of few calls",
    distill=DistillConfig,
)
