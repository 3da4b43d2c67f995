"""recipes/train_perceiver.py: the Perceiver codec of a frozen encoder and a frozen language model."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, headed, stage
from latdiff.config.writing import TrainWritingConfig, WritingConfig


class PerceiverConfig(WritingConfig):
    """The Perceiver codec: features of a text's tokens as L latents of width D, which draft it for a language model."""

    num_latents: Whole = Field(24, ge=1, description="L, and as many soft prompts; latent i drafts token i")
    latent_dim: Whole = Field(16, ge=1, description="D")
    width: Whole = Field(256, ge=8, description="inner width of compressor and reconstructor")
    depth: Whole = Field(2, ge=1, description="blocks in each")
    heads: Whole = Field(4, ge=1, description="attention heads; must divide width")
    max_tokens: Whole = Field(24, ge=4, description="of a text, in the language model's tokens, end-of-text included")
    assumed_noise: Number = Field(0.2, gt=0.0, description="sd of the latent noise that is assumed in decoding; a "
                                  "codec that is taken and not fine-tuned keeps its own")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("perceiver", self.width, self.heads)
        if recipe.codec != "perceiver":
            return
        if recipe.data.condition in ("start", "text", "prefix"):
            yield (f"data.condition: is {recipe.data.condition!r}, but the Perceiver codec reads no source texts; set "
                   "none or label, or codec=sentence")
        yield from self.writing_problems(recipe, "perceiver", "train_drafts", "train_perceiver")


class TrainDraftsConfig(Section):
    """Its first training, of compressor and reconstructor without the language model."""

    steps: Whole = Field(4000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=2, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    latent_noise: Number = Field(0.7, ge=0.0, description="half of the latents get Gaussian noise in training, of sd ~ "
                                 "U(0, this)")
    sample_every: Whole = Field(500, ge=1, description="steps between printed drafts")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")


class TrainPerceiverConfig(TrainWritingConfig):
    """Its second training, of reconstructor and low-rank updates, by what the language model writes."""

    steps: Whole = Field(500, ge=1, description="optimiser steps")
    batch_size: Whole = Field(16, ge=2, description="texts per step")


stage(
    "train_perceiver",
    shared=("data", "sampling"),
    codec=True,
    help="train the Perceiver codec of a frozen language model",
    perceiver=PerceiverConfig,
    train_drafts=TrainDraftsConfig,
    train_perceiver=TrainPerceiverConfig,
)
