"""Train the compressor and the reconstructor around a frozen encoder-decoder.

    latdiff train-ae storyworld train_autoencoder.steps=500

Builds a missing backbone first, resumes where an earlier run stopped, writes checkpoints/NAME and
ends with a table of how well unseen texts come back, clean and under latent noise.
"""

from __future__ import annotations

import itertools
import random
import shutil
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from latdiff.recipes import pretrain_backbone
from torch import nn

from latdiff.batches import BatchOrder
from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.t5 import TextCodec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, DataError, load_corpus
from latdiff.data.packed import PackedIds
from latdiff.data.tokens import (
    IGNORED,
    MOST_TOO_LONG,
    corrupt_spans,
    kept_report,
    labels_of,
    lead_in,
    length_report,
    pad,
    short_enough,
    span_marks,
    tokenize,
    unknown_characters,
    unknown_share,
)
from latdiff.draws import Draws
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.pictures import log_pictures
from latdiff.evaluation.report import reconstruction_table, update_metrics
from latdiff.evaluation.rows import reconstruction
from latdiff.latents import LATENTS, Latents, statistics, write_latents
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.backbone import (
    copied_share,
    decoder_logits,
    encode_features,
    load_backbone,
    refuse_unreadable,
)
from latdiff.precision import autocast, default_device
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.storage import LOCK
from latdiff.training import Run, training

SETTINGS = ("seed", "data", "backbone", "autoencoder", "train_autoencoder")  # that its result depends on
STATE = Path("train/autoencoder.safetensors")
RAW = Path("train/raw")  # latents before they are whitened
COPIED_TEXTS = 64  # unseen ones, that the backbone is tried on
LEAST_COPIED, MOST_UNKNOWN = 0.3, 0.01  # shares of texts and pieces that are warned of


class ReconstructionLoss(nn.Module):
    """Cross-entropy of a text read back through noisy latents, nats a token.

    forward(ids [B, T'], mask [B, T'], labels [B, T], generator); the ids may be those of a corrupted text,
    the labels are always the whole one. B rows of a larger batch come with its draws in place of the generator.
    """

    def __init__(self, text_model, autoencoder: LatentAutoencoder, latent_noise: float, latent_dropout: float = 0.0):
        super().__init__()
        self.autoencoder, self.latent_noise, self.latent_dropout = autoencoder, latent_noise, latent_dropout
        self.text_model = [text_model]  # in a list: frozen, so neither trained, saved nor moved with the rest

    def forward(self, ids, mask, labels, generator):
        with torch.no_grad():
            features = encode_features(self.text_model[0], ids, mask)
        latents = self.autoencoder.normalise(self.autoencoder.compress(features, mask))
        draws, shape = Draws.of(generator, len(ids)), latents.shape[1:]
        sd = self.latent_noise * draws.rand(1, 1)
        noisy = latents + (sd * draws.randn(*shape)).to(latents)
        if self.latent_dropout:
            noisy = noisy * (draws.rand(*shape) >= self.latent_dropout).to(noisy)
        logits = decoder_logits(self.text_model[0], self.autoencoder.reconstruct(noisy, sd.to(noisy)), labels)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    recipe.check_codec("autoencoder")
    folder, settings = recipe.folder, recipe.train_autoencoder
    refuse_changes(recipe, SETTINGS)
    if agreed(finished(recipe)):
        clear(folder)  # a kill may have left something
        print(f"{folder / 'autoencoder'} is already trained; delete {folder} or set name= to train another")
        return
    corpus = load_corpus(recipe.data, recipe.seed, extra=not recipe.autoencoder.path)
    if recipe.autoencoder.path:
        return adopt(recipe, corpus)
    build_missing_backbone(recipe, quiet)
    place = recipe.located(recipe.backbone.path)
    tokenizer, text_model = load_backbone(place)
    refuse_unreadable(text_model, recipe.autoencoder.max_tokens)
    if any(settings.mask_rates):
        span_marks(tokenizer)  # before training: it refuses a tokenizer without any
    own = readable(recipe, tokenizer, corpus, recipe.autoencoder.max_tokens)
    ids = own
    if corpus.extra:
        more = short_enough(tokenize(tokenizer, corpus.extra), recipe.data.max_tokens)
        ids = PackedIds(itertools.chain(own, more))
        print(f"{len(more):,} extra texts that are short enough, for the autoencoder alone")
    by_main(recipe.save)(folder / "recipe.yaml")

    run = Run(recipe, "autoencoder", folder / STATE, settings, quiet)
    alone = tried(recipe, tokenizer, text_model.to(run.device), corpus, ids)
    torch.manual_seed(recipe.seed)
    autoencoder = build(recipe, text_model)
    print(f"autoencoder with {sum(p.numel() for p in autoencoder.parameters()):,} weights -> {folder}")
    objective = ReconstructionLoss(text_model, autoencoder, settings.latent_noise, settings.latent_dropout)
    objective = run.prepare(objective, corpus.train + corpus.extra, trained=autoencoder)
    codec = TextCodec(tokenizer, text_model, autoencoder)
    for step, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, ids.lengths)):
        batch = corrupted_batch([ids[i] for i in rows], tokenizer, recipe, step)
        with run.autocast():
            loss = objective(*(run.own(x).to(run.device) for x in batch), run.draws())
        run.update(run.share(loss, [len(ids[i]) for i in rows]))
        if run.shows(settings.sample_every):
            run.show(coming_back(codec, corpus.valid[:3]))

    run.finish()
    latents = whitened(run, codec, ids, folder)
    made = alone | {"training_minutes": round(run.minutes, 2), "dtype": run.dtype}
    write_latents(folder / LATENTS, codec.seal().digest, corpus.digest, len(own), latents.__getitem__)
    finish(recipe, codec, corpus, made)
    by_main(log_pictures)(run, folder)
    clear(folder)
    print(f"trained in {run.minutes:.1f} minutes -> {folder}")


