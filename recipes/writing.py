"""What the recipes of writing codecs share: a frozen language model learns to write texts from their latents."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from latdiff.batches import BatchOrder
from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.writing import WritingCodec
from latdiff.config import Recipe
from latdiff.data.corpus import Corpus, DataError, load_corpus
from latdiff.data.packed import PackedTexts
from latdiff.data.tokens import IGNORED, kept_report, length_report
from latdiff.draws import Draws
from latdiff.errors import UserError
from latdiff.evaluation.report import update_metrics
from latdiff.latents import LATENTS, Latents, write_latents
from latdiff.lm import context
from latdiff.models.writer import SentenceModelError, add_updates, merge_updates, writer_features
from latdiff.precision import default_device
from latdiff.processes import agreed, by_main
from latdiff.resuming import digest_of, refuse_changes
from latdiff.training import Run

RAW = Path("train/raw")  # what is encoded of all texts, before it is whitened
SHOWN, MEASURED = 3, 200  # unseen texts that are printed under way, and measured at the end
CHANGED = ("max_tokens", "assumed_noise")  # settings of a codec that may differ where it is taken
ENDED = 2000  # training texts by whose ends the language model learns to end


class Texts(NamedTuple):
    """N texts, and the first words that each goes on from, '' where it is whole."""

    all: Sequence[str]
    starts: Sequence[str]

    @classmethod
    def of(cls, recipe: Recipe, codec: WritingCodec, texts: Sequence[str], conditions: Sequence[str]) -> Texts:
        """Those that are short enough; their conditions are first words where the recipe says so."""
        fits = codec.fits(texts, recipe.data.max_tokens)
        starts = conditions if recipe.data.condition == "start" else [""] * len(texts)
        return cls(*(PackedTexts(itertools.compress(rows, fits)) for rows in (texts, starts)))

    def first(self, count: int) -> Texts:
        """The first so many."""
        return Texts(self.all[:count], self.starts[:count])


@dataclass(frozen=True)
class Stage:
    """What is a writing codec's own in its training.

    Attributes:
        codec: what a recipe calls it.
        settings: the recipe's sections that the result depends on.
        kind: of the codec.
        build: recipe -> an untrained codec with its models.
        encode: recipe, codec, texts, how many are the corpus' own, unseen texts, quiet -> latents of all texts,
            whitened over the own ones, and what is to be kept beside the figures.
        measure: recipe, codec, unseen texts -> a name and figures.
        working: files below the run's folder that a finished run does without.
    """

    codec: str
    settings: tuple[str, ...]
    kind: type[WritingCodec]
    build: Callable[[Recipe], Any]
    encode: Callable[[Recipe, Any, Texts, int, Texts, bool], tuple[Latents, dict]]
    measure: Callable[[Recipe, Any, Texts], tuple[str, dict]]
    working: tuple[Path, ...]


def noised(latents: Tensor, most: float, generator: torch.Generator | Draws) -> tuple[Tensor, Tensor]:
    """Latents [B, L, D], half of them with noise of sd ~ U(0, most), and the sd [B]."""
    draws = Draws.of(generator, len(latents))
    noisy = draws.rand() < 0.5
    sd = (noisy * most * draws.rand()).to(latents)
    return latents + sd[:, None, None] * draws.randn(*latents.shape[1:]).to(latents), sd


def places(pieces: Tensor, size: int) -> Tensor:
    """The place [V] among P pieces of every id of a vocabulary of V = size; IGNORED for those that are none of them."""
    found = torch.full((size,), IGNORED)
    found[pieces] = torch.arange(len(pieces))
    return found


class Ending(nn.Module):
    """The vector [H] that is added to the output embedding of end-of-text, as a module to be trained and resumed.

    Adam moves such a vector sooner than low-rank updates of inner layers raise the odds of one token (see `fit_end`).

    Args:
        ending: a codec's, whose memory is trained in place, so that texts shown under way end as is learnt so far.
    """

    def __init__(self, ending: Tensor):
        super().__init__()
        self.weight = nn.Parameter(ending)

    def forward(self, features: Tensor) -> Tensor:
        """What is added to the logit of end-of-text [N], of features [N, H]."""
        return features @ self.weight.to(features)


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
        self.register_buffer("place", places(pieces, codec.language_model.config.vocab_size))
        self.end = int(self.place[codec.tokenizer.eos_token_id])
        self.ending = Ending(codec.ending)

    def forward(self, latents, ids, starts, generator):
        prompts = self.reader(*noised(latents, self.latent_noise, generator))
        features = writer_features(self.language_model[0], prompts, ids, starts)
        wanted = torch.tensor([one for row in ids for one in row], device=features.device)
        logits = F.linear(features, self.head.to(features)).float()
        logits = logits.index_add(1, self.place.new_tensor([self.end]), self.ending(features).float()[:, None])
        return F.cross_entropy(logits, self.place[wanted])


def train(recipe: Recipe, stage: Stage, quiet: bool) -> None:
    """Train a writing codec, or take another checkpoint's, save it with the corpus' latents, and measure it.

    A codec that is taken is fine-tuned where `finetune` is set. Else only the ends of texts are fitted: headlines end
    without a full stop, reviews do not.
    """
    recipe.check_codec(stage.codec)
    folder, section = recipe.folder, getattr(recipe, recipe.codec)
    path, trains = section.path, not section.path or section.finetune
    refuse_changes(recipe, stage.settings)
    if agreed(finished(recipe)):
        clear(folder, stage.working)
        print(f"{folder / 'codec'} is already trained; delete {folder} or set name= to train another")
        return
    corpus = load_corpus(recipe.data, recipe.seed, extra=trains)
    codec = taken(recipe, stage.kind, path) if path else stage.build(recipe)
    codec.to(default_device())
    texts, own = readable(recipe, codec, corpus)
    unseen = Texts.of(recipe, codec, corpus.valid, corpus.valid_conditions).first(MEASURED)
    by_main(recipe.save)(folder / "recipe.yaml")
    if path:
        latents, made = encoded(folder, codec.digest, codec.latents_of, texts.all, quiet), {"adopted_from": path}
        print(f"the codec of {path} -> {folder}, {'to be fine-tuned' if trains else 'where texts end is learnt anew'}")
    else:
        latents, made = stage.encode(recipe, codec, texts, own, unseen, quiet)
    if trains:
        made |= write_from(recipe, codec, latents, texts, unseen, quiet)
    made |= end_texts(recipe, codec.eval(), latents, texts, unseen, quiet)
    write_latents(folder / LATENTS, codec.digest, corpus.digest, own, latents.__getitem__)
    complete(recipe, stage, codec, unseen, made)


@by_main
def complete(recipe: Recipe, stage: Stage, codec: WritingCodec, unseen: Texts, made: dict) -> None:
    """Save the codec with its figures."""
    name, figures = stage.measure(recipe, codec.eval(), unseen)
    update_metrics(recipe.folder, {name: figures | made})
    save_codec(codec, recipe.folder)
    clear(recipe.folder, stage.working)


@by_main
def clear(folder: Path, working: Iterable[Path]) -> None:
    """Delete what a finished run does without; a kill may have left it."""
    for file in working:
        (folder / file).unlink(missing_ok=True)
    shutil.rmtree(folder / RAW, ignore_errors=True)


def write_from(recipe: Recipe, codec: WritingCodec, latents: Latents, texts: Texts, unseen: Texts, quiet: bool) -> dict:
    """Train soft prompts, low-rank updates and ends to write texts of their latents; returns minutes, dtype."""
    name = recipe.codec
    settings, rank = getattr(recipe, f"train_{name}"), codec.config.rank
    run = Run(recipe, name, recipe.folder / "train" / f"{name}.safetensors", settings, quiet)
    codec.keep_latents()
    ids, begun = codec.tokenize(texts.all, texts.starts), codec.ids(texts.starts)
    pieces = torch.tensor(sorted({piece for row in ids for piece in row}))
    objective = WritingLoss(codec, settings.latent_noise, pieces)
    low_rank = add_updates(codec.language_model, rank) if rank else nn.ModuleList()
    trained = nn.ModuleList([objective.reader, objective.ending, *low_rank])
    count = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    print(f"{count:,} weights to train, {len(pieces):,} pieces, {len(ids):,} texts -> {recipe.folder}")
    made_of = itertools.chain([codec.digest], texts.all, texts.starts)
    objective = run.prepare(objective, made_of, trained=trained, muon=False)  # Muon: not tried on low-rank factors
    for _, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, ids.lengths)):
        own = run.own(rows)
        batch = latents[own].to(run.device), [ids[i] for i in own], [begun[i] for i in own]
        with run.autocast():
            loss = objective(*batch, run.draws())
        run.update(run.share(loss, [len(ids[i]) for i in rows]))
        if run.shows(settings.sample_every):
            run.show(written_again(codec, unseen.first(SHOWN)))
    run.finish()
    merge_updates(codec.language_model)
    print(f"trained in {run.minutes:.1f} minutes -> {recipe.folder}")
    return {"training_minutes": round(run.minutes, 2), "dtype": run.dtype}


def end_texts(recipe: Recipe, codec: WritingCodec, latents: Latents, texts: Texts, unseen: Texts, quiet: bool) -> dict:
    """Let the language model end texts where they end, by some of them; returns what that changes of unseen ones."""
    rows = torch.randperm(len(texts.all), generator=torch.Generator().manual_seed(recipe.seed))[:ENDED].tolist()
    noise = torch.randn(len(rows), *codec.latent_shape, generator=torch.Generator().manual_seed(recipe.seed))
    others = codec.encode(unseen.all)
    before = codec.end_probability(others, unseen.all, unseen.starts)
    bar = partial(tqdm, desc="ends of texts", unit="batch", disable=quiet, mininterval=2, dynamic_ncols=True)
    some = latents[rows]
    codec.learn_to_end(some + codec.config.assumed_noise * noise.to(some),
                       [texts.all[row] for row in rows], [texts.starts[row] for row in rows], progress=bar)
    after = codec.end_probability(others, unseen.all, unseen.starts)
    print(f"an unseen text ends where it does with a probability of {after:.2f}, before that was fitted {before:.2f}")
    return {"end_of_text_before": before, "end_of_text": after}


def finished(recipe: Recipe) -> bool:
    """Whether the recipe's folder has its codec, weights and all."""
    folder = recipe.folder / "codec"
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))


