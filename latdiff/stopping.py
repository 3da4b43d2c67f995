"""What becomes of a training that is asked to stop, by Ctrl-C or by SIGTERM: it saves its state first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONCE = 1.0  # seconds within which signals are one: a launcher passes on what the terminal has sent to all


class Stopped(SystemExit):
    """The end of a process that was asked to stop: status 130 for Ctrl-C, 143 for SIGTERM, and a line on stderr."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(128 + number)
        if os.environ.get("RANK", "0") == "0":  # the first of several processes speaks for all
            print(f"\nstopped{where}; the same command goes on", file=sys.stderr, flush=True)


class Stopping:
    """The signals that a process is sent while it trains.

    Within a loop that asks `received` after each step, a signal waits for that, and a later second one does not.
    Elsewhere it ends the process at once.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number
        self.in_loop = self._heeded = False
        self._since = 0.0

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Within the block, signals raise Stopped. Blocks may be nested; beside the main thread they do nothing."""
        if self._heeded or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._heeded = True
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.received, self.in_loop, self._heeded = 0, False, False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.in_loop or (self.received and time.monotonic() > self._since + ONCE):
            raise Stopped(number)
        if not self.received:
            self.received, self._since = number, time.monotonic()


STOPPING = Stopping()  # of this process
