"""Distill the denoiser of a finished pipeline into one that needs few calls a text.

    latdiff distill storyworld-4 distill.steps=500

Encodes the texts that the teacher was trained on, resumes where an earlier run stopped, and writes a complete pipeline
to checkpoints/NAME, with the teacher's codec and heads. It is sampled with ddim, in the steps that it was distilled to.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from latdiff.recipes.train_denoiser import cached_latents, conditioned, examples, shown_with

from latdiff.batches import BatchOrder
from latdiff.checkpoints import folder_of, save_whole
from latdiff.config import Recipe, RecipeError, recipe_from_command_line
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.diffusion.distillation import Distillation
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.sampling import checked_scheduler
from latdiff.errors import plain_errors
from latdiff.evaluation.card import write_card
from latdiff.evaluation.pictures import log_pictures
from latdiff.evaluation.report import refuse_other_texts, update_metrics
from latdiff.pipelines.files import open_checkpoint
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.training import Run, training

SETTINGS = ("seed", "data", "distill", "sampling")  # that its result depends on


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = recipe.folder, recipe.distill
    state = folder / "train" / "distill.safetensors"
    refuse_changes(recipe, SETTINGS)
    if agreed((folder / "model_index.json").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished pipeline; delete it to distill another, or set name=")
        return
    for problem in settings.conflicts(recipe):  # of a recipe whose stages do not name this one
        raise RecipeError(problem)
    place = folder_of(recipe.located(settings.teacher))
    teacher = open_checkpoint(place)
    scheduler = checked_scheduler(recipe.sampling, teacher.scheduler.config.trained_betas)
    corpus = load_corpus(recipe.data, recipe.seed)
    refuse_other_texts(place, corpus.digest, "set data. to what the teacher was trained on")
    run = Run(recipe, "distill", state, settings, quiet)
    teacher.to(run.device)
    short = teacher.codec.fits(corpus.train, recipe.data.max_tokens)
    latents = cached_latents(recipe, teacher.codec, corpus, short, quiet)
    latents, conditions = conditioned(recipe, teacher.codec, corpus, latents, short)
    by_main(recipe.save)(folder / "recipe.yaml", "distill")

    torch.manual_seed(recipe.seed)
    student = copy.deepcopy(teacher.denoiser).float().ignore_estimates()
    average = copy.deepcopy(student).requires_grad_(False).eval()
    print(f"denoiser with {sum(p.numel() for p in student.parameters()):,} weights, {place.name} in "
          f"{recipe.sampling.steps} calls -> {folder}")
    ema = EMAModel(student.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    known = itertools.chain([teacher.denoiser.config.codec_digest], corpus.train, corpus.train_conditions)
    student = run.prepare(student, known, ema=ema)
    distillation = Distillation(
        GaussianDiffusion(teacher.denoiser).denoise, GaussianDiffusion(student), GaussianDiffusion(average).denoise,
        scheduler.alphas_cumprod, recipe.sampling.steps, settings.levels, settings.starts)
    for step, rows in run.steps(BatchOrder(len(latents), settings.batch_size, recipe.seed)):
        ema.copy_to(average.parameters())
        own = run.own(rows)
        with run.autocast():
            loss = distillation.loss(latents[own].to(run.device), run.draws(), conditions(own))
        run.update(run.share(loss))
        if run.shows(settings.sample_every) and step + 1 < settings.steps:
            run.show(samples(pipeline(recipe, teacher, average, scheduler), recipe, corpus, 3))

    write_pipeline(recipe, run, pipeline(recipe, teacher, run.finish(), scheduler), corpus, place, quiet)


def pipeline(
    recipe: Recipe, teacher: LatentTextDiffusionPipeline, denoiser, scheduler
) -> LatentTextDiffusionPipeline:
    """The teacher's with another denoiser and sampler."""
    return LatentTextDiffusionPipeline(
        codec=teacher.codec, denoiser=denoiser, scheduler=scheduler, num_inference_steps=recipe.sampling.steps,
        decoding=teacher.config.decoding, dtype=recipe.dtype)


def samples(pipe: LatentTextDiffusionPipeline, recipe: Recipe, corpus: Corpus, n: int) -> list[tuple[str, str]]:
    """A few decoded samples, so that a person sees them get better."""
    pipe.set_progress_bar_config(disable=True)
    cond = examples(corpus, pipe.codec, n)
    texts = pipe(cond, None if cond else n, generator=torch.Generator().manual_seed(recipe.seed)).texts
    return [("sample", text) for text in shown_with(cond, texts)]


@by_main
def write_pipeline(
    recipe: Recipe, run: Run, pipe: LatentTextDiffusionPipeline, corpus: Corpus, teacher: Path, quiet: bool
) -> None:
    """Save the pipeline with the teacher's heads, a few samples, its figures and its card."""
    folder = recipe.folder
    texts = [text for _, text in samples(pipe, recipe, corpus, 20)]
    (folder / "samples.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    if (teacher / "heads").is_dir():
        shutil.copytree(teacher / "heads", folder / "heads", dirs_exist_ok=True)
    update_metrics(folder, {"training": {
        "distill_minutes": round(run.minutes, 2), "distill_steps": run.settings.steps, "teacher": teacher.name,
        "dtype": run.dtype, "texts_digest": corpus.digest}})
    write_card(folder)
    save_whole(folder, "model_index.json", pipe.save_pretrained)
    run.state.unlink(missing_ok=True)
    log_pictures(run, folder, pipe)
    print(*([] if quiet else texts[:5]), f"distilled in {run.minutes:.1f} minutes -> {folder}", sep="\n")


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
