"""recipes/train_autoencoder.py: the codec of a frozen encoder-decoder and a Perceiver around it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import (
    DECODING,
    Normalisation,
    Number,
    Rates,
    Section,
    Whole,
    codec_problems,
    headed,
    stage,
)


class AutoencoderConfig(Section):
    """The compressor to L latents of width D and the reconstructor."""

    path: str = Field("", description="a checkpoint whose backbone and autoencoder are taken as they are; empty: "
                      "train one")
    num_latents: Whole = Field(16, ge=1, description="L")
    latent_dim: Whole = Field(32, ge=1, description="D")
    width: Whole = Field(128, ge=8, description="inner width of both transformers")
    depth: Whole = Field(2, ge=1, description="blocks in each")
    heads: Whole = Field(4, ge=1, description="attention heads; must divide width")
    max_tokens: Whole = Field(128, ge=4, description="positions of the compressor")
    normalisation: Normalisation = Field("whitening", description="zero mean and unit variance of every number, or "
                                         "l2: every latent has norm √D (LD4LG for BART)")
    assumed_noise: Number = Field(0.0, ge=0.0, description="sd of the latent noise that the reconstructor, which is "
                                  "then conditioned on it in training, assumes in decoding; 0: it is not conditioned")

    def problems(self, recipe) -> Iterator[str]:
        yield from headed("autoencoder", self.width, self.heads)
        if recipe.codec == "autoencoder":
            yield from codec_problems(recipe, "autoencoder", tuple(DECODING), "train_autoencoder")


class TrainAutoencoderConfig(Section):
    """Its training."""

    steps: Whole = Field(2000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(64, ge=2, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="Muon's peak rate for the matrices")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    mask_rates: Rates = Field((0.0,), description="shares of tokens masked in the encoder's input, one at random "
                             "for each text")
    latent_noise: Number = Field(0.7, ge=0.0, description="latents get Gaussian noise in training, of sd ~ U(0, this)")
    latent_dropout: Number = Field(0.0, ge=0.0, le=0.9, description="share of latent values set to zero in "
                                   "training")
    sample_every: Whole = Field(500, ge=1, description="steps between printed reconstructions")
    save_every: Whole = Field(500, ge=1, description="steps between resume states")


stage(
    "train_autoencoder",
    shared=("data", "backbone", "sampling"),
    builds=("pretrain_backbone",),
    codec=True,
    command="train-ae",
    help="train the autoencoder; the same command resumes",
    autoencoder=AutoencoderConfig,
    train_autoencoder=TrainAutoencoderConfig,
)
