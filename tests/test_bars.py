"""Libraries draw bars of their own while they load; a command that is to be quiet keeps them from it."""

import shutil
import sys

import pytest
from diffusers.utils import logging as of_diffusers
from latdiff.recipes import pretrain_backbone, train_autoencoder
from transformers.utils import logging as of_transformers

from latdiff import cli
from latdiff.bars import without_bars
from latdiff.config import load_recipe

LIBRARIES = (of_diffusers, of_transformers)


@pytest.fixture
def drawing():
    """Bars as they are in a process of its own."""
    for library in LIBRARIES:
        library.enable_progress_bar()


def test_bars_are_off_meanwhile_and_as_before_afterwards(drawing):
    with pytest.raises(ZeroDivisionError), without_bars():
        assert not any(library.is_progress_bar_enabled() for library in LIBRARIES)
        raise ZeroDivisionError
    assert all(library.is_progress_bar_enabled() for library in LIBRARIES)
    of_diffusers.disable_progress_bar()
    with without_bars(), without_bars(False, ("none",)):
        pass
    assert not of_diffusers.is_progress_bar_enabled() and of_transformers.is_progress_bar_enabled()
    of_diffusers.enable_progress_bar()


def test_no_bar_is_drawn_while_weights_are_read_from_the_disk(drawing, checkpoint, capfd, tmp_path):
    data = ("--data", "storyworld", "--label-column", "sentiment", "--limit", "60", "--name", "x", "--output",
            tmp_path / "x")
    folder = tmp_path / "codec"  # as it is before there is a denoiser
    folder.mkdir()
    for part in ("tokenizer", "text_model", "autoencoder"):
        (folder / part).symlink_to(checkpoint / part)
    cli.main(["fit-head", str(folder), *map(str, data)])
    assert "Loading weights" not in capfd.readouterr().err
    assert all(library.is_progress_bar_enabled() for library in LIBRARIES)


def test_a_training_draws_its_own_bar_alone_unless_it_is_quiet(drawing, tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(tiny.recipe), ["train_autoencoder.steps=1", "pretrain_backbone.steps=1"])
    for quiet in (False, True):
        for stage in (pretrain_backbone, train_autoencoder):
            stage.main(recipe, quiet=quiet)
        said = capfd.readouterr().err
        assert "Loading weights" not in said and ("%|" in said) is not quiet
        shutil.rmtree("checkpoints")
    assert all(library.is_progress_bar_enabled() for library in LIBRARIES)


def test_bars_of_data_sets_are_off_where_those_of_the_hub_are(monkeypatch, drawing):
    import datasets

    from latdiff.data.sources import open_source

    of_datasets = sys.modules["datasets.utils.tqdm"]  # the package has a class of this name
    drawn = []

    def load(*_, **__):
        drawn.append(of_datasets.is_progress_bar_enabled())
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]}))

    monkeypatch.setattr(datasets, "load_dataset", load)
    with without_bars():
        open_source("owner/name", ("train",))
    open_source("owner/name", ("train",))
    assert drawn == [False, True] and of_datasets.is_progress_bar_enabled()