def refuse_long(recipe: Recipe, model, prompts: int) -> None:
    """Raise SentenceModelError where the longest text and the prompts are more than the language model reads."""
    settings = getattr(recipe, recipe.codec)
    most = context(model) - prompts
    if settings.max_tokens > most:
        raise SentenceModelError(f"{recipe.codec}.max_tokens is {settings.max_tokens}, but {settings.language_model!r} "
                                 f"reads no more than {most} tokens beside {prompts} soft prompts; lower it")


def taken(recipe: Recipe, kind: type[WritingCodec], path: str) -> WritingCodec:
    """Another checkpoint's codec of a kind, as it is."""
    codec = load_codec(Path(recipe.located(path)))
    if not isinstance(codec, kind):
        raise UserError(f"{recipe.codec}.path is {path!r}, a checkpoint with a {type(codec).__name__}, must be one "
                        f"with a {kind.__name__}; set another, or leave it out to train one")
    if recipe.data.condition in ("start", "text") and codec.continues != (recipe.data.condition == "start"):
        raise UserError(f"data.condition is {recipe.data.condition!r}, but the codec of {path} was "
                        f"{'' if codec.continues else 'not '}trained to go on from its source; leave "
                        f"{recipe.codec}.path out")
    section = getattr(recipe, recipe.codec)
    for key, field in type(section).model_fields.items():
        given, held = getattr(section, key), codec.config.get(key)
        if key in codec.config and key not in CHANGED and given not in (held, field.default):
            raise UserError(f"{recipe.codec}.{key} is {given!r}, but the codec of {path} has {held!r} and is taken as "
                            f"it is; leave it out, or leave {recipe.codec}.path out to train a codec")
    if section.finetune:
        codec.register_to_config(assumed_noise=section.assumed_noise)
    return codec


