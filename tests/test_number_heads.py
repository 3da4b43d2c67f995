"""Heads of numbers against ridge regression."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from toy_heads import CODEC, D, L, labelled, refusal, words_head

from latdiff.heads.files import load_head
from latdiff.heads.fitting import fit_head
from latdiff.heads.number import NumberHead


def test_a_number_is_scikit_learns_ridge():
    texts, _ = labelled("abcd")
    values = [2.0 * (ord(text[0]) - ord("a")) + 5 for text in texts]
    head = fit_head(CODEC, texts, values, NumberHead("height", alpha=1.0))
    latents = CODEC.encode(texts)
    theirs = Ridge(alpha=1.0).fit(latents.flatten(1).numpy(), values)
    np.testing.assert_allclose(head.predict(latents), theirs.predict(latents.flatten(1).numpy()), atol=1e-3)
    assert 0.7 < head.report["r2"] < 0.95  # unit noise on a standard deviation of 2.2
    assert head.sd == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["3"] * 9 + ["many"], "every value must be a number"),
        ([1.0] * 9 + [math.nan], "every value must be finite, the one at index 9 is nan"),
        ([1.0] * 10, "with 1 different numbers"),
        ([1.0, 2.0], "10 texts but 2 numbers"),
    ],
)
def test_numbers_that_are_none(values, said):
    assert said in refusal(fit_head, CODEC, [f"a{i}" for i in range(10)], values, NumberHead("words"))


def test_a_target_that_is_no_number():
    head = words_head()
    assert "must be a number" in refusal(head.toward, "long")


GUESSES = r"head 'dice' is of R2 .* on 120 cross-validated texts, where the mean alone would be of 0, .* hardly steer"


def test_a_head_of_chance_numbers_warns_when_it_is_fitted_and_when_it_steers(tmp_path):
    texts, _ = labelled("abcd")
    with pytest.warns(UserWarning, match=GUESSES):
        dice = fit_head(CODEC, texts, np.random.default_rng(1).integers(1, 7, size=len(texts)), NumberHead("dice"))
    dice.save(tmp_path)
    for head in (dice, load_head(tmp_path)):
        with pytest.warns(UserWarning, match=GUESSES) as warned:
            head.toward(6)
        assert len(warned) == 1


@pytest.mark.parametrize(("report", "warns"), [
    ({"r2": 0.03, "texts": 100}, True), ({"r2": 0.05, "texts": 100}, False), ({"r2": -0.5, "texts": 100}, True),
    ({"r2": 0.05, "texts": 100, "different_texts": 50}, True), ({"alpha": 1.0}, False),
])
def test_an_r2_below_two_standard_errors_of_a_correlation_may_be_chance(report, warns, recwarn):
    NumberHead.from_weights(torch.ones(L, D), torch.tensor(0.0), sd=1.0, report=report).toward(3)
    assert len(recwarn.list) == warns
