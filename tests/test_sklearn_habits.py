"""scikit-learn's checks and tools on heads."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy_heads import D, L, random_head, refusal

from latdiff.heads.attribute import AttributeHead
from latdiff.heads.number import NumberHead

NOT_SCIKIT_LEARNS = {
    "check_dont_overwrite_parameters": "what guides and files read has no underscore at its end: weight, radius, ...",
    "check_supervised_y_2d": "a row of labels a text is refused, a column of one as well: no one-hot row is a label",
    "check_complex_data": "complex labels are refused for what they are, before latents are looked at",
}


@parametrize_with_checks([AttributeHead(), NumberHead()], expected_failed_checks=lambda head: NOT_SCIKIT_LEARNS)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_a_head_is_cloned_with_its_parameters_and_without_its_weights(numbered):
    latents, labels, _ = numbered
    head = AttributeHead(name="letter", C=0.3, noise_aware=True).fit(latents, labels)
    again = clone(head)
    assert again.get_params() == head.get_params() and repr(again) == repr(head)
    assert repr(head) == "AttributeHead(C=0.3, name='letter', noise_aware=True)"
    with pytest.raises(NotFittedError):
        again.toward("class a")
    assert torch.equal(again.fit(latents.numpy(), labels).weight, head.weight)


@pytest.mark.parametrize("kind", ["tensor", "array", "flat"])
def test_grid_search_finds_a_heads_parameters(kind, numbered):
    latents, labels, numbers = numbered
    given = {"tensor": latents, "array": latents.numpy(), "flat": latents.flatten(1).numpy()}[kind]
    search = GridSearchCV(AttributeHead(), {"C": [1e-6, 1.0], "features": ["flat", "mean"]}, cv=3).fit(given, labels)
    assert search.best_params_ == {"C": 1.0, "features": "flat"}
    assert search.score(given, labels) > 0.8
    search = GridSearchCV(NumberHead(), {"alpha": [1.0, 1e6]}, cv=3).fit(given, numbers)
    assert search.best_params_ == {"alpha": 1.0}


def test_a_head_stands_at_the_end_of_a_pipeline_of_flat_latents(numbered):
    latents, labels, _ = numbered
    line = make_pipeline(StandardScaler(), AttributeHead(C=1.0))
    assert cross_val_score(line, latents.flatten(1).numpy(), labels).mean() > 0.75


def test_attributes_are_scikit_learns(numbered):
    latents, labels, numbers = numbered
    flat = latents.flatten(1).numpy()
    for kept in (labels, [label.replace("c", "b") for label in labels]):
        theirs = LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced").fit(flat, kept)
        head = AttributeHead().fit(latents, kept)
        np.testing.assert_allclose(head.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(head.intercept_, theirs.intercept_, atol=1e-5)
        assert head.n_features_in_ == theirs.n_features_in_ == L * D
    theirs, head = Ridge(alpha=100.0).fit(flat, numbers), NumberHead().fit(latents, numbers)
    np.testing.assert_allclose(head.coef_, theirs.coef_, atol=1e-6)
    assert head.intercept_ == pytest.approx(theirs.intercept_)
    assert head.score(latents, numbers) == pytest.approx(r2_score(numbers, head.predict(latents)))


def test_flat_latents_are_read_as_those_with_a_shape(numbered):
    latents, labels, _ = numbered
    head = AttributeHead().fit(latents, labels)
    np.testing.assert_array_equal(head.predict_proba(latents.flatten(1)), head.predict_proba(latents))
    assert "reads latents [N, 2, 3], found [120, 3, 2]" in refusal(head.predict, latents.view(-1, 3, 2))


def test_scores_refuse_lists_of_unequal_length(x0):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        random_head().score(x0, ["label0"])


@pytest.mark.parametrize("texts", [["One.", "Two."], ("One.", "Two."), np.array(["One.", "Two."]), "One."])
def test_texts_are_no_latents(texts, numbered):
    latents, labels, numbers = numbered
    said = "was given texts, and heads take latents: head."
    for head in (AttributeHead().fit(latents, labels), NumberHead().fit(latents, numbers)):
        assert f"{said}predict(codec.encode(texts))" in refusal(head.predict, texts)
        assert f"{said}fit(codec.encode(texts), labels)" in refusal(head.fit, texts, numbers)
    assert said in refusal(AttributeHead().fit(latents, labels).predict_proba, texts)
