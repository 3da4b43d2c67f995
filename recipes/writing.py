"""What the recipes of writing codecs share: a frozen language model learns to write texts from their latents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.writing import WritingCodec
from latdiff.config import Recipe
from latdiff.data.corpus import Corpus, DataError
from latdiff.data.tokens import length_report
from latdiff.errors import UserError
from latdiff.lm import context
from latdiff.models.writer import SentenceModelError, add_updates, merge_updates, writer_features
from latdiff.precision import default_device
from latdiff.training import BatchOrder, Run, save_latents, step_generator

Kind = TypeVar("Kind", bound=WritingCodec)
SHOWN, MEASURED = 3, 200  # unseen texts that are printed under way, and measured at the end
ENDED = 2000  # training texts by whose ends the language model learns to end


def noised(latents: Tensor, most: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents [B, L, D], half of them with noise of sd ~ U(0, most), and the sd [B]."""
    count = len(latents)
    noisy = torch.rand(count, generator=generator) < 0.5
    sd = (noisy * most * torch.rand(count, generator=generator)).to(latents)
    return latents + sd[:, None, None] * torch.randn(latents.shape, generator=generator).to(latents), sd


class WritingLoss(nn.Module):
    """Cross-entropy of a text written from noisy latents, nats a token.

    forward(latents [B, L, D], B rows of ids, those of the first words that each goes on from, generator). Half of the
    latents are clean, the others have noise of sd ~ U(0, latent_noise), which the soft prompts get as an input. Logits
    are of the training texts' pieces alone.
    """

    def __init__(self, codec: WritingCodec, latent_noise: float, pieces: Tensor):
        super().__init__()
        self.reader, self.latent_noise = codec.reader, latent_noise
        self.language_model = [codec.language_model]  # in a list: its frozen weights are neither saved nor trained
        self.register_buffer("head", codec.language_model.get_output_embeddings().weight[pieces].clone())
        place = torch.full((codec.language_model.config.vocab_size,), -100)
        place[pieces] = torch.arange(len(pieces))
        self.register_buffer("place", place)

    def forward(self, latents, ids, starts, generator):
        prompts = self.reader(*noised(latents, self.latent_noise, generator))
        features = writer_features(self.language_model[0], prompts, ids, starts)
        wanted = torch.tensor([one for row in ids for one in row], device=features.device)
        return F.cross_entropy(F.linear(features, self.head.to(features)).float(), self.place[wanted])


def write_from(
    recipe: Recipe, codec: WritingCodec, latents: Tensor, texts: list[str], starts: list[str], unseen: list[str],
    quiet: bool,
) -> dict:
    """Train soft prompts and low-rank updates to write texts from their latents [N, L, D]; returns time and dtype."""
    name = recipe.codec
    settings, rank = getattr(recipe, f"train_{name}"), codec.config.rank
    run = Run(recipe, name, recipe.folder / "train" / f"{name}.safetensors", settings, quiet)
    ids, begun = codec.tokenize(texts, starts), codec.ids(starts)
    pieces = torch.tensor(sorted({piece for row in ids for piece in row}))
    objective = WritingLoss(codec, settings.latent_noise, pieces)
    low_rank = add_updates(codec.language_model, rank) if rank else nn.ModuleList()
    trained = nn.ModuleList([objective.reader, *low_rank])
    count = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    print(f"{count:,} weights to train, {len(pieces):,} pieces, {len(texts):,} texts -> {recipe.folder}")
    objective = run.prepare(objective, trained=trained, muon=False)  # not tried at length on low-rank factors
    for step, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, list(map(len, ids)))):
        batch = latents[rows].to(run.device), [ids[i] for i in rows], [begun[i] for i in rows]
        with run.autocast():
            loss = objective(*batch, step_generator(recipe.seed, step))
        run.update(loss)
        if run.due(settings.sample_every) and not quiet:
            show(run.bar, codec, unseen)
    run.finish()
    merge_updates(codec.language_model)
    print(f"trained in {run.minutes:.1f} minutes -> {recipe.folder}")
    return {"training_minutes": round(run.minutes, 2), "dtype": run.dtype} | end_texts(
        recipe, codec.eval(), latents, texts, starts, quiet)


def end_texts(
    recipe: Recipe, codec: WritingCodec, latents: Tensor, texts: list[str], starts: list[str], quiet: bool
) -> dict:
    """Let the language model end texts where they end, by some of them; returns what that changed."""
    rows = torch.randperm(len(texts), generator=torch.Generator().manual_seed(recipe.seed))[:ENDED].tolist()
    some = latents[rows]
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(recipe.seed)).to(some)
    before, after = codec.learn_to_end(
        some + codec.config.assumed_noise * noise, [texts[row] for row in rows], [starts[row] for row in rows],
        progress=partial(tqdm, desc="ends of texts", unit="batch", disable=quiet, mininterval=2, dynamic_ncols=True))
    print(f"the end of a text has a probability of {after:.2f} in the mean, and had one of {before:.2f}")
    return {"end_of_text_before": before, "end_of_text": after}


