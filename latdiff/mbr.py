"""Minimum Bayes risk: of several texts for one purpose, the one that agrees best with the others.

Kumar & Byrne 2004; LD4LG (Lovelace et al. 2023, section 5) takes the best of five samples a source.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from latdiff.errors import UserError, as_number, nearest, shown

UTILITIES = ("bleu", "chrf", "rouge")

Utility = Callable[[str, list[str]], list[float]]  # (text, others) -> how good each other says the text is


def most_agreed(groups: list[list[str]], utility: str | Utility = "bleu") -> list[int]:
    """For each group of candidates the index of the one with the largest utility against the rest, the first of equals.

    `utility` is sacrebleu's sentence "bleu" or "chrf", "rouge", which is rouge-score's F1 of stemmed pairs of words, or
    a function of your own, such as a similarity of embeddings.
    Raises UserError for anything else, and for a function that does not return a number for each of the others.
    """
    score = utility if callable(utility) else _named(utility)
    return [int(torch.tensor(_gains(group, score)).argmax()) for group in groups]


def _gains(group: list[str], score: Utility) -> list[float]:
    """Summed over the others; candidates that are alike are scored once, and agree with each other."""
    found: dict[str, float] = {}
    for i, text in enumerate(group):
        if text not in found:
            found[text] = sum(_gain(score, text, group[:i] + group[i + 1 :]))
    return [found[text] for text in group]


def _gain(score: Utility, text: str, others: list[str]) -> list[float]:
    """What each of the others says of the text. Raises UserError for a function that returns anything else."""
    given = score(text, others)
    try:
        numbers = [as_number(one) for one in given]
    except TypeError:  # no list, or an array without dimensions
        numbers = []
    if len(numbers) != len(others) or any(map(math.isnan, numbers)):
        raise UserError(f"utility returned {shown(given)} for a text and {len(others)} others, must return a list of "
                        "numbers, one for each of the others and none of them NaN")
    return numbers


def _named(utility: str) -> Utility:
    if not isinstance(utility, str) or utility not in UTILITIES:
        near = nearest(utility, UTILITIES) if isinstance(utility, str) else ", or a function utility(text, others)"
        raise UserError(f"utility is {shown(utility)}, must be one of {', '.join(UTILITIES)}{near}")
    try:
        import sacrebleu
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError(f"minimum Bayes risk needs {error.name}; install it with `pip install sacrebleu rouge-score`"
                        ) from None
    if utility == "rouge":  # ROUGE-2, as LD4LG's code takes it
        rouge = RougeScorer(["rouge2"], use_stemmer=True)
        return lambda text, others: [rouge.score(other, text)["rouge2"].fmeasure for other in others]
    sentence = sacrebleu.sentence_bleu if utility == "bleu" else sacrebleu.sentence_chrf
    return lambda text, others: [sentence(text, [other]).score for other in others]