def readable(recipe: Recipe, codec: WritingCodec, corpus: Corpus) -> tuple[Texts, int]:
    """The texts that are short enough, and how many of them, the first ones, are the corpus' own; then come extra ones.

    Raises:
        DataError: For too few texts, and for a limit that the codec does not reach.
    """
    limit, section = recipe.data.max_tokens, getattr(recipe, recipe.codec)
    if limit > codec.config.max_tokens:
        raise DataError(f"data.max_tokens is {limit}, but the codec of {section.path or recipe.name} writes "
                        f"{codec.config.max_tokens} tokens; set data.max_tokens={codec.config.max_tokens} or less")
    own = Texts.of(recipe, codec, corpus.train, corpus.train_conditions)
    more = PackedTexts(itertools.compress(corpus.extra, codec.fits(corpus.extra, limit)))
    left_out = {"too long": len(corpus.train) - len(own.all)} | corpus.dropped
    print(kept_report(len(own.all), limit, left_out))
    print(length_report(codec.tokenize(corpus.train)))
    if more:
        print(f"{len(more):,} extra texts that are short enough, for the codec alone")
    if len(own.all) < 2 or not any(codec.fits(corpus.valid, limit)):
        raise DataError(f"{recipe.data.source}: {len(own.all)} training texts are short enough, two are the least, and "
                        f"an unseen one; raise data.max_tokens ({limit}) and {recipe.codec}.max_tokens, or give more "
                        "texts")
    every = itertools.chain(own.all, more), itertools.chain(own.starts, [""] * len(more))
    return Texts(*map(PackedTexts, every)), len(own.all)


def written_again(codec: WritingCodec, texts: Texts) -> list[tuple[str, str]]:
    """A few texts and what is written from their latents, so that a person sees the words settle."""
    back = codec.decode(codec.encode(texts.all), texts.starts)
    return [(what, f"{start} | {text}" if start else text)
            for start, *pair in zip(texts.starts, texts.all, back, strict=True)
            for what, text in zip(("text", "back"), pair, strict=True)]


def encoded(
    folder: Path, made_of: str, encode: Callable[[Sequence[str]], Tensor], texts: Sequence[str], quiet: bool
) -> Latents:
    """What `encode`, of which `made_of` is a digest, makes of texts: on the disk until the run is finished."""
    return write_latents(folder / RAW, made_of, digest_of(texts), len(texts),
                         lambda rows: encode(texts[rows.start : rows.stop]), encoding_bar(quiet))


def encoding_bar(quiet: bool) -> Callable[[Iterable], Iterable]:
    """What shows how many shards of texts are encoded."""
    return partial(tqdm, desc="encoding", unit="shard", disable=quiet, mininterval=2, dynamic_ncols=True)
