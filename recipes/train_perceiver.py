"""Train the Perceiver codec of a frozen encoder and a frozen causal language model.

    latdiff train-perceiver english-perceiver train_drafts.steps=2000

First the compressor and the reconstructor, by how well latents draft their text in the language model's embeddings, all
tokens at once and without the language model, which is fast; then the reconstructor and the language model's low-rank
updates, by what it writes. Resumes where an earlier run stopped, writes the codec to checkpoints/NAME, and ends with
how many unseen texts come back.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from latdiff.recipes.writing import (
    SHOWN,
    adopt,
    encoding_bar,
    finished,
    keep,
    noised,
    readable,
    refuse_long,
    write_from,
)
from torch import Tensor, nn

from latdiff.codecs.perceiver import PerceiverCodec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import load_corpus
from latdiff.errors import plain_errors
from latdiff.evaluation import metrics
from latdiff.evaluation.report import reconstruction_table, update_metrics
from latdiff.evaluation.rows import reconstruction
from latdiff.fetch import located
from latdiff.models.drafts import directions_of
from latdiff.models.writer import load_encoder, load_writer
from latdiff.precision import default_device
from latdiff.training import BatchOrder, Run, refuse_changes, save_state, step_generator

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
        place = torch.full((len(embeddings),), -100)
        place[pieces] = torch.arange(len(pieces))
        self.register_buffer("place", place)

    def forward(self, features, mask, ids, generator):
        latents = self.reader.autoencoder.normalise(self.reader.autoencoder.compress(features, mask))
        drafts = self.reader.directions(*noised(latents, self.latent_noise, generator))
        logits = SHARPNESS * F.linear(drafts, self.table.to(drafts))
        return F.cross_entropy(logits.flatten(0, 1).float(), self.place[ids].flatten())


def main(recipe: Recipe, quiet: bool = False) -> None:
    folder = recipe.folder
    refuse_changes(recipe, SETTINGS)
    if finished(recipe):
        print(f"{folder / 'codec'} is already trained; delete {folder} or set name= to train another")
        return
    corpus = load_corpus(recipe.data, recipe.seed, extra=not recipe.perceiver.path)
    if recipe.perceiver.path:
        codec, latents, made = adopt(recipe, PerceiverCodec, corpus, quiet)
        return finish(recipe, codec, latents, made, corpus.valid)
    codec = build(recipe)
    codec.to(default_device())
    texts, starts, own = readable(recipe, codec, corpus)
    recipe.save(folder / "recipe.yaml")
    minutes = draft(recipe, codec, texts, corpus.valid[:SHOWN], quiet)
    raw = codec.compress(texts, progress=encoding_bar(quiet))
    codec.autoencoder.set_whitening(raw[:own].mean(0), raw[:own].var(0))
    latents = codec.autoencoder.normalise(raw)
    made = write_from(recipe, codec, latents, texts, starts, corpus.valid[:SHOWN], quiet)
    made |= {"drafting_minutes": round(minutes, 2)}
    finish(recipe, codec.eval().seal(), latents[:own], made, corpus.valid)


def draft(recipe: Recipe, codec: PerceiverCodec, texts: list[str], unseen: list[str], quiet: bool) -> float:
    """Train compressor and reconstructor to draft texts, and leave only the latter to be trained; returns minutes."""
    settings = recipe.train_drafts
    run = Run(recipe, "drafts", recipe.folder / DRAFTS, settings, quiet)
    end, length = codec.tokenizer.eos_token_id, codec.latent_shape[0]
    ids = torch.tensor([(row + [end] * length)[:length] for row in codec.tokenize(texts)])
    objective = DraftingLoss(codec.train(), settings.latent_noise, ids.unique())
    reader = objective.reader
    count = sum(p.numel() for p in reader.parameters())
    print(f"{count:,} weights to train, {len(objective.table):,} pieces, {len(texts):,} texts -> {recipe.folder}")
    objective = run.prepare(objective, trained=reader)
    for step, rows in run.steps(BatchOrder(len(texts), settings.batch_size, recipe.seed, list(map(len, texts)))):
        features, mask = codec.features([texts[i] for i in rows])
        with run.autocast():
            loss = objective(features, mask, ids[rows].to(run.device), step_generator(recipe.seed, step))
        run.update(loss)
        if run.due(settings.sample_every) and not quiet:
            show_drafts(run.bar, codec, unseen)
    if run.start < settings.steps:
        save_state(run.state, settings.steps, {"model": reader}, run.optimizers)
    codec.requires_grad_(False).eval()
    codec.draft.requires_grad_(True)
    for part in (codec.autoencoder.latents_in, codec.autoencoder.noise_in, codec.autoencoder.reconstructor,
                 codec.autoencoder.features_out):
        part.requires_grad_(True)
    codec.autoencoder.latent_positions.requires_grad_(True)
    return run.minutes


def show_drafts(bar, codec: PerceiverCodec, texts: list[str]) -> None:
    """A few unseen texts and their drafts, so that a person sees the words settle."""
    codec.eval()
    texts = list(itertools.compress(texts, codec.fits(texts)))
    for text, drafted in zip(texts, codec.drafts(codec.encode(texts)) if texts else [], strict=True):
        bar.write(f"  text   {text}\n  draft  {drafted}")
    codec.train()


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


def finish(recipe: Recipe, codec: PerceiverCodec, latents: Tensor, made: dict, valid: list[str]) -> None:
    """Save the codec and the corpus' latents, and measure on unseen texts; `made` says where it comes from."""
    unseen = keep(recipe, codec, latents, valid)
    for path in (DRAFTS, STATE):
        (recipe.folder / path).unlink(missing_ok=True)
    measured = reconstruction(codec, unseen, recipe.seed, recipe.sampling.decoding or "greedy")
    measured["exact_match_of_drafts"] = metrics.exact_match(codec.drafts(codec.encode(unseen)), unseen)
    update_metrics(recipe.folder, {"reconstruction": measured | made})
    print(reconstruction_table(measured))


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
