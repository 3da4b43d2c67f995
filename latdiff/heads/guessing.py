"""What a head's report says of how good it is, and a warning where that may be chance."""

from __future__ import annotations

import math
import warnings
from typing import Any

GUESSING = 2.0  # standard errors above chance, below which what a head gets right may be chance


def held_out(report: dict[str, Any]) -> str:
    """The accuracy that a report of `fit_head` has, beside the share of the commonest label; of numbers, their R2."""
    texts = f"{report['texts']:,} cross-validated texts"
    if "different_texts" in report:
        texts += f" ({report['different_texts']:,} different ones)"
    if "r2" in report:
        return f"of R2 {report['r2']:.3f} on {texts}, where the mean alone would be of 0"
    return (f"right on {report['accuracy']:.1%} of {texts}, where the commonest label alone would be right on "
            f"{report['majority']:.1%}").replace("%", " %")


def warn_of_guessing(head) -> None:
    """Warn of a head that may know no more than chance: by its report, less than two standard errors more.

    Of labels that is the error of the commonest one's share; of numbers that of a correlation, whose square R2 is. A
    head without a report, or with an older one, says nothing of it.
    """
    if may_be_chance(head.report):
        labels = "as many of each label, or on labels" if head.kind == "labels" else "or on numbers"
        warnings.warn(f"head {head.name!r} is {held_out(head.report)}, so that it can hardly steer; fit it on more "
                      f"texts, {labels} that the texts themselves show", stacklevel=3)


def may_be_chance(report: dict[str, Any]) -> bool:
    """Whether a report's figures lie less than two standard errors above those of knowing nothing."""
    texts = report.get("different_texts", report.get("texts"))
    if texts is None:
        return False
    if "r2" in report:
        return report["r2"] < GUESSING**2 / texts
    if not {"accuracy", "majority"} <= report.keys():
        return False
    share = report["majority"]
    return report["accuracy"] < share + GUESSING * math.sqrt(share * (1 - share) / texts)
