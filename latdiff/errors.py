"""Mistakes of a user's, said in a sentence: what was set, what was found, what is allowed, what to do next."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable
from numbers import Integral


class UserError(ValueError):
    """A mistake in what was given, said in sentences; commands print it instead of a traceback."""


@contextlib.contextmanager
def plain_errors():
    """Print a UserError as `error: ...` and exit with status 1, without a traceback.

    So does what the system refuses of a file. Ctrl-C ends with status 130, a closed pipe with 141.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `latdiff sample ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it flushes
        raise SystemExit(141) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise SystemExit(f"error: {error.filename}: {error.strerror}") from None


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or '', for messages about a word that is not known."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raise UserError for what is no whole number, or below the least."""
    if not isinstance(value, Integral):
        raise UserError(f"{name} is {value!r}, must be a whole number")
    if value < least:
        raise UserError(f"{name} is {value}, must be {least} or more")
