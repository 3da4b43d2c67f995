"""Minimum Bayes risk: the text that the others agree with."""

import pytest

from latdiff.errors import UserError
from latdiff.mbr import most_agreed

CROWD = ["a dog ran across the wet grass", "the dog ran across the grass", "the dog ran over the grass"]


@pytest.mark.parametrize("utility", ["bleu", "chrf", "rouge"])
def test_the_odd_one_out_is_not_taken_wherever_it_stands(utility):
    odd = "nobody knows what this is about"
    for place in range(4):
        group = [*CROWD[:place], odd, *CROWD[place:]]
        (best,) = most_agreed([group], utility)
        assert group[best] == "the dog ran across the grass"


def test_two_that_are_alike_win_against_any_single_one():
    assert most_agreed([["x y z", "a b c d", "a b c d"], ["a b c d", "x y z", "a b c d"]]) == [1, 0]


def test_a_utility_of_ones_own():
    def shorter(text, others):
        return [float(len(other) > len(text)) for other in others]

    assert most_agreed([["aaa", "a", "aa"], ["b"]], shorter) == [1, 0]


def test_an_unknown_utility_is_refused():
    with pytest.raises(UserError, match="must be one of bleu, chrf, rouge; did you mean bleu"):
        most_agreed([["a", "b"]], "blue")
