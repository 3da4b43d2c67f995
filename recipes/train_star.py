"""Train a language model to stop, think of a plan of the whole text, and write on.

    latdiff train-star star-storyworld train_star.steps=500

Begins with a language model that `latdiff train-ar` wrote, takes the codec of another checkpoint for the plans, encodes
every text once, resumes where an earlier run stopped, and writes a pipeline to checkpoints/NAME.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from latdiff.batches import BatchOrder
from latdiff.checkpoints import save_whole
from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import Codec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import DataError, load_corpus
from latdiff.data.packed import PackedIds, PackedTexts
from latdiff.data.splits import split_ids, split_texts
from latdiff.data.tokens import AT_ONCE, tokenize
from latdiff.diffusion.sampling import checked_scheduler
from latdiff.diffusion.star import StarLoss
from latdiff.errors import plain_errors
from latdiff.evaluation.report import update_metrics
from latdiff.fetch import MODELS, located
from latdiff.latents import Latents, write_latents
from latdiff.lm import LanguageModelError, context, load_pretrained
from latdiff.models.backbone import fast_attention
from latdiff.models.star import StarPlanner, begun
from latdiff.pipelines.star import StarPipeline
from latdiff.precision import autocast
from latdiff.processes import agreed, by_main
from latdiff.resuming import digest_of, refuse_changes
from latdiff.schedule import betas
from latdiff.training import Run, training

SETTINGS = ("seed", "data", "star", "train_star")  # that its result depends on
PLANS = Path("train/plans")
SCHEDULE = "tan-3"  # sampled with: the cosine schedule, its log-SNR shifted by -2 log 3


@dataclass(frozen=True)
class Cut:
    """Training texts cut in two.

    Attributes:
        texts: M of them, whole.
        rows: which of them is cut, at each of N cuts.
        before: ids of the first words, N rows.
        behind: ids of the others, end-of-text included.
    """

    texts: Sequence[str]
    rows: Sequence[int]
    before: PackedIds
    behind: PackedIds


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = recipe.folder, recipe.train_star
    state = folder / "train" / "star.safetensors"
    refuse_changes(recipe, SETTINGS)
    if agreed((folder / "model_index.json").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished pipeline; delete it to train another, or set name=")
        return
    checked_scheduler(recipe.sampling, betas(SCHEDULE))
    run = Run(recipe, "star", state, settings, quiet)
    codec = load_codec(recipe.located(recipe.star.plan)).to(run.device)
    tokenizer, language_model = load(recipe)
    corpus = load_corpus(recipe.data, recipe.seed)
    cut = readable(recipe, codec, tokenizer, language_model, corpus.train)
    shown = beginnings(recipe, tokenizer, language_model, corpus.valid)
    by_main(recipe.save)(folder / "recipe.yaml", "train_star")
    plans = cached_plans(recipe, codec, cut.texts, quiet)

    torch.manual_seed(recipe.seed)
    planner = build(recipe, codec, language_model)
    loss_of = StarLoss(language_model, planner, settings.condition_dropout).train()
    print(f"{sum(p.numel() for p in loss_of.parameters()):,} weights, {sum(p.numel() for p in planner.parameters()):,} "
          f"of them the planner's -> {folder}")
    ema = EMAModel(loss_of.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    objective = run.prepare(loss_of, itertools.chain([codec.digest], cut.texts), ema=ema)
    order = BatchOrder(len(cut.rows), settings.batch_size, recipe.seed, cut.behind.lengths)
    for step, rows in run.steps(order):
        draws = run.draws()
        torch.manual_seed(draws.generator.initial_seed())  # of the dropout
        plan = plans[[cut.rows[row] for row in run.own(rows)]].to(run.device, torch.float32)
        with run.autocast():
            nats, error = objective(plan, [cut.before[row] for row in rows], [cut.behind[row] for row in rows], draws)
        tokens = [len(cut.before[row]) - 1 + len(cut.behind[row]) for row in rows]
        run.update(run.share(nats, tokens) + settings.plan_weight * run.share(error))
        if run.shows(settings.sample_every) and step + 1 < settings.steps:
            losses = f"{nats.item():.3f} nats a token, {error.item():.3f} of the plan"
            pipe = pipeline(recipe, tokenizer, loss_of, codec)
            run.show([("losses", losses), *samples(loss_of, pipe, ema, shown[:3])])

    run.finish()
    finish(recipe, run, pipeline(recipe, tokenizer, loss_of.eval(), codec), shown[:20], quiet)


def load(recipe: Recipe) -> tuple:
    """Tokenizer and language model to begin with, all of which is trained.

    Raises:
        LanguageModelError: When there is none, and for one that has no token to end a text with.
    """
    name = recipe.star.language_model

    def refuse(reason: str) -> LanguageModelError:
        return LanguageModelError(f"star.language_model is {name!r}, which {reason}; train one with `latdiff train-ar "
                                  "storyworld`, or set another")

    path = str(located(name)) if name in MODELS else recipe.located(name)
    tokenizer, model = load_pretrained(AutoModelForCausalLM, path, refuse)
    if tokenizer.eos_token_id is None:
        raise refuse("has no end-of-text token")
    return tokenizer, fast_attention(model)


def readable(recipe: Recipe, codec: Codec, tokenizer, language_model, texts: Sequence[str]) -> Cut:
    """The cuts of training texts that the codec and, with a plan between, the language model can read.

    Raises:
        DataError: When there are fewer than two.
    """
    short = PackedTexts(itertools.compress(texts, codec.fits(texts)))
    places, before, behind, count = array("q"), PackedIds(), PackedIds(), 0
    number: dict[str, int] = {}
    most = most_tokens(recipe, language_model)
    for first in range(0, len(short), AT_ONCE):
        splits = split_texts(short[first : first + AT_ONCE], recipe.train_star.splits, recipe.seed)
        count += len(splits)
        for one, pair in zip(splits, split_ids(tokenizer, splits), strict=True):
            if pair and len(pair[0]) + len(pair[1]) <= most:
                places.append(number.setdefault(one.text, len(number)))
                before.append(*begun(language_model, tokenizer, pair[:1]))
                behind.append(pair[1])
    print(f"{len(texts):,} texts, {len(texts) - len(short):,} of them too long for the codec, the others cut at "
          f"{count:,} places; left out: {count - len(places):,} within a token, or of over {most} tokens")
    if len(places) < 2:
        raise DataError(f"{recipe.data.source}: {len(places)} cuts are short enough, two are the least; raise "
                        f"data.max_tokens ({recipe.data.max_tokens}), or give other texts")
    return Cut(PackedTexts(number), places, before, behind)


def most_tokens(recipe: Recipe, language_model) -> int:
    """Tokens of a text, end-of-text included, that is trained on: a plan has to fit between them."""
    return min(recipe.data.max_tokens, context(language_model) - recipe.star.num_prompts)


def beginnings(recipe: Recipe, tokenizer, language_model, texts: list[str]) -> list[str]:
    """The first words of those unseen texts that are short enough, to show what becomes of them.

    Raises:
        DataError: When there are none.
    """
    ids, most = tokenize(tokenizer, texts), most_tokens(recipe, language_model)
    short = [text for text, row in zip(texts, ids, strict=True) if len(row) < most]
    found = [one.before for one in split_texts(short, 1, recipe.seed)]
    if not found:
        raise DataError(f"{recipe.data.source}: of {len(texts)} unseen texts none can be cut and has fewer than {most} "
                        f"tokens; raise data.max_tokens ({recipe.data.max_tokens}) or data.valid_size, or give other "
                        "texts")
    return found


def cached_plans(recipe: Recipe, codec: Codec, texts: Sequence[str], quiet: bool) -> Latents:
    """Latents of N texts in half precision, from disk, or encoded and put there."""

    def encoded(rows: range) -> Tensor:
        with autocast(torch.device(codec.device).type, recipe.dtype):
            return codec.encode(texts[rows.start : rows.stop]).half()

    progress = partial(tqdm, desc="encoding", disable=quiet, mininterval=2)
    return write_latents(recipe.folder / PLANS, str(codec.digest), digest_of(texts), len(texts), encoded, progress)


def build(recipe: Recipe, codec: Codec, language_model) -> StarPlanner:
    """The two networks, untrained."""
    embeddings, settings = language_model.get_input_embeddings().weight, recipe.star
    planner = StarPlanner(
        *codec.latent_shape, prompt_dim=embeddings.shape[1], num_prompts=settings.num_prompts, width=settings.width,
        depth=settings.depth, heads=settings.heads, codec_digest=codec.digest,
    )
    planner.begin_at(embeddings.std().item())
    return planner


def pipeline(recipe: Recipe, tokenizer, trained: StarLoss, codec: Codec) -> StarPipeline:
    return StarPipeline(
        language_model=trained.language_model, language_tokenizer=tokenizer, planner=trained.planner, codec=codec,
        scheduler=checked_scheduler(recipe.sampling, betas(SCHEDULE)),
        num_inference_steps=recipe.sampling.steps,
    )


def samples(trained: StarLoss, pipe: StarPipeline, ema: EMAModel, first: list[str]) -> list[tuple[str, str]]:
    """A few texts of the averaged weights, so that a person sees plans emerge."""
    ema.store(trained.parameters())
    ema.copy_to(trained.parameters())
    trained.eval()
    pipe.set_progress_bar_config(disable=True)
    texts = pipe(first, generator=torch.Generator().manual_seed(0)).continuations
    trained.train()
    ema.restore(trained.parameters())
    return [("sample", f"{one} | {text}") for one, text in zip(first, texts, strict=True)]


@by_main
def finish(recipe: Recipe, run: Run, pipe: StarPipeline, first: list[str], quiet: bool) -> None:
    """Save the pipeline with a few texts and its figures."""
    folder = recipe.folder
    pipe.set_progress_bar_config(disable=quiet)
    found = pipe(first, generator=torch.Generator().manual_seed(recipe.seed)).continuations
    texts = [f"{one} | {' '.join(text.split())}" for one, text in zip(first, found, strict=True)]
    (folder / "samples.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    update_metrics(folder, {"training": {"star_minutes": round(run.minutes, 2), "star_steps": run.settings.steps,
                                         "dtype": run.dtype}})
    save_whole(folder, "model_index.json", pipe.save_pretrained)
    run.state.unlink(missing_ok=True)
    print(*([] if quiet else texts[:5]), f"trained in {run.minutes:.1f} minutes -> {folder}", sep="\n")


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
