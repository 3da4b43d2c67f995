"""Have guides left the texts of a call anything to differ in?"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

RUN = 4  # words
FEW, MANY = 4, 64  # texts: fewer say nothing, and no more are compared
ALIKE = 0.15  # share of runs that two texts have in common; of stories with one topic, sentiment and tense it is 0.02
TIMES = 3.0  # so many times as alike as labelled texts, at least


def shared_runs(texts: Sequence[str]) -> float:
    """The share of their runs of four words that two texts have in common, on average over pairs of the first 64.

    Args:
        texts: B strings.

    Returns:
        0 to 1; of a pair, the share of the one that has fewer runs. A shorter text is one run. 0 for fewer than two.
    """
    runs = [_runs(text.lower().split()) for text in texts[:MANY]]
    pairs = [len(one & two) / min(len(one), len(two)) for one, two in itertools.combinations(runs, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def warn_of_likeness(texts: Sequence[str], heads: Sequence[Any]) -> None:
    """Warn, once a call, where steered texts have much more in common than the labelled texts of their heads.

    Args:
        texts: B strings of one call.
        heads: of its guides; those that `fit_head` fitted know how alike their texts are.
    """
    if len(texts) < FEW or not heads:
        return
    found, known = shared_runs(texts), [head.report["alike"] for head in heads if "alike" in _report(head)]
    if found < max(ALIKE, TIMES * max(known, default=0.0)):
        return
    among = f", among labelled texts {max(known):.0%}" if known else ""
    said = (f"the {min(len(texts), MANY)} steered texts are much alike: two of them share {found:.0%} of their runs of "
            f"{RUN} words{among}. Lower scales, such as {heads[0].name}=LABEL:SCALE, or fewer guides leave more to "
            "vary; unsteered texts (--compare) show whether it is the guides")
    warnings.warn(said.replace("%", " %"), stacklevel=4)


def _report(head: Any) -> dict[str, Any]:
    return getattr(head, "report", None) or {}


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
