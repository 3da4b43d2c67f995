"""Minimum Bayes risk: the text that the others agree with."""

import math

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("kind", [tuple, iter, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_a_utility_may_return_any_row_of_numbers(kind):
    assert most_agreed([["aaa", "a", "aa"]], lambda text, others: kind([-len(text)] * len(others))) == [1]


@pytest.mark.parametrize("returned", [
    "x", 5, None, [1.0], [1.0, math.nan], [1.0, "x"], np.array(1.0), torch.ones(2, 2), torch.tensor([1.0, math.nan]),
], ids=str)
def test_a_utility_that_returns_no_numbers_is_refused(returned):
    with pytest.raises(UserError, match=r"utility returned .* for a text and 2 others, must return a list of numbers"):
        most_agreed([["a", "b", "c"]], lambda text, others: returned)


@pytest.mark.parametrize("utility", [5, None, ["bleu"]], ids=str)
def test_what_is_no_utility_is_refused(utility):
    with pytest.raises(UserError, match="must be one of bleu, chrf, rouge, or a function"):
        most_agreed([], utility)


def test_an_unknown_utility_is_refused():
    with pytest.raises(UserError, match="must be one of bleu, chrf, rouge; did you mean bleu"):
        most_agreed([["a", "b"]], "blue")
