"""Every recipe, on a small file with the columns that it names and models of a few weights, from text to samples."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_denoiser

from latdiff import storyworld
from latdiff.config import load_recipe
from latdiff.pipelines.files import open_checkpoint

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))
SMALL = (
    "data.train_size=0", "data.valid_size=4", "data.extra_sources=[more.txt]", "denoiser.width=24", "denoiser.depth=1",
    "denoiser.heads=2", "train_denoiser.steps=2", "train_denoiser.batch_size=8", "sampling.steps=2",
)
AUTOENCODER = (
    "backbone.path=checkpoints/tiny-t5", "autoencoder.num_latents=3", "autoencoder.latent_dim=4",
    "autoencoder.width=24", "autoencoder.depth=1", "autoencoder.heads=2", "train_autoencoder.steps=2",
    "train_autoencoder.batch_size=8",
)
SENTENCE = ("sentence.num_latents=4", "sentence.width=24", "sentence.rank=2", "train_sentence.steps=2",
            "sentence.max_tokens=22", "data.max_tokens=22")  # so that the tiny model's context has room for a source
PERCEIVER = ("perceiver.num_latents=4", "perceiver.latent_dim=4", "perceiver.width=24", "perceiver.heads=2",
             "perceiver.rank=2", "train_drafts.steps=2", "train_perceiver.steps=2")
CODECS = {"autoencoder": AUTOENCODER, "sentence": SENTENCE, "perceiver": PERCEIVER}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_ends_in_texts(path, tiny, writers, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(tiny.root, tmp_path / "work"))
    asked = load_recipe(str(path)).data
    short = [" ".join(story.text.split()[:12]) + "." for story in storyworld.sample(60, 3)]
    labels = itertools.cycle(asked.classes or ("a", "b"))
    given = {"label": labels, "text": reversed(short)}.get(asked.condition, itertools.repeat("nothing"))
    rows = [{asked.text_column: text, asked.condition_column: one} for text, one in zip(short, given, strict=False)]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("more.txt").write_text("Something else altogether.\n", encoding="utf-8")
    extra = [] if asked.source == "storyworld" else ["data.source=texts.jsonl", "data.splits=[train]"]
    small = [one for one in SMALL if asked.text_column == "text" or "extra_sources" not in one]
    codec = load_recipe(str(path)).codec
    small += CODECS[codec]
    if codec != "autoencoder":
        small += [f"{codec}.language_model={writers.llama}", f"{codec}.encoder={writers.encoder}"]
    if codec != "autoencoder" and getattr(load_recipe(str(path)), codec).path:
        before = [f"{codec}.path=", f"{codec}.finetune=false", "name=before"]
        train_denoiser.main(load_recipe(str(path), [*small, *extra, *before]), quiet=True)
        small += [f"{codec}.path=checkpoints/before"]
    recipe = load_recipe(str(path), [*small, *extra, *(["data.train_size=60"] if not extra else [])])
    if recipe.autoencoder.path:
        shutil.copytree("checkpoints/tiny", recipe.autoencoder.path)
    train_denoiser.main(recipe, quiet=True)
    pipe = open_checkpoint(recipe.folder)
    cond = {"label": (pipe.denoiser.config.classes or [""])[0], "text": short[0]}.get(asked.condition)
    out = pipe(num_samples=2, cond=cond, generator=torch.Generator().manual_seed(0))
    assert len(out.texts) == len(out.cut) == 2
    assert pipe.config.decoding == recipe.sampling.decoding