def finished(recipe: Recipe) -> bool:
    """Whether the recipe's folder has its codec."""
    return (recipe.folder / "codec" / "config.json").exists()


def refuse_long(recipe: Recipe, model, prompts: int) -> None:
    """Raise SentenceModelError where the longest text and the prompts are more than the language model reads."""
    settings = getattr(recipe, recipe.codec)
    most = context(model) - prompts
    if settings.max_tokens > most:
        raise SentenceModelError(f"{recipe.codec}.max_tokens is {settings.max_tokens}, but {settings.language_model!r} "
                                 f"reads no more than {most} tokens beside {prompts} soft prompts; lower it")


def adopt(recipe: Recipe, kind: type[Kind], corpus: Corpus, quiet: bool) -> tuple[Kind, Tensor, dict[str, str]]:
    """Another checkpoint's codec of a kind, as it is, the latents [N, L, D] of this corpus, and where it comes from."""
    path = getattr(recipe, recipe.codec).path
    codec = load_codec(Path(recipe.located(path)))
    if not isinstance(codec, kind):
        raise UserError(f"{recipe.codec}.path is {path!r}, a checkpoint with a {type(codec).__name__}, must be one "
                        f"with a {kind.__name__}; set another, or leave it out to train one")
    if recipe.data.condition in ("start", "text") and codec.continues != (recipe.data.condition == "start"):
        raise UserError(f"data.condition is {recipe.data.condition!r}, but the codec of {path} was "
                        f"{'' if codec.continues else 'not '}trained to go on from its source; leave "
                        f"{recipe.codec}.path out")
    texts, _, own = readable(recipe, codec, corpus)
    recipe.save(recipe.folder / "recipe.yaml")
    codec.to(default_device())
    latents = codec.latents_of(texts[:own], progress=encoding_bar(quiet))
    print(f"the codec of {path} -> {recipe.folder}")
    return codec, latents, {"adopted_from": path}


def readable(recipe: Recipe, codec: WritingCodec, corpus: Corpus) -> tuple[list[str], list[str], int]:
    """The texts that are short enough, the first words that each goes on from, and how many are the corpus' own.

    Those are the first ones; the extra texts come behind them.
    """
    limit, section = recipe.data.max_tokens, getattr(recipe, recipe.codec)
    if limit > codec.config.max_tokens:
        raise DataError(f"data.max_tokens is {limit}, but the codec of {section.path or recipe.name} writes "
                        f"{codec.config.max_tokens} tokens; set data.max_tokens={codec.config.max_tokens} or less")
    short = codec.fits(corpus.train, limit)
    own = list(itertools.compress(corpus.train, short))
    begun = recipe.data.condition == "start"
    starts = list(itertools.compress(corpus.train_conditions, short)) if begun else [""] * len(own)
    more = list(itertools.compress(corpus.extra, codec.fits(corpus.extra, limit)))
    left_out = {"too long": len(corpus.train) - len(own)} | corpus.dropped
    counts = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    print(f"{len(own):,} texts of at most {limit} tokens; left out: {counts}")
    print(length_report(codec.tokenize(corpus.train)))
    if more:
        print(f"{len(more):,} extra texts that are short enough, for the codec alone")
    if len(own) < 2 or not any(codec.fits(corpus.valid)):
        raise DataError(f"{recipe.data.source}: {len(own)} training texts are short enough, two are the least, and an "
                        f"unseen one; raise data.max_tokens ({limit}) and {recipe.codec}.max_tokens, or give more "
                        "texts")
    return own + more, starts + [""] * len(more), len(own)


def show(bar, codec: WritingCodec, texts: list[str]) -> None:
    """A few unseen texts and what is written from their vectors, so that a person sees the words settle."""
    texts = list(itertools.compress(texts, codec.fits(texts)))
    for text, back in zip(texts, codec.decode(codec.encode(texts)) if texts else [], strict=True):
        bar.write(f"  text  {text}\n  back  {back}")


def keep(recipe: Recipe, codec: WritingCodec, latents: Tensor, valid: list[str]) -> list[str]:
    """Save a codec and the corpus' latents [N, L, D]; returns the unseen texts that it is to be measured on."""
    save_latents(recipe.folder, latents, codec.digest)
    save_codec(codec, recipe.folder)
    return list(itertools.compress(valid, codec.fits(valid)))[:MEASURED]


def encoding_bar(quiet: bool) -> Callable[[Iterable], Iterable]:
    """What shows how many batches of texts are encoded."""
    return partial(tqdm, desc="encoding", unit="batch", disable=quiet, mininterval=2, dynamic_ncols=True)