def finished(recipe: Recipe) -> bool:
    """Whether the recipe's folder has its codec, weights and all."""
    folder = recipe.folder / "autoencoder"
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))


@by_main
def clear(folder: Path) -> None:
    """Delete what a finished run does without."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / RAW, ignore_errors=True)


def build_missing_backbone(recipe: Recipe, quiet: bool) -> None:
    """Pretrain a backbone of our own that is not there; nothing where it is, or is the hub's, or is adopted."""
    ours = recipe.backbone.path.startswith("checkpoints/") and not recipe.autoencoder.path
    lock = Path(recipe.located(recipe.backbone.path)) / LOCK  # a kill after the last write leaves it, for main to drop
    if ours and agreed(lock.exists() or not pretrain_backbone.finished(recipe)):
        pretrain_backbone.main(recipe, quiet)


def adopt(recipe: Recipe, corpus: Corpus) -> None:
    """Take another checkpoint's backbone, autoencoder and whitening as they are, for this corpus."""
    codec = load_codec(Path(recipe.located(recipe.autoencoder.path)))
    if not isinstance(codec, TextCodec):
        raise UserError(
            f"autoencoder.path is {recipe.autoencoder.path!r}, a checkpoint with a {type(codec).__name__}, must be one "
            "with a TextCodec; set another, or leave it out to train one"
        )
    own = readable(recipe, codec.tokenizer, corpus, codec.autoencoder.config.max_tokens)
    by_main(recipe.save)(recipe.folder / "recipe.yaml")
    codec.to(default_device())

    def encoded(rows: range) -> torch.Tensor:
        with autocast(codec.autoencoder.device.type, recipe.dtype):
            return codec.encode_ids(own[rows.start : rows.stop])

    write_latents(recipe.folder / LATENTS, codec.seal().digest, corpus.digest, len(own), encoded)
    finish(recipe, codec, corpus, {"adopted_from": recipe.autoencoder.path})
    print(f"the backbone and the autoencoder of {recipe.autoencoder.path} -> {recipe.folder}")


def readable(recipe: Recipe, tokenizer, corpus: Corpus, limit: int) -> PackedIds:
    """Ids of the training texts that are short enough, with a report on the others.

    Raises DataError when too few texts or sources are, for `limit`, the tokens that the autoencoder reads.
    """
    if recipe.data.max_tokens > limit:
        raise DataError(
            f"data.max_tokens is {recipe.data.max_tokens}, but the autoencoder of "
            f"{recipe.autoencoder.path or recipe.name} reads {limit} tokens; set data.max_tokens={limit} or less"
        )
    whole = tokenize(tokenizer, corpus.train)
    own = short_enough(whole, recipe.data.max_tokens)
    left_out = {"too long": len(whole) - len(own)} | corpus.dropped
    print(kept_report(len(own), recipe.data.max_tokens, left_out))
    print(length_report(whole))
    unseen = sum(len(row) <= limit for row in tokenize(tokenizer, corpus.valid))
    if len(own) < 2 or not unseen:
        raise DataError(
            f"{recipe.data.source}: {len(own)} training texts and {unseen} unseen ones are short enough, two and one "
            f"are the least; raise data.max_tokens ({recipe.data.max_tokens}) and autoencoder.max_tokens "
            f"({limit}), or give more texts"
        )
    if left_out["too long"] > MOST_TOO_LONG * len(whole):
        warnings.warn(f"{left_out['too long']:,} of {len(whole):,} training texts are too long and left out, so that "
                      f"what is learnt is of short ones; {length_report(whole)}", stacklevel=2)
    if recipe.data.reads_source:
        refuse_long_sources(recipe, tokenizer, corpus, limit)
    return own


def refuse_long_sources(recipe: Recipe, tokenizer, corpus: Corpus, limit: int) -> None:
    """Raise DataError when no source is short enough for the denoiser, which could only say so once this is trained."""
    for name, sources in (("training", corpus.train_conditions), ("unseen", corpus.valid_conditions)):
        shortest = min(map(len, tokenize(tokenizer, sources)))
        if shortest > limit:
            raise DataError(
                f"{recipe.data.source}: the shortest {name} source has {shortest} tokens; raise autoencoder.max_tokens "
                f"({limit}) or take shorter ones"
            )


