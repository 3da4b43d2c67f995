"""The Brier score of samples: its definition, a chain's exact score, and that no law beats the true one."""

import itertools
import random
from collections import Counter
from fractions import Fraction

import pytest

from latdiff.evaluation.metrics import brier, ngrams

LONGEST = 4
QUARTERS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))


def law(first, stay, end):
    """text -> probability under a Markov chain of two words: the first is a, a word is said again, the text ends."""
    found = {}
    for length in range(1, LONGEST + 1):
        for words in itertools.product("ab", repeat=length):
            share = first if words[0] == "a" else 1 - first
            for one, next_one in itertools.pairwise(words):
                share *= (1 - end) * (stay if one == next_one else 1 - stay)
            found[" ".join(words)] = share * (end if length < LONGEST else 1)
    return found


TRUE = law(QUARTERS[0], QUARTERS[2], QUARTERS[0])


def places(chances, n):
    """(place, n-gram) -> probability that it stands there."""
    found = Counter()
    for text, share in chances.items():
        for place in enumerate(ngrams(text, n)):
            found[place] += share
    return found


def exact(model, n, true=TRUE):
    """The score of a law, by its probabilities."""
    p, q = places(true, n), places(model, n)
    return float(100 * sum(2 * p[place] * q[place] - q[place] ** 2 for place in p | q) / sum(p.values()))


def by_definition(texts, references, n):
    """The mean of the score of two samples, over all pairs of them and all places of all references."""
    longest, total, pairs = max(len(text.split()) for text in [*texts, *references]), 0, 0
    for one, other in itertools.permutations(range(len(texts)), 2):
        pairs += 1
        for reference, place in itertools.product(references, range(longest)):
            x, s1, s2 = ((ngrams(text, n)[place : place + 1] or [None])[0]
                         for text in (reference, texts[one], texts[other]))
            total += (s1 == x is not None) + (s2 == x is not None) - (s1 == s2 is not None)
    return 100 * total / pairs / sum(len(ngrams(text, n)) for text in references)


def drawn(chances, size, seed):
    return random.Random(seed).choices(list(chances), list(map(float, chances.values())), k=size)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_over_all_pairs_of_samples(seed):
    texts, references = drawn(law(*QUARTERS), 5, seed), [*drawn(TRUE, 4, seed + 9), "a b a b"]
    for n in range(1, 5):
        assert brier(texts, references)[str(n)] == pytest.approx(by_definition(texts, references, n), abs=1e-9)


def test_its_mean_is_the_exact_score_of_the_samplers_law():
    """Every pair of samples by its probability, against references that have the true law exactly."""
    references = [text for text, share in law(*[Fraction(1, 2)] * 3).items() for _ in range(int(share * 2**7))]
    true = {text: Fraction(count, len(references)) for text, count in Counter(references).items()}
    assert true == law(*[Fraction(1, 2)] * 3)
    model = law(*QUARTERS)
    mean = Counter()
    for one, other in itertools.combinations_with_replacement(model, 2):
        for key, score in brier([one, other], references).items():
            mean[key] += float(model[one] * model[other]) * score * (1 if one == other else 2)
    for n in range(1, 5):
        assert mean[str(n)] == pytest.approx(exact(model, n, true), abs=1e-9)


def test_no_law_scores_better_than_the_true_one():
    scores = {asked: [exact(law(*asked), n) for n in range(1, 5)] for asked in itertools.product(QUARTERS, repeat=3)}
    best = [exact(TRUE, n) for n in range(1, 5)]
    for asked, found in scores.items():
        same = law(*asked) == TRUE
        assert found == best if same else all(map(float.__lt__, found, best))


def test_one_text_again_and_again_scores_below_all_texts_of_the_law():
    references = drawn(TRUE, 300, 0)
    fair, same = brier(drawn(TRUE, 300, 1), references), brier(["a b a b"] * 300, references)
    assert all(same[key] < fair[key] for key in fair)
    assert same["4"] < 0 == same["mean"] < fair["mean"]


def test_texts_that_are_the_reference_have_all_of_it():
    whole = dict.fromkeys(("1", "2", "3", "4", "mean"), 100)
    assert brier(["a b c d e"] * 2, ["a b c d e"] * 3) == pytest.approx(whole)


def test_references_without_a_four_gram_score_nothing_there():
    assert brier(["a b", "a c"], ["a b"])["4"] == 0
