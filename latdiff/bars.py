"""Does a library draw progress bars of its own while it loads and fetches?"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

DRAWN_BY = ("diffusers.utils.logging", "transformers.utils.logging")  # the latter speaks for the hub's client as well


@contextlib.contextmanager
def without_bars(silent: bool = True, libraries: tuple[str, ...] = DRAWN_BY) -> Iterator[None]:
    """Keep libraries from drawing bars meanwhile; afterwards they do as before.

    Args:
        silent: whether to do so at all.
        libraries: modules with the three functions that these libraries have for it.
    """
    modules = [importlib.import_module(name) for name in libraries] if silent else []
    drawing = [one for one in modules if one.is_progress_bar_enabled()]
    for one in drawing:
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one in drawing:
            one.enable_progress_bar()
