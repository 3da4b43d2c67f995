"""The sentence codec's tiny run, which several files of tests read."""

import pytest
from latdiff.recipes import train_sentence
from sentence_models import lay_out
from sentence_runs import WORDS, words
from writing_runs import finished_run


@pytest.fixture(scope="session")
def whole(writers, tmp_path_factory):
    """Working directory of a finished run; to be read, never written to."""
    return finished_run(tmp_path_factory.mktemp("words"), writers, WORDS, words, train_sentence)


@pytest.fixture
def recipe(writers, tmp_path, monkeypatch):
    """recipe(*settings), in a working directory without a run."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, writers, WORDS)
    return words
