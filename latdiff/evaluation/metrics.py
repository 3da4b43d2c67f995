"""Metrics of lists of texts that need no model: list[str] in, numbers out."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Container, Iterable

from latdiff.errors import UserError


def exact_match(texts: list[str], references: list[str]) -> float:
    """Share of texts equal to their reference, character by character."""
    return sum(a == b for a, b in zip(texts, references, strict=True)) / len(references)


def distinct(texts: list[str]) -> float:
    """Number of different texts, as a share of all texts."""
    return len(set(texts)) / len(texts)


def memorised(texts: list[str], training: Iterable[str]) -> float:
    """Share of texts found word for word in the training set."""
    training = set(training)
    return sum(text in training for text in texts) / len(texts)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's lower-cased, whitespace-separated words."""
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def four_gram_memorisation(texts: list[str], known: Container[tuple[str, ...]]) -> float:
    """Share of the texts' four-grams that are `known` from the training set (LD4LG, section 5)."""
    grams = [gram for text in texts for gram in ngrams(text, 4)]
    return sum(gram in known for gram in grams) / max(1, len(grams))


def distinct_ngrams(texts: list[str], n: int) -> float:
    """Unique n-grams over all n-grams of the pool, distinct-n (Li et al. 2016). It falls with the number of texts."""
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / max(1, len(grams))


def diversity(texts: list[str]) -> float:
    """Product of distinct-n over n = 2, 3, 4 (LD4LG, section 5)."""
    return math.prod(distinct_ngrams(texts, n) for n in (2, 3, 4))


def brier(texts: list[str], references: list[str]) -> dict[str, float]:
    """How near texts come to the law of references, place by place: a Brier score estimated from samples alone.

    BrierLM (Shao et al. 2025, CALM) scores a reference's n-gram x by two independent samples s1 and s2 of what stands
    in its place, 1[s1 = x] + 1[s2 = x] - 1[s1 = s2], whose mean is 2 Σ pq - Σ q² for a law p of the references and q of
    the samples: largest for q = p, and less by Σ (p - q)² for any other. There the samples go on from the reference's
    own context. Here, for generators that begin from nothing, they are whole texts, and what stands in a place is the
    n-gram that begins with a text's i-th word, or none, which equals nothing. So the score sees which words stand
    where, and how varied they are; it is blind to whether what stands far apart goes together.

    Args:
        texts: M independent samples, two or more; the mean is over all pairs of them.
        references: N real texts.

    Returns:
        For n = 1 to 4 under "1" to "4" the sum over places a reference's n-gram, times 100, and their geometric `mean`:
        0 where one is not positive, for the samples are then more like each other than like the references.
    """
    scores = {str(n): 100 * _brier(texts, references, n) for n in range(1, 5)}
    return scores | {"mean": math.prod(max(0.0, score) for score in scores.values()) ** (1 / len(scores))}


def _brier(texts: list[str], references: list[str], n: int) -> float:
    drawn, real = (Counter(place for text in some for place in enumerate(ngrams(text, n)))
                   for some in (texts, references))
    hits = sum(count * drawn[place] for place, count in real.items()) / len(texts)
    alike = sum(count * (count - 1) for count in drawn.values()) / (len(texts) * (len(texts) - 1))
    return (2 * hits - len(references) * alike) / max(1, real.total())


def self_bleu(texts: list[str]) -> float:
    """BLEU of every text against all the others, 0 to 100 (Zhu et al. 2018): the lower, the more varied.

    It grows with the number of texts, and its cost with the square of that. There have to be two texts or more.
    """
    return bleu(texts, [texts[:i] + texts[i + 1 :] for i in range(len(texts))])


def word_histogram(texts: list[str]) -> list[int]:
    """Numbers of texts with 0, 1, 2, ... whitespace-separated words, up to the longest text."""
    counts = Counter(len(text.split()) for text in texts)
    return [counts[words] for words in range(max(counts) + 1)]


