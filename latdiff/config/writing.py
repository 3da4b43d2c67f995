"""What the sections of writing codecs share, whose texts a frozen language model writes from soft prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from latdiff.config.sections import Number, Section, Whole, codec_problems

PRESETS: dict[str, dict[str, Any]] = {  # ways to write a text; the first is the default
    "sampled": {"top_p": 0.8}, "careful": {"top_p": 0.7, "end_when_likeliest": True}, "greedy": {"greedy": True},
    "beam": {"num_beams": 4},
}


class WritingConfig(Section):
    """A writing codec: its two frozen models, and another checkpoint's codec that it may begin with."""

    path: str = Field("", description="a checkpoint whose codec of this kind is taken, which learns where these texts "
                      "end; empty: train one")
    finetune: bool = Field(False, description="whether the codec of `path` is fine-tuned on these texts, with the "
                           "settings of its training; its latents stay what they are")
    language_model: str = Field("smollm2-135m-instruct", description="the frozen causal language model: a name that "
                                "`latdiff fetch` knows, a folder, or a hub id such as HuggingFaceTB/SmolLM2-135M")
    encoder: str = Field("all-minilm-l6-v2", description="the frozen encoder, likewise; a hub id such as "
                         "sentence-transformers/all-MiniLM-L6-v2")
    rank: Whole = Field(16, ge=0, description="rank of the language model's low-rank updates (LoRA); 0: none")
    max_tokens: Whole = Field(40, ge=4, description="of a text, in the language model's tokens, end-of-text included")
    assumed_noise: Number = Field(0.2, ge=0.0, description="sd of the latent noise that is assumed in decoding; a "
                                  "codec that is taken and not fine-tuned keeps its own")

    def writing_problems(self, recipe, name: str, *trainings: str) -> Iterator[str]:
        """What does not go together in this section, whose name is given, and in those of its trainings."""
        if self.finetune and not self.path:
            yield f"{name}.finetune: is true, but {name}.path names no checkpoint; set it, or leave finetune out"
        yield from codec_problems(recipe, name, tuple(PRESETS), *trainings)


class TrainWritingConfig(Section):
    """The training of what makes soft prompts and of the low-rank updates."""

    steps: Whole = Field(2000, ge=1, description="optimiser steps")
    batch_size: Whole = Field(32, ge=2, description="texts per step")
    learning_rate: Number = Field(2e-3, ge=0.0, description="peak rate, of AdamW")
    warmup_steps: Whole = Field(100, ge=0, description="steps of linear warm-up")
    latent_noise: Number = Field(0.7, ge=0.0, description="half of the latents get Gaussian noise in training, of sd ~ "
                                 "U(0, this)")
    sample_every: Whole = Field(200, ge=1, description="steps between printed texts")
    save_every: Whole = Field(200, ge=1, description="steps between resume states")