def tried(recipe: Recipe, tokenizer, text_model, corpus: Corpus, ids: PackedIds) -> dict[str, float]:
    """What the backbone can do by itself, printed on one line, with a warning where that is little.

    Returns:
        `copied_by_backbone`, the share of a few unseen texts that it writes again from all its features, and
        `unknown_pieces`, the share of the pieces of `ids`, the training texts, that its tokenizer does not know.
    """
    short = (text for text in corpus.valid if len(tokenize(tokenizer, [text])[0]) <= recipe.autoencoder.max_tokens)
    texts = list(itertools.islice(short, COPIED_TEXTS))
    copied, unknown = copied_share(text_model, tokenizer, texts), unknown_share(tokenizer, ids)
    found = f"the backbone {recipe.backbone.path} by itself copies {100 * copied:.1f} % of {len(texts)} unseen texts"
    pieces = f"{100 * unknown:.2f} % of the training texts' pieces are unknown to its tokenizer"
    print(f"{found} exactly; {pieces}")
    other = ("set backbone.path=checkpoints/NAME-t5 for one of your own, which the first run that needs it pretrains "
             "on these texts (better with more pretrain_backbone.steps), or take one of the hub that reads them")
    if unknown > MOST_UNKNOWN:
        some = " ".join(unknown_characters(tokenizer, corpus.train + corpus.extra))
        warnings.warn(f"{pieces}, such as {some}, and no text that is decoded will have them; {other}, e.g. "
                      "google/mt5-small", stacklevel=2)
    if copied < LEAST_COPIED:
        warnings.warn(f"{found} exactly, a sign that few will come back from latents; {other}. One that follows "
                      "instructions, such as google/flan-t5-base, or was pretrained under much noise may serve all the "
                      "same: trust the reconstruction that is measured after training", stacklevel=2)
    return {"copied_by_backbone": copied, "unknown_pieces": unknown}


def corrupted_batch(rows: list[list[int]], tokenizer, recipe: Recipe, step: int):
    """ids [B, T'], mask [B, T'] of texts with spans masked, and labels [B, T] of the whole ones."""
    rng, rates = random.Random(f"{recipe.seed}/mask/{step}"), recipe.train_autoencoder.mask_rates
    marks, lead = (span_marks(tokenizer), lead_in(tokenizer)) if any(rates) else ([], 0)
    masked = [
        corrupt_spans(row, rate, marks, rng, lead) if rate else row
        for row, rate in ((row, rng.choice(rates)) for row in rows)
    ]
    return *pad(masked, tokenizer.pad_token_id), labels_of(*pad(rows, tokenizer.pad_token_id))


def build(recipe: Recipe, text_model) -> LatentAutoencoder:
    settings = recipe.autoencoder
    return LatentAutoencoder(
        feature_dim=text_model.get_input_embeddings().embedding_dim, num_latents=settings.num_latents,
        latent_dim=settings.latent_dim, width=settings.width, depth=settings.depth, heads=settings.heads,
        max_tokens=settings.max_tokens, normalisation=settings.normalisation, assumed_noise=settings.assumed_noise,
    )


def coming_back(codec: TextCodec, texts: list[str]) -> list[tuple[str, str]]:
    """A few unseen texts and what comes back, so that a person sees the words settle."""
    codec.autoencoder.eval()
    texts = list(itertools.compress(texts, codec.fits(texts)))
    back = codec.decode(codec.encode(texts)) if texts else []
    codec.autoencoder.train()
    return [one for pair in zip(texts, back, strict=True) for one in zip(("text", "back"), pair, strict=True)]


def whitened(run: Run, codec: TextCodec, ids: PackedIds, folder: Path) -> Latents:
    """Latents of all texts that a codec was trained on, whitened over them."""

    def compressed(rows: range) -> torch.Tensor:
        with run.accelerate.autocast():  # of no step: nothing is drawn, and no other process waited for
            return codec.compress(ids[rows.start : rows.stop])

    if not run.quiet:
        print(f"encoding {len(ids):,} texts, to whiten their latents")
    raw = write_latents(folder / RAW, codec.fingerprint(), run.texts, len(ids), compressed)
    codec.autoencoder.set_whitening(*statistics(raw.parts()))
    return raw.through(lambda rows: codec.autoencoder.normalise(rows.to(run.device)))


@by_main
def finish(recipe: Recipe, codec: TextCodec, corpus: Corpus, made: dict) -> None:
    """Save the codec, and measure it on unseen texts; `made` says where it comes from."""
    folder = recipe.folder
    measured = reconstruction(codec, corpus.valid, recipe.seed, recipe.sampling.decoding)
    update_metrics(folder, {"reconstruction": measured | made})
    save_codec(codec, folder)
    print(reconstruction_table(measured))


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
