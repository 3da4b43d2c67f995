"""Train the denoising transformer on cached latents.

    latdiff train-diffusion storyworld train_denoiser.steps=500

Builds what it needs that is missing (backbone, autoencoder, latent cache), resumes where an earlier
run stopped, and writes a complete pipeline to checkpoints/NAME.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel

from latdiff.batches import BatchOrder
from latdiff.checkpoints import save_whole
from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import Codec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.data.packed import PackedTexts
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.sampling import checked_scheduler
from latdiff.errors import plain_errors
from latdiff.evaluation.card import write_card
from latdiff.evaluation.pictures import log_pictures
from latdiff.evaluation.report import update_metrics
from latdiff.latents import LATENTS, Latents, write_latents
from latdiff.models.conditions import Labels, Source
from latdiff.models.denoiser import LatentDenoiser
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.precision import autocast
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.schedule import betas
from latdiff.training import Run, training

SOURCES = Path("train/sources")  # of texts that are conditioned on them, encoded


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings, how = recipe.folder, recipe.train_denoiser, recipe.diffusion
    checked_scheduler(recipe.sampling, betas(how.schedule))
    codec_stage = importlib.import_module(f"latdiff.recipes.train_{recipe.codec}")
    if not agreed(codec_stage.finished(recipe)):
        codec_stage.main(recipe, quiet)
    state = folder / "train" / "denoiser.safetensors"
    is_finished = agreed((folder / "model_index.json").exists())
    begun = ("denoiser", "diffusion", "train_denoiser") if is_finished or state.exists() else ()
    refuse_changes(recipe, (*codec_stage.SETTINGS, *begun, *(["sampling"] if is_finished else [])))
    if is_finished:
        state.unlink(missing_ok=True)  # a kill may have left it
        shutil.rmtree(folder / SOURCES, ignore_errors=True)
        print(f"{folder} already holds a finished pipeline; delete {folder / 'denoiser'} and "
              f"{folder / 'model_index.json'} to train another denoiser, or set name=")
        return
    run = Run(recipe, "denoiser", state, settings, quiet)
    codec = load_codec(folder).to(run.device)
    corpus = load_corpus(recipe.data, recipe.seed)
    short = codec.fits(corpus.train, recipe.data.max_tokens)
    latents = cached_latents(recipe, codec, corpus, short, quiet)
    latents, conditions = conditioned(recipe, codec, corpus, latents, short)
    by_main(recipe.save)(folder / "recipe.yaml", "train_denoiser")

    torch.manual_seed(recipe.seed)
    denoiser = build(recipe, codec, corpus)
    print(f"denoiser with {sum(p.numel() for p in denoiser.parameters()):,} weights -> {folder}")
    ema = EMAModel(denoiser.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    denoiser = run.prepare(denoiser, itertools.chain([codec.digest], corpus.train, corpus.train_conditions), ema=ema)
    scheduler = DDPMScheduler(trained_betas=betas(how.schedule))
    diffusion = GaussianDiffusion(denoiser, scheduler.alphas_cumprod, how.self_conditioning, settings.condition_dropout,
                                  how.times, how.logit_mean, how.logit_std)
    for step, rows in run.steps(BatchOrder(len(latents), settings.batch_size, recipe.seed)):
        own = run.own(rows)
        batch, cond = latents[own].to(run.device), conditions(own)
        with run.autocast():
            loss = diffusion.loss(batch, run.draws(), cond)
        run.update(run.share(loss))
        if run.shows(settings.sample_every) and step + 1 < settings.steps:
            run.show(samples(recipe, codec, denoiser, ema, examples(corpus, codec, 3)))

    write_pipeline(recipe, run, codec, corpus, quiet)


@by_main
def write_pipeline(recipe: Recipe, run: Run, codec: Codec, corpus: Corpus, quiet: bool) -> None:
    """Save the pipeline with a few samples, its figures and its card."""
    folder, denoiser = recipe.folder, run.finish()
    pipe = pipeline(recipe, codec, denoiser)
    pipe.set_progress_bar_config(disable=quiet)
    cond = examples(corpus, codec, 20)
    texts = pipe(cond, None if cond else 20, generator=torch.Generator().manual_seed(recipe.seed)).texts
    texts = shown_with(cond, texts)
    (folder / "samples.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    trained = {"denoiser_minutes": round(run.minutes, 2), "denoiser_steps": run.settings.steps, "dtype": run.dtype,
               "texts_digest": corpus.digest}
    update_metrics(folder, {"training": trained})
    write_card(folder)
    save_whole(folder, "model_index.json", pipe.save_pretrained)
    run.state.unlink(missing_ok=True)
    shutil.rmtree(folder / SOURCES, ignore_errors=True)
    log_pictures(run, folder, pipe)
    print(*([] if quiet else texts[:5]), f"trained in {run.minutes:.1f} minutes -> {folder}", sep="\n")


def cached_latents(recipe: Recipe, codec: Codec, corpus: Corpus, short: list[bool], quiet: bool) -> Latents:
    """Latents of the N training texts that are short enough, from disk, or encoded and put there."""
    texts = PackedTexts(itertools.compress(corpus.train, short))

    def announced(shards: list[int]) -> list[int]:
        if shards and not quiet:
            print(f"encoding {len(texts):,} texts once, for all steps to come")
        return shards

    def encoded(rows: range) -> torch.Tensor:
        with autocast(codec.device.type, recipe.dtype):
            return codec.encode(texts[rows.start : rows.stop])

    return write_latents(recipe.folder / LATENTS, codec.digest, corpus.digest, len(texts), encoded, announced)


def conditioned(
    recipe: Recipe, codec: Codec, corpus: Corpus, latents: Latents, short: list[bool]
) -> tuple[Latents, Callable[[list[int]], Labels | Source | None]]:
    """The latents whose condition can be read, and a function from rows of them to their conditions."""
    if not corpus.train_conditions:
        return latents, lambda rows: None
    conditions = PackedTexts(itertools.compress(corpus.train_conditions, short))
    if recipe.data.condition == "label":
        labels = Labels.of(conditions, corpus.classes).to(codec.device)
        return latents, labels.__getitem__
    kept = array("q", itertools.compress(itertools.count(), codec.fits(conditions)))
    print(f"{len(kept):,} texts with a source that the codec reads; left out: {len(conditions) - len(kept):,}")
    return latents.only(kept), codec.conditions(PackedTexts(conditions[i] for i in kept), recipe.folder / SOURCES)


def examples(corpus: Corpus, codec: Codec, n: int) -> list[str] | None:
    """Conditions to show n samples of: the classes in turn, or unseen sources; none without either."""
    known = corpus.classes
    if not known and corpus.valid_conditions:
        fitting = itertools.compress(corpus.valid_conditions, codec.fits(corpus.valid_conditions))
        known = [source for source in fitting if source]
    return list(itertools.islice(itertools.cycle(known), n)) or None


def shown_with(cond: list[str] | None, texts: list[str]) -> list[str]:
    """Texts behind their conditions where they have any."""
    return texts if cond is None else [f"{one} -> {text}" for one, text in zip(cond, texts, strict=True)]


def build(recipe: Recipe, codec: Codec, corpus: Corpus) -> LatentDenoiser:
    return LatentDenoiser(
        *codec.latent_shape, width=recipe.denoiser.width, depth=recipe.denoiser.depth, heads=recipe.denoiser.heads,
        prediction=recipe.diffusion.prediction, codec_digest=codec.digest, classes=corpus.classes or None,
        source_dim=codec.condition_dim if recipe.data.reads_source else 0,
    )


def pipeline(recipe: Recipe, codec: Codec, denoiser: LatentDenoiser) -> LatentTextDiffusionPipeline:
    return LatentTextDiffusionPipeline(
        codec=codec, denoiser=denoiser,
        scheduler=checked_scheduler(recipe.sampling, betas(recipe.diffusion.schedule)),
        num_inference_steps=recipe.sampling.steps, decoding=recipe.sampling.decoding, dtype=recipe.dtype,
    )


def samples(
    recipe: Recipe, codec: Codec, denoiser: LatentDenoiser, ema: EMAModel, cond: list[str] | None
) -> list[tuple[str, str]]:
    """A few decoded samples of the averaged weights, so that a person sees text emerge."""
    ema.store(denoiser.parameters())
    ema.copy_to(denoiser.parameters())
    pipe = pipeline(recipe, codec, denoiser)
    pipe.set_progress_bar_config(disable=True)
    texts = pipe(cond, None if cond else 3, generator=torch.Generator().manual_seed(recipe.seed)).texts
    ema.restore(denoiser.parameters())
    return [("sample", text) for text in shown_with(cond, texts)]


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
