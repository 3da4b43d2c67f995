"""Working directories with finished runs to go on in, and a way to interrupt one."""

import shutil

import pytest
from runs import Interrupted
from tqdm.auto import tqdm

from latdiff import training
from latdiff.config import load_recipe


@pytest.fixture
def workplace(tiny, tmp_path, monkeypatch):
    """A copy of the finished runs' working directory to go on in; `recipe(*settings)` reads their recipe."""
    folder = shutil.copytree(tiny.root, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recipe(workplace):
    return lambda *settings: load_recipe("tiny.yaml", list(settings))


@pytest.fixture
def finished(recipe, whole):
    """A test file's `recipe` in a copy of the working directory of its finished run, `whole`."""
    shutil.copytree(whole / "checkpoints", "checkpoints")
    return recipe


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(recipe module, step): its loop breaks off before that step; interrupt(module): no longer."""
    progress_bar = training.progress_bar

    def stop(module, step=None):
        def bar(start, steps, title, quiet):
            if module.__name__.rpartition(".")[2].rpartition("_")[2] != title:
                return progress_bar(start, steps, title, quiet)

            def going():
                yield from range(start, steps if step is None else step)
                if step is not None:
                    raise Interrupted

            starts.append(start)
            return tqdm(going(), disable=True)

        monkeypatch.setattr(training, "progress_bar", bar)

    starts = stop.starts = []
    return stop
