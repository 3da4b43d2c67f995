"""recipes/train_sentence.py: the codec of a frozen sentence encoder and a frozen language model."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from latdiff.config.sections import Whole, stage
from latdiff.config.writing import TrainWritingConfig, WritingConfig


class SentenceConfig(WritingConfig):
    """The sentence codec: a text's vector as L latents of width D, read by a language model as K soft prompts."""

    num_latents: Whole = Field(8, ge=1, description="L; must divide the encoder's width")
    num_prompts: Whole = Field(4, ge=1, description="K")
    width: Whole = Field(1024, ge=8, description="of the hidden layer that makes the soft prompts")

    def problems(self, recipe) -> Iterator[str]:
        if recipe.codec == "sentence":
            yield from self.writing_problems(recipe, "sentence", "train_sentence")


stage(
    "train_sentence",
    shared=("data", "sampling"),
    codec=True,
    help="train the sentence codec: soft prompts for a frozen language model",
    sentence=SentenceConfig,
    train_sentence=TrainWritingConfig,
)