def mean_words(texts: list[str]) -> float:
    """Mean number of whitespace-separated words in a text."""
    return sum(len(text.split()) for text in texts) / len(texts)


def mean_of(rows: list[dict], key: str) -> float:
    """Mean of a figure over rows, weighted by their numbers of texts."""
    return sum(row[key] * row["n"] for row in rows) / sum(row["n"] for row in rows)


def bleu(texts: list[str], references: list[list[str]]) -> float:
    """Corpus BLEU, 0 to 100, lower-cased, by sacrebleu (Post 2018).

    Args:
        texts: The texts to score.
        references: One or more for each text.

    Raises:
        UserError: Where sacrebleu, of the extra `eval`, is not installed.
    """
    streams = itertools.zip_longest(*references)  # sacrebleu skips the None of a text with fewer
    return _sacrebleu().corpus_bleu(texts, [list(stream) for stream in streams], lowercase=True).score


def rouge(texts: list[str], references: list[list[str]]) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L, 0 to 1, against the best reference of each text, by rouge-score (Lin 2004).

    Args:
        texts: The texts to score.
        references: One or more for each text.

    Raises:
        UserError: Where rouge-score, of the extra `eval`, is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("ROUGE needs rouge-score; install it with `pip install rouge-score`") from None
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    best = [scorer.score_multi(own, text) for text, own in zip(texts, references, strict=True)]
    return {kind: sum(one[kind].fmeasure for one in best) / len(best) for kind in kinds}


def sari(texts: list[str], sources: list[str], references: list[list[str]]) -> float:
    """SARI, 0 to 100: how well texts keep, delete and add the n-grams of their sources (Xu et al. 2016, section 4).

    Mean over sentences; lower-cased words by sacrebleu's tokenizer 13a, n = 1 to 4. A share of no n-grams at all counts
    as 1, as in Hugging Face's `evaluate`, so that a perfect text gets 100.

    Args:
        texts: The texts to score.
        sources: What each was rewritten from.
        references: One or more for each text.

    Raises:
        UserError: Where sacrebleu, of the extra `eval`, is not installed.
    """
    tokenize = _sacrebleu().BLEU(lowercase=True).tokenizer
    scores = []
    for text, source, accepted in zip(texts, sources, references, strict=True):
        words = [tokenize(one.lower()) for one in (text, source, *accepted)]
        scores.append(sum(_sari(*(Counter(ngrams(one, n)) for one in words)) for n in range(1, 5)) / 4)
    return 100 * sum(scores) / len(scores)


def _sari(text: Counter, source: Counter, *references: Counter) -> float:
    """For n-grams of one size: the mean of F1 of kept, precision of deleted, and F1 of added ones."""
    wanted = sum(references, Counter())
    source, text = (Counter({gram: n * len(references) for gram, n in one.items()}) for one in (source, text))
    kept, deleted, added = source & text, source - text, set(text) - set(source)
    keep = _f1(_mean_share(kept & wanted, kept), _share((kept & wanted).total(), (source & wanted).total()))
    right, missing = len(added & set(wanted)), len(set(wanted) - set(source))
    return (keep + _mean_share(deleted - wanted, deleted) + _f1(_share(right, len(added)), _share(right, missing))) / 3


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _mean_share(part: Counter, whole: Counter) -> float:
    return _share(sum(n / whole[gram] for gram, n in part.items()), len(whole))


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def require_packages() -> None:
    """Make sure, before anything is measured, that the packages of these metrics are installed.

    Raises:
        UserError: Where one is missing.
    """
    bleu([""], [[""]])
    rouge([""], [[""]])


def _sacrebleu():
    try:
        import sacrebleu
    except ImportError:
        raise UserError("BLEU and SARI need sacrebleu; install it with `pip install sacrebleu`") from None
    return sacrebleu


def holds(text: str, value: str) -> bool:
    """Whether the text contains the value as whole words, in any case: "pub" is not in "public"."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
