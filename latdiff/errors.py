"""Mistakes of a user's, said in a sentence: what was set, what was found, what is allowed, what to do next."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import math
import os
import sys
import warnings
from collections.abc import Iterable
from numbers import Integral, Real

LONGEST = 8_000  # characters of a message
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk


class UserError(ValueError):
    """A mistake in what was given, said in sentences; commands print it instead of a traceback.

    Of a message that quotes more than can be read, from a file of somebody else's, the middle is left out.
    """

    def __init__(self, message: object = ""):
        said = str(message)
        half = LONGEST // 2
        super().__init__(said if len(said) <= LONGEST else f"{said[: half - 5]} ... {said[-half:]}")


@contextlib.contextmanager
def plain_errors():
    """Print a UserError as `error: ...` and exit with status 1, without a traceback, and a warning as `warning: ...`.

    So does what the system refuses of a file. Ctrl-C ends with status 130, a closed pipe with 141. What was printed is
    written out before the end of the block, for Python itself would complain later, with status 120.
    """
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *place: (
        f"warning: {message}\n" if category is UserWarning else formatted(message, category, *place))
    try:
        with _printed():
            yield
    except UserError as error:
        number = os.environ.get("RANK", "0")  # of several processes
        raise SystemExit(f"error: {error}" if number == "0" else f"process {number}: error: {error}") from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `latdiff sample ... | head`
        _print_no_more()
        raise SystemExit(141) from None
    except OSError as error:
        if error.filename is not None:
            raise SystemExit(f"error: {error.filename}: {error.strerror}") from None
        if error.errno not in FULL:
            raise
        _print_no_more()
        raise SystemExit(f"error: the output could not be written ({error.strerror}); free some space, and give the "
                         "same command again") from None
    finally:
        warnings.formatwarning = formatted


@contextlib.contextmanager
def _printed():
    """At the end of the block, however it ends, what was printed in it is written out."""
    try:
        yield
    finally:
        if sys.stdout is not None:  # as where it was closed before Python began
            sys.stdout.flush()


def _print_no_more() -> None:
    """Leave out what is still to be printed, where it cannot be."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return shortened((str(error).strip() or type(error).__name__).splitlines()[0], 300)


def shortened(text: str, most: int = 60) -> str:
    """A text of at most so many characters, with ... where its end is left out."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def printable(value: object) -> str:
    """A value as a text on one line, with a space in place of each letter that is none, as those that move a cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def written(text: str) -> str:
    r"""A text as UTF-8 can hold it, with halves of surrogate pairs as \ud800 and the like."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object, most: int = 60) -> str:
    """What was given, for a message: its repr on one line, cut short where it is long, deep or cannot be written."""
    if isinstance(value, str):
        return repr(shortened(value, most))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, (list, tuple, dict)):
        return _shown_items(value, most)
    try:
        return shortened(" ".join(repr(value).split()), most)
    except Exception:  # a repr of the value's own may raise anything
        return f"a {type(value).__name__}"


def _shown_items(value: list | tuple | dict, most: int) -> str:
    left, right = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    if most < 8:
        return f"{left}...{right}" if value else left + right
    each = most // 4  # so that nested ones soon come to an end
    pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    items = [(f"{shown(key, each)}: " if isinstance(value, dict) else "") + shown(item, each)
             for key, item in itertools.islice(pairs, 5)]
    more = ["..."] if len(value) > len(items) else []
    tail = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return left + ", ".join(items + more) + tail + right


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """'; did you mean X?' or '', for messages about a word that is not known; the cutoff is how alike, at least."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def whole_word(word: str, most: int) -> int | None:
    """The whole number that a word of digits writes; None for another word, such as ², and above `most`."""
    digits = word.isascii() and word.isdigit() and len(word) <= len(str(most))
    return int(word) if digits and int(word) <= most else None


def check_whole(name: str, value: object, least: int = 1) -> int:
    """The value as an int, which numpy's are not. Raise UserError for what is no whole number, or below the least."""
    if not isinstance(value, Integral):
        raise UserError(f"{name} is {shown(value)}, must be a whole number")
    if value < least:
        raise UserError(f"{name} is {shown(value)}, must be {least} or more")
    return int(value)


def as_number(value: object) -> float:
    """A number as a float, of an array or tensor without dimensions as well; NaN for what is none."""
    value = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # of an int that no float holds
        return math.nan


def check_number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> float:
    """The value as a float. Raise UserError for what is no finite number, or is outside of the range."""
    found = as_number(value)
    if math.isfinite(found) and least <= found <= most and found > above:
        return found
    ends = [(above, "above"), (least, "at least"), (most, "at most")]
    allowed = " and ".join(f"{said} {end:g}" for end, said in ends if math.isfinite(end))
    kind = "a number, " if allowed and math.isnan(found) else ""
    raise UserError(f"{name} is {shown(value)}, must be {kind}{allowed or 'a finite number'}")
