"""Guides on the command line: --guide HEAD=LABEL[:SCALE] and --avoid, and what heads say of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from latdiff.diffusion.modes import MODES
from latdiff.errors import UserError, shown


def guide_options(command) -> None:
    command.add_argument("--guide", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer by a fitted head, by name or by path; may be repeated. LABEL may be A+B, "
                         "either of two, or a number for a head of numbers (default scale: what is usual for the mode)")
    command.add_argument("--avoid", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer away from a label, to any other")
    command.add_argument("--mode", choices=MODES, default="x0", help="where gradients are taken (default x0)")


def guide_words(toward: list[str], away: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """('toward' or 'away', head, LABEL or LABEL:SCALE) of every --guide and --avoid; before anything loads."""
    return [("toward", *_guide_words(text, "--guide")) for text in toward] + [
        ("away", *_guide_words(text, "--avoid")) for text in away]


def head_folder(checkpoint: Path, name: str) -> Path:
    """Where a head lies that --guide names: below its checkpoint, or at a path."""
    return Path(name) if "/" in name else checkpoint / "heads" / name


def read_guides(checkpoint: str | Path, wanted: list[tuple[str, str, str]], mode: str = "x0") -> list:
    """Guides of what `guide_words` read, by heads of the checkpoint or by path; HeadError where one is missing."""
    from latdiff.heads.attribute import AttributeHead
    from latdiff.heads.files import load_head
    from latdiff.heads.inputs import HeadError

    guides = []
    for way, name, words in wanted:
        head = load_head(head_folder(Path(checkpoint), name))
        if way == "away" and not isinstance(head, AttributeHead):
            raise HeadError(f"head {name!r} is of numbers and has no label to avoid; name a number with --guide")
        target, scale = _target_and_scale(head, f"{name}={words}", "--avoid" if way == "away" else "--guide")
        guides.append(getattr(head, way)(target, scale, mode))
    return guides


def _target_and_scale(head, text: str, flag: str) -> tuple[str | dict[str, float], float | None]:
    """'tone=positive:18' -> ('positive', 18.0), unless all of it is a label, which may contain a colon or a plus."""
    words = text.partition("=")[2]
    label, colon, scale = words.rpartition(":")
    ways = [(words, None)] + ([(label, float(scale))] if colon and label and _is_finite(scale) else [])
    for target, size in ways:
        if head.knows(target):
            return target, size
        if flag == "--guide" and "+" in target and all(map(head.knows, target.split("+"))):
            return dict.fromkeys(target.split("+"), 1.0), size
    if colon and len(ways) == 1:
        raise _no_guide(text, flag)
    return ways[-1]


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _no_guide(text: str, flag: str) -> UserError:
    return UserError(f"{flag} is {shown(text, 200)}, must be HEAD=LABEL or HEAD=LABEL:SCALE, e.g. "
                     "sentiment=positive:18")


def steering(guides: list, scores: dict, index: int) -> dict:
    """Per head the target for one text and its probability; a head's further guides have their title as key."""
    found = {}
    for guide, (title, values) in zip(guides, scores.items(), strict=True):
        key = title if guide.head.name in found else guide.head.name
        found[key] = {"target": guide.head.describe(guide.target), "scale": guide.scale, "mode": guide.mode,
                      "prob": round(values[index], 4)}
    return found


def _guide_words(text: str, flag: str) -> tuple[str, str]:
    """'sentiment=positive:18' -> ('sentiment', 'positive:18')."""
    name, _, words = text.partition("=")
    if not (name and words):
        raise _no_guide(text, flag)
    return name, words
