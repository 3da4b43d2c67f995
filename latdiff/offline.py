"""Does the Hugging Face hub answer? Where it does not, nothing waits for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

LONGEST = 10.0  # seconds to be connected within
NOT_CONNECTED = {"ConnectError", "ConnectTimeout", "ProxyError"}


@contextlib.contextmanager
def not_waiting_for_the_hub(needed: bool = True) -> Iterator[None]:
    """Within the block, libraries take what they have cached where the hub cannot be reached, as by HF_HUB_OFFLINE=1.

    Of themselves they ask for one file after another, six times each, for about half a minute a file.

    Args:
        needed: Whether the hub is asked for anything at all.
    """
    if not needed or _answers():
        yield
        return
    # datasets reads the setting when it is imported, the others at each request
    names = ("huggingface_hub.constants", "datasets.config")
    settings: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
    before = [one.HF_HUB_OFFLINE for one in settings]
    for one in settings:
        one.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for one, was in zip(settings, before, strict=True):
            one.HF_HUB_OFFLINE = was


def _answers() -> bool:
    """Whether the hub can be connected to; also true where libraries are not to try, for then they do not."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return True
    try:
        get_session().head(constants.ENDPOINT, timeout=LONGEST)
    except Exception as error:  # of httpx or httpx2, whichever the hub's client takes; a late answer may yet come
        return type(error).__name__ not in NOT_CONNECTED
    return True
