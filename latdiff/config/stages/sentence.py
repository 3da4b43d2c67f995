"""recipes/train_sentence.py: the codec of a frozen sentence encoder and a frozen language model."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, codec_problems, stage

PRESETS = ("sampled", "careful", "greedy", "beam")  # ways to write a text


class SentenceConfig(Section):
    """The sentence codec: a text's vector as L latents of width D, read by a language model as K soft prompts."""

    path: str = Field("", description="a checkpoint whose sentence codec is taken, which learns where these "
                      "texts end; empty: train one")
    finetune: bool = Field(False, description="whether the codec of `path` is fine-tuned on these texts, with "
                           "the settings of train_sentence; its latents stay what they are")
    language_model: str = Field("smollm2-135m-instruct", description="the frozen causal language model: a name that "
                                "`latdiff fetch` knows, a folder, or a hub id such as HuggingFaceTB/SmolLM2-135M")
    encoder: str = Field("all-minilm-l6-v2", description="the frozen sentence encoder, likewise; a hub id such as "
                         "sentence-transformers/all-MiniLM-L6-v2")
    num_latents: Whole = Field(8, ge=1, description="L; must divide the encoder's width")
    num_prompts: Whole = Field(4, ge=1, description="K")
    width: Whole = Field(1024, ge=8, description="of the hidden layer that makes the soft prompts")
    rank: Whole = Field(16, ge=0, description="rank of the language model's low-rank updates (LoRA); 0: none")
    max_tokens: Whole = Field(40, ge=4, description="of a text, in the language model's tokens, end-of-text included")
    assumed_noise: Number = Field(0.2, ge=0.0, description="sd of the latent noise that is assumed in decoding")

    def problems(self, recipe) -> Iterator[str]:
        if recipe.codec == "sentence":
            yield from codec_problems(recipe, "sentence", PRESETS, "train_sentence")


class TrainSentenceConfig(Section):
    """Its training."""

    steps: Whole = Field(2000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(32, ge=2, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="peak rate, of AdamW")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    latent_noise: Number = Field(0.7, ge=0.0, description="half of the latents get Gaussian noise in training, of sd ~ "
                                 "U(0, this)")
    sample_every: Whole = Field(200, ge=1, description="steps between printed texts")
    save_every: Whole = Field(200, ge=1, description="steps between resume states")


stage(
    "train_sentence",
    shared=("data", "sampling"),
    codec=True,
    help="train the sentence codec: soft prompts for a frozen language model",
    sentence=SentenceConfig,
    train_sentence=TrainSentenceConfig,
)
