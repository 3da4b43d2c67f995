"""Attribute heads against scikit-learn: weights, features, regularisation, devices."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.svm import SVC, LinearSVC
from toy_heads import CODEC, D, L, labelled, random_head, refusal

from latdiff.heads.attribute import AttributeHead
from latdiff.heads.fitting import fit_head


@pytest.mark.parametrize("letters", ["ab", "abc"])
def test_a_head_is_scikit_learns_regression(letters):
    texts, labels = labelled(letters)
    head = fit_head(CODEC, texts, labels, name="letter", C=0.3)
    latents = CODEC.encode(texts)
    theirs = LogisticRegression(C=0.3, max_iter=1000, class_weight="balanced").fit(latents.flatten(1).numpy(), labels)
    assert head.classes_.tolist() == theirs.classes_.tolist()
    np.testing.assert_allclose(
        head.predict_proba(latents), theirs.predict_proba(latents.flatten(1).numpy()), atol=1e-4
    )
    assert head.predict(latents).tolist() == theirs.predict(latents.flatten(1).numpy()).tolist()
    assert head.score(latents, labels) == pytest.approx(theirs.score(latents.flatten(1).numpy(), labels))
    assert head.weight.shape == (1, len(letters), L, D)
    assert (head.name, head.codec_digest) == ("letter", "abc")


def test_what_is_learnt_shows_in_accuracy_and_chance_does_too():
    texts, labels = labelled("ad", each=50)  # six apart
    assert fit_head(CODEC, texts, labels).report["accuracy"] > 0.98
    chance = ["heads" if i // 2 % 2 else "tails" for i in range(100)]
    assert fit_head(CODEC, texts, chance).report["accuracy"] < 0.7


def test_weaker_regularisation_gives_larger_weights():
    texts, labels = labelled("ab")
    small, large = (fit_head(CODEC, texts, labels, C=c).weight.norm() for c in (0.01, 10.0))
    assert large > 2 * small


@pytest.mark.parametrize("features", ["mean", "both"])
def test_pooled_features_give_the_same_probabilities_as_scikit_learn_on_them(features):
    texts, labels = labelled("abc")
    head = fit_head(CODEC, texts, labels, C=0.5, features=features)
    latents = CODEC.encode(texts)
    inputs = [latents.mean(1)] if features == "mean" else [latents.flatten(1), latents.mean(1)]
    inputs = torch.cat(inputs, dim=1).numpy()
    theirs = LogisticRegression(C=0.5, max_iter=1000, class_weight="balanced").fit(inputs, labels)
    assert head.weight.shape == (1, 3, L, D)
    np.testing.assert_allclose(head.predict_proba(latents), theirs.predict_proba(inputs), atol=1e-4)


def test_a_rare_label_counts_as_much_as_a_common_one():
    texts, labels = labelled("ab", each=100)
    few = [i for i, label in enumerate(labels) if label == "class a" or i < 20]
    texts, labels = [texts[i] for i in few], [labels[i] for i in few]
    latents = CODEC.encode(texts)
    rare = {
        weight: (fit_head(CODEC, texts, labels, class_weight=weight).predict(latents) == "class b").sum()
        for weight in ("balanced", None)
    }
    assert rare["balanced"] > 2 * rare[None]


def test_cross_validation_takes_the_strongest_regularisation_that_is_as_good():
    texts, labels = labelled("ad", each=40)
    head = fit_head(CODEC, texts, labels, C="cv")
    assert head.report["C"] == 1e-3  # classes six apart: any will do
    assert head.report["accuracy"] > 0.98
    close = fit_head(CODEC, *labelled("ab", each=200), C="cv")
    assert close.report["C"] in (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@pytest.mark.parametrize(
    "kind",
    [LinearDiscriminantAnalysis, LinearSVC, SGDClassifier, LogisticRegression, RidgeClassifier,
     partial(LinearSVC, fit_intercept=False)],
)
@pytest.mark.parametrize("letters", ["ab", "abc"])
def test_any_linear_classifier_of_scikit_learn_becomes_a_head(kind, letters):
    texts, labels = labelled(letters)
    latents = CODEC.encode(texts)
    theirs = kind().fit(latents.flatten(1).numpy(), labels)
    head = AttributeHead.from_sklearn(CODEC, theirs, name="mine")
    assert head.predict(latents).tolist() == theirs.predict(latents.flatten(1).numpy()).tolist()
    assert (head.name, head.codec_digest) == ("mine", "abc")


def test_probabilities_sum_to_one(x0):
    head = random_head()
    np.testing.assert_allclose(head.predict_proba(x0).sum(1), np.ones(5), rtol=1e-5)


def test_float16_and_float64_latents_are_read_in_float32_and_float64(x0):
    head = random_head()
    expected = head.log_prob(x0)
    assert expected.dtype == head.log_prob(x0.half()).dtype == torch.float32
    torch.testing.assert_close(head.log_prob(x0.bfloat16()), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(head.log_prob(x0.double()), expected.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("C", [0, -1, math.inf, "auto"])
def test_a_regularisation_that_is_none(C):
    assert f"C is {C!r}, must be a number above 0, or 'cv'" in refusal(fit_head, CODEC, *labelled("ab"), C=C)


def test_unknown_features():
    said = refusal(fit_head, CODEC, *labelled("ab"), name="tone", features="max")
    assert said == "head 'tone': features is 'max', must be one of flat, mean, both"


def test_classifiers_that_are_not_linear_or_not_fitted_or_of_other_latents():
    texts, labels = labelled("ab")
    assert "must be a linear classifier, and fitted" in refusal(AttributeHead.from_sklearn, CODEC, LinearSVC())
    three = labelled("abc")
    duels = SVC(kernel="linear").fit(CODEC.encode(three[0]).flatten(1).numpy(), three[1])
    assert "one against rest" in refusal(AttributeHead.from_sklearn, CODEC, duels)
    narrow = LinearSVC().fit(CODEC.encode(texts)[:, 0].numpy(), labels)
    said = refusal(AttributeHead.from_sklearn, CODEC, narrow, name="tone")
    assert "reads 3 features, but flat latents of this codec have 6" in said
