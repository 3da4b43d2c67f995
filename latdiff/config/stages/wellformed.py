"""recipes/train_wellformed.py: a judge of well-formed English, beside which perplexity need not stand alone."""

from __future__ import annotations

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, stage


class TrainWellformedConfig(Section):
    """Its encoder and its training."""

    encoder: str = Field("all-minilm-l6-v2", description="the text encoder that is fine-tuned: a name that `latdiff "
                         "fetch` knows, a folder, or a hub id; not the model that writes")
    judged_source: str = Field("", description="texts that people judged: a file with the columns text and label")
    judged_as_good: str = Field("acceptable", description="their label of well-formed ones")
    texts: Whole = Field(8000, ge=10, description="of the recipe's texts, at most, each with a spoilt one")
    max_tokens: Whole = Field(48, ge=4, description="of a text; what is behind them is not read")
    steps: Whole = Field(800, ge=1, description="optimiser steps")
    batch_size: Whole = Field(32, ge=2, description="texts per step")
    learning_rate: Number = Field(1e-4, ge=0.0, description="AdamW's peak rate")


stage(
    "train_wellformed",
    shared=("data",),
    help="train a judge that tells well-formed texts from spoilt ones",
    train_wellformed=TrainWellformedConfig,
)
