"""The demo page of the tiny checkpoint, and the checkpoint on a shelf without a page."""

import contextlib

import pytest


@pytest.fixture(scope="session")
def shelf(talking, tmp_path_factory):
    from latdiff.demo.shelf import Shelf

    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        return Shelf("tiny", talking)


@pytest.fixture(scope="session")
def served(talking, tmp_path_factory):
    """The address of the page."""
    pytest.importorskip("gradio")
    from latdiff.demo.serving import start

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page, address = start("tiny", talking)
        yield address
        page.close(verbose=False)
