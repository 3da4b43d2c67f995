"""Working directories with finished runs to go on in, and a way to interrupt one."""

import shutil

import pytest
from latdiff.recipes import train_denoiser, train_sentence
from runs import Interrupted
from sentence_models import lay_out
from sentence_runs import WORDS, words
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


@pytest.fixture(scope="session")
def sentence_run(writers, tmp_path_factory):
    """Working directory of the sentence codec's finished run; to be read, never written to."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("words")
        patch.chdir(root)
        lay_out(root, writers, WORDS)
        train_sentence.main(words(), quiet=True)
        shutil.copytree("checkpoints/words", "checkpoints/codec")
        train_denoiser.main(words(), quiet=True)
    return root


@pytest.fixture
def sentence_recipe(writers, tmp_path, monkeypatch):
    """The sentence codec's recipe(*settings), in a working directory without a run."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, writers, WORDS)
    return words


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
            if module.__name__.rpartition("_")[2] != title:
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
