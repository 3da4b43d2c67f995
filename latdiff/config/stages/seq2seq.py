"""recipes/train_seq2seq.py: the backbone fine-tuned on pairs, the baseline for text-conditional models."""

from __future__ import annotations

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, stage


class TrainSeq2seqConfig(Section):
    """Its training."""

    steps: Whole = Field(3000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=1, description="pairs per step")
    learning_rate: Number = Field(1e-3, ge=0.0, description="Muon's peak rate for the matrices")


stage(
    "train_seq2seq",
    shared=("data", "backbone", "autoencoder", "sampling"),
    help="fine-tune the backbone on the recipe's pairs: a conditional baseline",
    train_seq2seq=TrainSeq2seqConfig,
)
