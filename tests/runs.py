"""Tiny runs of the training recipes: their recipe, how to break one off, undo a part of one, compare two."""

import shutil
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

from latdiff.codecs.files import load_codec
from latdiff.data.corpus import load_corpus
from latdiff.latents import LATENTS, open_latents
from latdiff.optimising import optimizers

TINY = """
name: tiny
data: {source: storyworld, train_size: 200, valid_size: 12, max_tokens: 96}
backbone: {path: checkpoints/tiny-t5}
pretrain_backbone: {vocab_size: 1200, width: 16, ff_width: 32, layers: 1, heads: 2, steps: 3, batch_size: 4}
autoencoder: {num_latents: 3, latent_dim: 4, width: 16, depth: 1, heads: 2, max_tokens: 96}
train_autoencoder: {steps: 6, batch_size: 4, warmup_steps: 2, sample_every: 100, save_every: 3}
denoiser: {width: 16, depth: 1, heads: 2}
train_denoiser: {steps: 6, batch_size: 8, warmup_steps: 2, sample_every: 100, save_every: 3}
train_ar: {width: 16, layers: 1, heads: 2, steps: 4, batch_size: 4}
sampling: {steps: 3}
"""


class Interrupted(Exception):
    pass


def fresh():
    """A module of a few weights, its optimisers and its averages, the same every time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    return model, optimizers(model, 1e-2), EMAModel(model.parameters(), decay=0.9, use_ema_warmup=True)


def cached(recipe, folder=None):
    """Latents that were cached of a recipe's texts as they are now, or None."""
    folder = folder or recipe.folder
    found = open_latents(folder / LATENTS, load_codec(folder).digest, load_corpus(recipe.data, recipe.seed).digest)
    return None if found is None else found[range(len(found))]


def weights(folder):
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def undo_denoiser(folder):
    shutil.rmtree(folder / "denoiser")
    (folder / "model_index.json").unlink()
