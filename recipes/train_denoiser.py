"""Train the denoising transformer on cached latents.

    python recipes/train_denoiser.py storyworld train_denoiser.steps=500

Builds what it needs that is missing (backbone, autoencoder, latent cache), resumes where an earlier
run stopped, and writes a complete pipeline to checkpoints/NAME.
"""

from __future__ import annotations

import time

import torch
import train_autoencoder
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel

from latdiff.cards import update_metrics, write_card
from latdiff.codec import TextCodec
from latdiff.config import Recipe, plain_errors, recipe_from_command_line
from latdiff.data import load_corpus
from latdiff.denoiser import LatentDenoiser
from latdiff.diffusion import GaussianDiffusion
from latdiff.pipeline import LatentTextDiffusionPipeline, load_codec, make_scheduler
from latdiff.precision import fast_autocast
from latdiff.schedule import betas
from latdiff.tokens import tokenize
from latdiff.training import (
    BatchOrder,
    accelerator,
    load_latents,
    load_state,
    optimizers,
    progress_bar,
    refuse_changes,
    report,
    save_latents,
    save_state,
    set_learning_rate,
    step_generator,
)


def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = recipe.folder, recipe.train_denoiser
    if not (folder / "autoencoder" / "config.json").exists():
        train_autoencoder.main(recipe, quiet)
    state = folder / "train" / "denoiser.safetensors"
    begun = ("denoiser", "diffusion", "train_denoiser") if state.exists() else ()
    refuse_changes(recipe, ("seed", "data", "backbone", "autoencoder", "train_autoencoder", *begun))
    if (folder / "model_index.json").exists():
        print(f"{folder} already holds a finished pipeline; delete {folder / 'denoiser'} and "
              f"{folder / 'model_index.json'} to train another denoiser, or set name=")  # fmt: skip
        return
    accelerate = accelerator(recipe, "denoiser")
    codec = load_codec(folder).to(accelerate.device)
    digest = codec.digest()
    latents = cached_latents(recipe, codec, digest)
    recipe.save(folder / "recipe.yaml")

    torch.manual_seed(recipe.seed)
    denoiser = build(recipe, digest)
    print(f"denoiser with {sum(p.numel() for p in denoiser.parameters()):,} weights -> {folder}")
    ema = EMAModel(denoiser.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    steps, optimisers = settings.steps, optimizers(denoiser, settings.learning_rate)
    denoiser, *optimisers = accelerate.prepare(denoiser, *optimisers)
    ema.to(accelerate.device)
    scheduler = DDPMScheduler(trained_betas=betas(recipe.diffusion.schedule))
    diffusion = GaussianDiffusion(denoiser, scheduler.alphas_cumprod, recipe.diffusion.self_conditioning)
    start = load_state(state, {"denoiser": denoiser}, optimisers, ema)
    order = BatchOrder(len(latents), settings.batch_size, recipe.seed)

    began = time.monotonic()
    bar = progress_bar(start, steps, "denoiser", quiet)
    for step in bar:
        set_learning_rate(optimisers, settings.learning_rate, step, steps, settings.warmup_steps)
        batch = latents[order[step]].to(accelerate.device)
        with accelerate.autocast():
            loss = diffusion.loss(batch, step_generator(recipe.seed, step))
        accelerate.backward(loss)
        accelerate.clip_grad_norm_(denoiser.parameters(), 1.0)
        for optimizer in optimisers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(denoiser.parameters())
        report(bar, accelerate, step, loss)
        if (step + 1) % settings.sample_every == 0 and step + 1 < steps and not quiet:
            show(bar, recipe, codec, denoiser, ema)
        if (step + 1) % settings.save_every == 0 and step + 1 < steps:
            save_state(state, step + 1, {"denoiser": denoiser}, optimisers, ema)
    minutes = (time.monotonic() - began) / 60
    accelerate.end_training()

    denoiser = accelerate.unwrap_model(denoiser).eval()
    ema.copy_to(denoiser.parameters())
    pipe = pipeline(recipe, codec, denoiser)
    texts = pipe(num_samples=20, generator=torch.Generator().manual_seed(recipe.seed)).texts
    (folder / "samples.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    pipe.save_pretrained(folder)
    update_metrics(folder, {"training": {"denoiser_minutes": round(minutes, 2), "denoiser_steps": steps}})
    write_card(folder)
    state.unlink(missing_ok=True)
    print("\n".join(texts[:5]) if not quiet else "", f"trained in {minutes:.1f} minutes -> {folder}", sep="\n")


def cached_latents(recipe: Recipe, codec: TextCodec, digest: str) -> torch.Tensor:
    """Whitened latents [N, L, D] of the training set, from disk, or encoded and put there."""
    latents = load_latents(recipe.folder, digest)
    if latents is None:
        texts = load_corpus(recipe.data, recipe.seed).train
        ids = [row for row in tokenize(codec.tokenizer, texts) if len(row) <= recipe.data.max_tokens]
        print(f"encoding {len(ids):,} texts once, for all steps to come")
        with fast_autocast(codec.autoencoder.device.type):
            latents = codec.autoencoder.whiten(codec.compress(ids)).cpu()
        save_latents(recipe.folder, latents, digest)
    return latents


def build(recipe: Recipe, digest: str) -> LatentDenoiser:
    return LatentDenoiser(
        num_latents=recipe.autoencoder.num_latents, latent_dim=recipe.autoencoder.latent_dim,
        width=recipe.denoiser.width, depth=recipe.denoiser.depth, heads=recipe.denoiser.heads,
        prediction=recipe.diffusion.prediction, codec_digest=digest,
    )  # fmt: skip


def pipeline(recipe: Recipe, codec: TextCodec, denoiser: LatentDenoiser) -> LatentTextDiffusionPipeline:
    return LatentTextDiffusionPipeline(
        tokenizer=codec.tokenizer, text_model=codec.text_model, autoencoder=codec.autoencoder, denoiser=denoiser,
        scheduler=make_scheduler(recipe.sampling.scheduler, betas(recipe.diffusion.schedule)),
        num_inference_steps=recipe.sampling.steps,
    )  # fmt: skip


def show(bar, recipe: Recipe, codec: TextCodec, denoiser: LatentDenoiser, ema: EMAModel) -> None:
    """A few decoded samples of the averaged weights, so that a person sees text emerge."""
    ema.store(denoiser.parameters())
    ema.copy_to(denoiser.parameters())
    pipe = pipeline(recipe, codec, denoiser)
    pipe.set_progress_bar_config(disable=True)
    for text in pipe(num_samples=3, generator=torch.Generator().manual_seed(recipe.seed)).texts:
        bar.write(f"  sample  {text}")
    ema.restore(denoiser.parameters())


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
