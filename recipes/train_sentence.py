"""Train the soft prompts by which a frozen language model reads the vector of a frozen sentence encoder.

    latdiff train-sentence english train_sentence.steps=2000

Encodes the texts once, resumes where an earlier run stopped, writes the codec to checkpoints/NAME, and ends with how
well unseen texts are written again, and with what those say by the encoder's own measure.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from latdiff.recipes.writing import Stage, Texts, encoded, refuse_long, train
from latdiff.recipes.writing import finished as finished  # which the denoiser's recipe asks

from latdiff.codecs.sentence import SentenceCodec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.errors import plain_errors
from latdiff.fetch import located
from latdiff.latents import Latents, statistics
from latdiff.models.writer import SentenceModelError, load_encoder, load_writer
from latdiff.training import training

SETTINGS = ("seed", "data", "sentence", "train_sentence")  # that its result depends on
STATE = Path("train/sentence.safetensors")


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    train(recipe, Stage("sentence", SETTINGS, SentenceCodec, build, encode, measure, (STATE,)), quiet)


def build(recipe: Recipe) -> SentenceCodec:
    """A codec of the recipe's sizes, untrained, with its models; raises SentenceModelError where they do not fit."""
    torch.manual_seed(recipe.seed)
    settings = recipe.sentence
    tokenizer, model = load_writer(located(settings.language_model))
    encoder_tokenizer, encoder = load_encoder(located(settings.encoder))
    width = encoder.config.hidden_size
    if width % settings.num_latents:
        raise SentenceModelError(f"sentence.num_latents is {settings.num_latents}, which does not divide the encoder's "
                                 f"width {width}; try 8")
    refuse_long(recipe, model, settings.num_prompts)
    codec = SentenceCodec(
        language_model=settings.language_model, encoder=settings.encoder, num_latents=settings.num_latents,
        latent_dim=width // settings.num_latents, prompt_dim=model.config.hidden_size, num_prompts=settings.num_prompts,
        width=settings.width, rank=settings.rank, continues=recipe.data.condition == "start",
        max_tokens=settings.max_tokens, assumed_noise=settings.assumed_noise,
    )
    codec.attach(tokenizer=tokenizer, language_model=model, encoder_tokenizer=encoder_tokenizer, encoder=encoder)
    codec.soft_prompts.begin_at(model.get_input_embeddings().weight.std().item())
    return codec


def encode(
    recipe: Recipe, codec: SentenceCodec, texts: Texts, own: int, unseen: Texts, quiet: bool
) -> tuple[Latents, dict]:
    """Latents of the texts, whitened over the first `own` of them."""
    vectors = encoded(recipe.folder, codec.encoder_weights, codec.vectors, texts.all, quiet)
    codec.set_whitening(*statistics(vectors.only(range(own)).parts()))
    return vectors.through(lambda rows: codec.whitened(rows.to(codec.device))), {}


def measure(recipe: Recipe, codec: SentenceCodec, texts: Texts) -> tuple[str, dict]:
    """How well unseen texts come back: share of tokens that are ranked first, and cosine of the encoder's vectors."""
    latents, preset = codec.encode(texts.all), recipe.sampling.decoding or codec.presets[0]
    said = [text or "." for text in codec.generate(latents, texts.starts, preset=preset).texts]
    cosine = F.cosine_similarity(codec.vectors(texts.all), codec.vectors(said)).mean().item()
    accuracy = codec.token_accuracy(latents, texts.all, starts=texts.starts)
    print(f"{len(texts.all)} unseen texts: token accuracy {accuracy:.3f}, cosine of the vectors of a text and of what "
          f"is written from it {cosine:.3f}")
    return "meaning", {"n": len(texts.all), "token_accuracy": accuracy, "cosine": cosine, "decoding": preset}


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
