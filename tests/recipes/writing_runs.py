"""A tiny run of a writing codec's recipe."""

import shutil

import pytest
from latdiff.recipes import train_denoiser
from sentence_models import lay_out


def finished_run(root, writers, recipe, words, train):
    """Train a recipe's codec in a folder, checkpoints/codec, and a denoiser on it, checkpoints/words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        lay_out(root, writers, recipe)
        train.main(words(), quiet=True)
        shutil.copytree("checkpoints/words", "checkpoints/codec")
        train_denoiser.main(words(), quiet=True)
    return root
