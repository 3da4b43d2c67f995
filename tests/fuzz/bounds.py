"""What every fuzzed property asks: a value or a UserError, within two seconds and 200 MB."""

import collections
import contextlib
import functools
import re
import signal
from pathlib import Path

from latdiff.errors import UserError

SECONDS, MEGABYTES = 2.0, 200
PATIENCE = 30.0  # seconds by the clock on the wall, for what waits and does not compute
LONGEST = 10_000  # characters of a message
EXAMPLES: collections.Counter[str] = collections.Counter()  # how often each property was tried

try:
    import resource
except ImportError:  # not on Windows
    resource = None


class TooSlow(BaseException):
    """Raised in what runs for too long; no Exception, so that nothing takes it for an error of its own."""


def bounded(test):
    """A property that holds where its body ends, or raises a UserError that reads well, within the bounds."""

    @functools.wraps(test)
    def run(*arguments, **keywords):
        EXAMPLES[test.__name__] += 1
        try:
            with _in_time(), _in_memory():
                test(*arguments, **keywords)
        except UserError as error:
            check_message(error)
        except (TooSlow, MemoryError) as error:  # anew, for a traceback that ends here
            raise AssertionError(f"{type(error).__name__}: {error or f'more than {MEGABYTES} MB'}") from None

    return run


def check_message(error: UserError) -> None:
    """A message is of one piece: of readable length, without a traceback, and not made by running out of memory."""
    said = str(error)
    assert said.strip() and len(said) <= LONGEST, f"{len(said)} characters: {said[:300]}"
    assert not re.search(r"Traceback|object at 0x", said), said
    cause = error
    while cause is not None:
        assert not isinstance(cause, MemoryError), f"ran out of memory, and said: {said[:300]}"
        cause = cause.__cause__ or cause.__context__


@contextlib.contextmanager
def _in_time():
    """Two seconds of the processor's time, which other programs do not use up."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise TooSlow(f"took more than {SECONDS:g} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE)}
    before = {number: signal.signal(number, stop) for number in timers}
    try:
        for timer, seconds in timers.values():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _in_memory():
    """So much memory beyond what is in use, where Linux counts it; a MemoryError for more."""
    status = Path("/proc/self/statm")
    if resource is None or not status.exists():
        yield
        return
    used = int(status.read_text().split()[5]) * resource.getpagesize()
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEGABYTES * 2**20, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
