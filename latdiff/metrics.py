"""Figures about lists of texts that need no model: list[str] in, numbers out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from latdiff.config import UserError


def exact_match(texts: list[str], references: list[str]) -> float:
    """Share of texts equal to their reference, character by character."""
    return sum(a == b for a, b in zip(texts, references, strict=True)) / len(references)


def distinct(texts: list[str]) -> float:
    """Share of texts that are different from all the others, each counted once."""
    return len(set(texts)) / len(texts)


def memorised(texts: list[str], training: Iterable[str]) -> float:
    """Share of texts found word for word in the training set."""
    training = set(training)
    return sum(text in training for text in texts) / len(texts)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's lower-cased, blank-separated words."""
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def four_gram_memorisation(texts: list[str], training: Iterable[str]) -> float:
    """Share of the texts' four-grams that occur in the training set (LD4LG, section 5; words split at blanks)."""
    known = {gram for text in training for gram in ngrams(text, 4)}
    grams = [gram for text in texts for gram in ngrams(text, 4)]
    return sum(gram in known for gram in grams) / max(1, len(grams))


def diversity(texts: list[str]) -> float:
    """Product over n = 2, 3, 4 of unique n-grams over all n-grams of the pool (LD4LG, section 5)."""
    shares = []
    for n in (2, 3, 4):
        grams = [gram for text in texts for gram in ngrams(text, n)]
        shares.append(len(set(grams)) / max(1, len(grams)))
    return math.prod(shares)


def mean_words(texts: list[str]) -> float:
    """Blank-separated words a text."""
    return sum(len(text.split()) for text in texts) / len(texts)


def mean_of(rows: list[dict], key: str) -> float:
    """Mean of a figure over rows, weighted by their numbers of texts."""
    return sum(row[key] * row["n"] for row in rows) / sum(row["n"] for row in rows)


def bleu(texts: list[str], references: list[str]) -> float:
    """Corpus BLEU, 0 to 100, lower-cased, one reference a text: sacrebleu's (Post 2018), from the extra `eval`."""
    try:
        import sacrebleu
    except ImportError:
        raise UserError('BLEU needs sacrebleu; install it with pip install "latdiff[eval]"') from None
    return sacrebleu.corpus_bleu(texts, [references], lowercase=True).score


def holds(text: str, value: str) -> bool:
    """Whether the value stands in the text as words, whatever their case: "pub" not in "public"."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
