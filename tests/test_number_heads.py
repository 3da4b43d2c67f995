"""Heads of numbers against ridge regression."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from toy_heads import CODEC, labelled, refusal, words_head

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
