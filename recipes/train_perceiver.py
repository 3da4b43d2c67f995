"""Train the Perceiver codec of a frozen encoder and a frozen causal language model.

    latdiff train-perceiver english-perceiver train_drafts.steps=2000

First the compressor and the reconstructor, by how well latents draft their text in the language model's embeddings, all
tokens at once and without the language model, which is fast; then the reconstructor and the language model's low-rank
updates, by what it writes. Resumes where an earlier run stopped, writes the codec to checkpoints/NAME, and ends with
how many unseen texts come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from latdiff.recipes.writing import SHOWN, Stage, Texts, encoded, noised, places, refuse_long, train
from latdiff.recipes.writing import finished as finished  # which the denoiser's recipe asks
from torch import Tensor, nn

from latdiff.batches import BatchOrder
from latdiff.codecs.perceiver import PerceiverCodec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.packed import PackedIds
from latdiff.errors import plain_errors
from latdiff.evaluation.report import reconstruction_table
from latdiff.evaluation.rows import coming_back, reconstruction
from latdiff.fetch import located
from latdiff.latents import Latents, statistics
from latdiff.models.drafts import directions_of
from latdiff.models.writer import load_encoder, load_writer
from latdiff.training import Run, training

SETTINGS = ("seed", "data", "perceiver", "train_drafts", "train_perceiver")  # that its result depends on
DRAFTS, STATE = Path("train/drafts.safetensors"), Path("train/perceiver.safetensors")
SHARPNESS = 20.0  # of cosines as logits


class DraftingLoss(nn.Module):
    """Cross-entropy of a text's drafted tokens, nats a latent.

    forward(features [B, T, E], mask [B, T], ids [B, L], generator): ids are of the text's first L tokens, end-of-text
    behind its end. Logits are cosines of drafts and of the embeddings of the training texts' pieces.
    """

    def __init__(self, codec: PerceiverCodec, latent_noise: float, pieces: Tensor):
        super().__init__()
        embeddings = codec.language_model.get_input_embeddings().weight
        self.reader, self.latent_noise = codec.reader, latent_noise
        self.register_buffer("table", directions_of(embeddings, pieces))
        self.register_buffer("place", places(pieces, len(embeddings)))

    def forward(self, features, mask, ids, generator):
        latents = self.reader.autoencoder.normalise(self.reader.autoencoder.compress(features, mask))
        drafts = self.reader.directions(*noised(latents, self.latent_noise, generator))
        logits = SHARPNESS * F.linear(drafts, self.table.to(drafts))
        return F.cross_entropy(logits.flatten(0, 1).float(), self.place[ids].flatten())


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    train(recipe, Stage("perceiver", SETTINGS, PerceiverCodec, build, encode, measure, (DRAFTS, STATE)), quiet)


def encode(
    recipe: Recipe, codec: PerceiverCodec, texts: Texts, own: int, unseen: Texts, quiet: bool
) -> tuple[Latents, dict]:
    """Latents of the texts, whitened over the first `own` of them, by a compressor that is trained for it.

    Beside them how many drafts of unseen texts are right, which they are no longer once the reconstructor has learnt
    what the language model reads.
    """
    minutes = draft(recipe, codec, texts.all, unseen.first(SHOWN).all, quiet)
    raw = encoded(recipe.folder, codec.fingerprint(), codec.compress, texts.all, quiet)
    codec.autoencoder.set_whitening(*statistics(raw.only(range(own)).parts()))
    codec.seal()
    drafted = coming_back(codec.drafts, codec.encode(unseen.all), unseen.all, recipe.seed, has_bleu())
    print(f"{drafted['exact_match']:.3f} of the drafts of {len(unseen.all)} unseen texts are right")
    latents = raw.through(lambda rows: codec.autoencoder.normalise(rows.to(codec.device)))
    return latents, {"drafting_minutes": round(minutes, 2), "drafts": drafted}


def has_bleu() -> bool:
    """Whether sacrebleu, of the extra `eval`, is installed."""
    return find_spec("sacrebleu") is not None


def draft(recipe: Recipe, codec: PerceiverCodec, texts: Sequence[str], unseen: Sequence[str], quiet: bool) -> float:
    """Train compressor and reconstructor to draft texts; returns minutes."""
    settings = recipe.train_drafts
    run = Run(recipe, "drafts", recipe.folder / DRAFTS, settings, quiet)
    end, length = codec.tokenizer.eos_token_id, codec.latent_shape[0]
    ids = PackedIds((row + [end] * length)[:length] for row in codec.tokenize(texts))
    pieces = torch.tensor(sorted({piece for row in ids for piece in row}))
    objective = DraftingLoss(codec.train(), settings.latent_noise, pieces)
    reader = objective.reader
    count = sum(p.numel() for p in reader.parameters())
    print(f"{count:,} weights to train, {len(objective.table):,} pieces, {len(texts):,} texts -> {recipe.folder}")
    objective = run.prepare(objective, texts, trained=reader)
    for _, rows in run.steps(BatchOrder(len(texts), settings.batch_size, recipe.seed, list(map(len, texts)))):
        own = run.own(rows)
        features, mask = codec.features([texts[i] for i in own])
        with run.autocast():
            first = torch.tensor([ids[i] for i in own], device=run.device)
            loss = objective(features, mask, first, run.draws())
        run.update(run.share(loss))
        if run.shows(settings.sample_every):
            run.show(drafts_of(codec, unseen))
    codec.eval()
    return run.minutes


def drafts_of(codec: PerceiverCodec, texts: Sequence[str]) -> list[tuple[str, str]]:
    """A few unseen texts and their drafts, so that a person sees the words settle."""
    codec.eval()
    drafted = codec.drafts(codec.encode(texts))
    codec.train()
    return [one for pair in zip(texts, drafted, strict=True) for one in zip(("text", "draft"), pair, strict=True)]


def build(recipe: Recipe) -> PerceiverCodec:
    """A codec of the recipe's sizes, untrained, with its models; raises SentenceModelError where they do not fit."""
    torch.manual_seed(recipe.seed)
    settings = recipe.perceiver
    tokenizer, model = load_writer(located(settings.language_model))
    encoder_tokenizer, encoder = load_encoder(located(settings.encoder))
    refuse_long(recipe, model, settings.num_latents)
    codec = PerceiverCodec(
        language_model=settings.language_model, encoder=settings.encoder, num_latents=settings.num_latents,
        latent_dim=settings.latent_dim, width=settings.width, depth=settings.depth, heads=settings.heads,
        prompt_dim=model.config.hidden_size, feature_dim=encoder.config.hidden_size, rank=settings.rank,
        max_tokens=settings.max_tokens, assumed_noise=settings.assumed_noise,
    )
    return codec.attach(tokenizer=tokenizer, language_model=model, encoder_tokenizer=encoder_tokenizer, encoder=encoder)


def measure(recipe: Recipe, codec: PerceiverCodec, texts: Texts) -> tuple[str, dict]:
    """How many unseen texts come back; BLEU too where sacrebleu is installed."""
    measured = reconstruction(codec, texts.all, recipe.seed, recipe.sampling.decoding or "greedy", bleu=has_bleu())
    print(reconstruction_table(measured))
    return "reconstruction", measured


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
