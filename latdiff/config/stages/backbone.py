"""recipes/pretrain_backbone.py: a small T5 on the recipe's texts, where no pretrained one fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator

from latdiff.config.reading import BUNDLED, is_file
from latdiff.config.sections import Number, Rates, Section, Whole, headed, stage

if TYPE_CHECKING:
    from latdiff.config.recipe import Recipe


class BackboneConfig(Section):
    """The frozen encoder-decoder."""

    path: str = Field("", description="a folder, or a hub id such as google/flan-t5-base; empty: t5-mini, which comes "
                      "with latdiff and has read nothing but storyworld, for storyworld, and for other texts "
                      "checkpoints/NAME-t5, which the first run that needs it pretrains on them")

    @field_validator("path")
    @classmethod
    def _bundled(cls, path: str) -> str:
        name = path.removeprefix("checkpoints/pretrained/")  # as older recipes name one
        return name if is_file(BUNDLED / name / "config.json") else path

    def filled(self, recipe: Recipe) -> Self:
        own = "t5-mini" if recipe.data.source == "storyworld" else f"checkpoints/{recipe.name}-t5"
        return self if self.path else self.model_copy(update={"path": own})


class PretrainBackboneConfig(Section):
    """Its sizes and its training."""

    vocab_size: Whole = Field(2000, ge=64, description="sentencepiece pieces before the sentinels")
    width: Whole = Field(128, ge=8, description="d_model")
    ff_width: Whole = Field(384, ge=8, description="inner width of the gated feed-forward")
    layers: Whole = Field(3, ge=1, description="encoder layers, and as many decoder layers")
    heads: Whole = Field(4, ge=1, description="attention heads; must divide width")
    steps: Whole = Field(3000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=1, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    mask_rates: Rates = Field((0.0, 0.15, 0.3, 0.5), description="shares of tokens masked, one at random for each "
                             "batch")
    feature_noise: Number = Field(0.0, ge=0.0, description="largest Gaussian noise on the encoder's features in "
                                  "training")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("pretrain_backbone", self.width, self.heads)


stage(
    "pretrain_backbone",
    shared=("data",),
    help="train a small T5 on the recipe's texts",
    backbone=BackboneConfig,
    pretrain_backbone=PretrainBackboneConfig,
)
