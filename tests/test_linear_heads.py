"""Heads against scikit-learn, their files, and every refusal."""

import doctest
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from latdiff.diffusion.guidance import Guide, warn_of_contradictions
from latdiff.heads import attribute, callable, fitting, number
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.callable import CallableHead
from latdiff.heads.files import load_head
from latdiff.heads.fitting import calibration_error, fit_head
from latdiff.heads.inputs import HeadError
from latdiff.heads.linear import USUAL_PUSH
from latdiff.heads.number import NumberHead
from latdiff.schedule import add_noise, alpha2_at, log_snr

L, D = 2, 3


class Codec:
    """Latents that show their text's first letter: b is two further along the first dimension than a, and so on."""

    latent_shape, digest = (L, D), "abc"

    def encode(self, texts):
        latents = torch.randn(len(texts), L, D, generator=torch.Generator().manual_seed(0))
        latents[:, 0, 0] += torch.tensor([2.0 * (ord(text[0]) - ord("a")) for text in texts])
        return latents


def estimate(z, alpha2):
    return alpha2**0.5 * z  # of x ~ N(0, I)


CODEC = Codec()


def labelled(letters, each=30):
    texts = [f"{letter}{number}" for number in range(each) for letter in letters]
    return texts, [f"class {text[0]}" for text in texts]


def random_head(classes=3, bias=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, L, D, generator=generator)
    bias = torch.randn(classes, generator=generator) if bias is None else torch.tensor(bias)
    labels, report = [f"label{i}" for i in range(classes)], {"accuracy": 0.9}
    return AttributeHead.from_weights(labels, weight, bias, name="mood", codec_digest="abc", report=report)


def words_head(name="words"):
    return NumberHead.from_weights(torch.zeros(L, D), torch.tensor(0.0), sd=1.0, name=name)


def refusal(call, *arguments, **keywords):
    with pytest.raises(HeadError) as error:
        call(*arguments, **keywords)
    return str(error.value)


@pytest.fixture
def x0():
    return torch.randn(5, L, D, generator=torch.Generator().manual_seed(3))


# Fitting


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


def test_a_noise_aware_head_reads_noised_latents_and_trusts_them_less():
    texts, labels = labelled("ad", each=60)
    head = fit_head(CODEC, texts, labels, noise_aware=True)
    assert head.noise_aware
    latents = CODEC.encode(texts)
    sure, accuracy = [], []
    for time in (0.1, 0.5, 0.9):
        alpha2 = alpha2_at("cosine", torch.full((len(latents),), time))
        z = add_noise(latents, torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)), alpha2)
        found = head.log_prob(z, log_snr(alpha2))
        sure.append(found.exp().max(1).values.mean().item())
        accuracy.append((head.classes_[found.argmax(1).numpy()] == np.array(labels)).mean())
    assert sure[0] > sure[1] > sure[2]
    assert accuracy[0] > 0.95 > accuracy[2]
    clean = fit_head(CODEC, texts, labels)
    torch.testing.assert_close(head.log_prob(latents), clean.log_prob(latents))


@pytest.mark.parametrize("noise_aware", [False, True])
def test_the_report_shows_how_accuracy_falls_with_noise(noise_aware):
    by_noise = fit_head(CODEC, *labelled("ad", each=60), noise_aware=noise_aware, estimate=estimate).report[
        "accuracy_by_noise"
    ]
    assert list(by_noise) == ["0.00", "0.16", "0.38", "0.59", "0.71", "0.81", "0.92", "0.99"]
    assert by_noise["0.00"] > 0.95
    assert by_noise["0.00"] >= by_noise["0.71"] > by_noise["0.99"]


def test_weights_between_two_noise_levels_are_interpolated_in_log_snr(x0):
    weight = torch.randn(3, 2, L, D, generator=torch.Generator().manual_seed(0))
    head = AttributeHead.from_weights(["a", "b"], weight, torch.zeros(3, 2), torch.tensor([-4.0, 0.0, 2.0]))
    for at, expected in ((-4.0, weight[0]), (-1.0, 0.25 * weight[0] + 0.75 * weight[1]),
                         (1.0, (weight[1] + weight[2]) / 2), (2.0, weight[2]), (7.0, weight[2])):
        found = head.logits(x0, torch.full((5,), at))
        torch.testing.assert_close(found, torch.einsum("bld,cld->bc", x0, expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.logits(x0), torch.einsum("bld,cld->bc", x0, weight[2]))


def test_beyond_the_noisiest_level_weights_fall_like_the_signal(x0):
    weight = torch.randn(2, 2, L, D, generator=torch.Generator().manual_seed(0))
    head = AttributeHead.from_weights(["a", "b"], weight, torch.zeros(2, 2), torch.tensor([-4.0, 0.0]))
    alpha, lowest = (torch.tensor(x).sigmoid().sqrt() for x in (-9.0, -4.0))
    expected = torch.einsum("bld,cld->bc", x0, weight[0]) * alpha / lowest
    torch.testing.assert_close(head.logits(x0, torch.full((5,), -9.0)), expected)


def test_a_number_is_scikit_learns_ridge():
    texts, _ = labelled("abcd")
    values = [2.0 * (ord(text[0]) - ord("a")) + 5 for text in texts]
    head = fit_head(CODEC, texts, values, NumberHead("height", alpha=1.0))
    latents = CODEC.encode(texts)
    theirs = Ridge(alpha=1.0).fit(latents.flatten(1).numpy(), values)
    np.testing.assert_allclose(head.predict(latents), theirs.predict(latents.flatten(1).numpy()), atol=1e-3)
    assert 0.7 < head.report["r2"] < 0.95  # unit noise on a standard deviation of 2.2
    assert head.sd == pytest.approx(1, abs=0.2)


def test_calibration_error_is_the_mean_gap_between_sureness_and_truth():
    sure = np.array([[0.9, 0.1]] * 10)
    assert calibration_error(sure, [0] * 9 + [1]) == pytest.approx(0)
    assert calibration_error(sure, [0] * 5 + [1] * 5) == pytest.approx(0.4)
    both = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    assert calibration_error(both, [0] * 5 + [1] * 5 + [1] * 6 + [0] * 4) == pytest.approx(0.2)


def test_probabilities_sum_to_one(x0):
    head = random_head()
    np.testing.assert_allclose(head.predict_proba(x0).sum(1), np.ones(5), rtol=1e-5)


# scikit-learn's habits

NOT_SCIKIT_LEARNS = {
    "check_dont_overwrite_parameters": "what guides and files read has no underscore at its end: weight, radius, ...",
    "check_supervised_y_2d": "a row of labels a text is refused, a column of one as well: no one-hot row is a label",
    "check_complex_data": "complex labels are refused for what they are, before latents are looked at",
}


@parametrize_with_checks([AttributeHead(), NumberHead()], expected_failed_checks=lambda head: NOT_SCIKIT_LEARNS)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def numbered():
    """Latents [120, L, D], labels and numbers."""
    texts, labels = labelled("abc", each=40)
    return CODEC.encode(texts), labels, [ord(text[0]) - 96.0 for text in texts]


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


@pytest.mark.parametrize(
    ("values", "kind"), [(["no", "yes"], str), ([0, 3], int), ([0.0, 1.0], float), ([False, True], bool)]
)
@pytest.mark.parametrize("container", [list, np.array, torch.tensor])
def test_labels_keep_their_type(values, kind, container, tmp_path):
    if container is torch.tensor and kind is str:
        container = tuple
    texts, letters = labelled("ab")
    head = fit_head(CODEC, texts, container([values[letter == "class b"] for letter in letters]))
    head.save(tmp_path)
    for one in (head, load_head(tmp_path)):
        assert one.classes_.tolist() == values and type(one.classes_.tolist()[0]) is kind
        found = one.predict(CODEC.encode(texts))
        assert isinstance(found, np.ndarray) and type(found.tolist()[0]) is kind
        assert one.toward(values[1]).target == one.toward(str(values[1])).target == (0.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 10 + ["a", "b"] * 10, "10 of 30 labels are missing, the first at index 0 (None)"),
        (["a", "b"] * 10 + [math.nan] * 10, "10 of 30 labels are missing, the first at index 20 (nan)"),
        (np.array([0.0, 1.0] * 14 + [math.nan, 0.0]), "1 of 30 labels are missing, the first at index 28"),
        (np.eye(2)[[0, 1] * 15], "the label at index 0 is '[1.0, 0.0]' of type list, must be a text, a number or"),
        (["a", 1] * 15, "labels are of several types (number, text)"),
        ([0.5, 1.25, 2.5] * 10, "fit a NumberHead to numbers"),
    ],
)
def test_labels_that_are_none(labels, said):
    assert said in refusal(fit_head, CODEC, [f"t{i}" for i in range(30)], labels, name="tone")


def test_pandas_na_is_no_label():
    NA = type("NAType", (), {"__bool__": lambda self: int("no truth value")})()
    said = refusal(fit_head, CODEC, [f"t{i}" for i in range(30)], ["a", "b", NA] * 10, name="tone")
    assert "10 of 30 labels are missing, the first at index 2" in said


def test_latents_and_labels_of_unequal_number(numbered):
    latents, labels, _ = numbered
    assert "120 latents but 119 labels" in refusal(AttributeHead().fit, latents, labels[:-1])


def test_a_random_state_that_is_no_number(numbered):
    latents, labels, _ = numbered
    assert "random_state is None, must be a whole number" in refusal(
        AttributeHead(random_state=None).fit, latents, labels
    )


def test_fitting_leaves_the_head_that_it_is_given(numbered):
    given = AttributeHead(name="tone")
    head = fit_head(CODEC, *labelled("ab"), given, C=0.5)
    assert (head.name, head.C, given.C) == ("tone", 0.5, 0.01)
    assert "weight" not in vars(given)


def test_a_report_without_a_denoiser_has_what_a_codec_can_tell():
    texts, labels = labelled("ab", each=30)
    plain = fit_head(CODEC, [*texts, "b99", "b98"], [*labels, "class b", "class b"])
    assert list(plain.report) == ["texts", "C", "features", "accuracy", "majority", "calibration_error"]
    assert plain.report["majority"] == 32 / 62
    assert "accuracy_by_noise" in fit_head(CODEC, texts, labels, noise_aware=True).report


def test_float16_and_float64_latents_are_read_in_float32_and_float64(x0):
    head = random_head()
    expected = head.log_prob(x0)
    assert expected.dtype == head.log_prob(x0.half()).dtype == torch.float32
    torch.testing.assert_close(head.log_prob(x0.bfloat16()), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(head.log_prob(x0.double()), expected.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise_aware", [False, True])
def test_weights_are_moved_once_and_not_at_every_step(noise_aware):
    """On the meta device, which computes nothing and tells a copy from what was there."""
    head = fit_head(CODEC, *labelled("ab"), noise_aware=noise_aware)
    x, noise = torch.empty(5, L, D, device="meta"), torch.zeros(5, device="meta")
    head.to("meta")
    weight = head.weight
    assert head.logits(x, noise).device.type == "meta"
    assert head.weight is weight and head.weight.dtype == torch.float32
    again = fit_head(CODEC, *labelled("ab"))
    again.logits(x)  # follows the latents where nobody moved it
    assert again.weight.device.type == "meta"


def test_a_head_fitted_in_inference_mode_steers(numbered, x0):
    latents, labels, _ = numbered
    with torch.inference_mode():
        head = AttributeHead().fit(latents.clone(), labels)
        head.to("cpu")
    guide = head.toward("class a")
    (gradient,) = torch.autograd.grad(guide.log_prob(x0.requires_grad_()).sum(), x0)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("module", [attribute, callable, fitting, number])
def test_the_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


# Saving


def test_a_saved_head_is_the_same(tmp_path, x0):
    head = random_head()
    head.save(tmp_path / "heads" / "mood")
    again = load_head(tmp_path / "heads" / "mood")
    assert torch.equal(again.log_prob(x0), head.log_prob(x0))
    assert (again.name, again.classes_.tolist(), again.report, again.codec_digest) == (
        head.name, head.classes_.tolist(), head.report, head.codec_digest,
    )
    assert sorted(file.name for file in (tmp_path / "heads" / "mood").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_head_knows_the_texts_it_was_fitted_on(tmp_path):
    texts, labels = labelled("ab")
    numbers = list(range(len(texts)))
    for head in (fit_head(CODEC, texts, labels), fit_head(CODEC, texts, numbers, NumberHead())):
        head.save(tmp_path)
        assert load_head(tmp_path).saw(["a0", " b29 ", "a30", "b"]) == [True, True, False, False]
    assert random_head().saw(["a0"]) == [False]


def test_a_fitted_head_can_be_saved(tmp_path):
    head = fit_head(CODEC, *labelled("ab"))
    head.save(str(tmp_path))
    assert torch.equal(load_head(str(tmp_path)).weight, head.weight)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["labels"] == [
        "class a",
        "class b",
    ]


@pytest.mark.parametrize("kind", ["number", "noise-aware", "from scikit-learn"])
def test_every_kind_of_head_comes_back_from_its_file(kind, tmp_path, x0):
    texts, labels = labelled("ab")
    if kind == "number":
        head = fit_head(CODEC, texts, [float(len(text)) for text in texts], NumberHead("letters"))
        target = 4.0
    elif kind == "noise-aware":
        head, target = fit_head(CODEC, texts, labels, noise_aware=True), (0.0, 1.0)
    else:
        theirs = LinearSVC().fit(CODEC.encode(texts).flatten(1).numpy(), labels)
        head, target = AttributeHead.from_sklearn(CODEC, theirs), (1.0, 0.0)
    head.save(tmp_path)
    again, noise = load_head(tmp_path), torch.full((5,), 0.3)
    assert type(again) is type(head)
    assert torch.equal(again.log_prob_of(target, x0, noise), head.log_prob_of(target, x0, noise))
    assert (again.name, again.report, again.radius, again.codec_digest) == (
        head.name, head.report, head.radius, head.codec_digest,
    )


# Guides


def test_the_usual_mode_and_scale():
    clean = fit_head(CODEC, *labelled("ab"))
    assert clean.toward("class a").mode == "x0"
    assert clean.toward("class a").scale == clean.usual_scale("x0")
    assert clean.toward("class a", 3.0, "denoiser", clamp=0.5) == Guide(clean, (1.0, 0.0), 3.0, "denoiser", clamp=0.5)


@pytest.mark.parametrize("mode", ["x0", "denoiser", "noisy"])
def test_the_usual_push_is_as_long_whatever_the_size_of_the_weights(mode):
    head = fit_head(CODEC, *labelled("abc"), noise_aware=True)
    large = AttributeHead.from_weights(head.classes_, 5 * head.weight, head.bias, head.log_snrs)
    assert large.usual_scale(mode) == pytest.approx(head.usual_scale(mode) / 5)
    spread = head.weight[-1] - head.weight[-1].mean(0)
    pushes = head.usual_scale(mode) * spread.square().mean((1, 2)).sqrt()
    assert pushes.mean().item() == pytest.approx(USUAL_PUSH[mode])


def test_targets_say_what_they_are():
    head = random_head(4)
    assert head.toward("label2").title == "mood=label2"
    assert head.toward({"label0": 2, "label2": 1}).title == "mood=label0+label2"
    assert head.away("label1").title == "mood=not label1"
    assert random_head(2).away("label1").title == "mood=label0"
    assert words_head().toward(20).title == "words=20"


def test_the_probability_of_several_labels_is_their_weighted_sum(x0):
    head = random_head(4)
    p = torch.tensor(head.predict_proba(x0))
    found = head.toward({"label0": 4, "label3": 2}).log_prob(x0)
    torch.testing.assert_close(found, (p[:, 0] + p[:, 3] / 2).log())
    torch.testing.assert_close(head.away("label1").log_prob(x0), (1 - p[:, 1]).log())


def test_contradictions():
    head, other = random_head(), random_head()
    other.name = "tone"
    number = words_head()
    any_function = CallableHead(lambda x: x.sum((1, 2)))
    for guides in (
        [head.toward("label0"), head.toward("label1")], [head.toward("label0"), head.away("label0")],
        [number.toward(3), other.toward("label0"), number.toward(4)],
        [head.toward("label0", 5.0), head.toward("label0", -5.0)], [number.toward(3, 1.0), number.toward(3, -1.0)],
        [any_function.guide(1.0), any_function.guide(-1.0)],
    ):
        with pytest.warns(UserWarning, match="pull against each other"):
            warn_of_contradictions(guides)


def test_guides_that_get_along(recwarn):
    head, other = random_head(), random_head()
    other.name = "tone"
    for guides in (
        [head.toward("label0"), other.toward("label1")], [head.toward("label0"), head.away("label1")],
        [head.toward("label0"), head.toward("label1", -2.0)], [head.toward("label0")] * 2,
        [head.toward("label0", -5.0), head.toward("label1", -5.0)],
        [words_head("mood").toward(3), head.toward("label0")],
        [random_head(2).toward("label1"), random_head(4).toward("label3")],
        [CallableHead(lambda x: x.sum((1, 2))).guide(1.0), CallableHead(lambda x: x.mean((1, 2))).guide(-1.0)],
    ):
        warn_of_contradictions(guides)
    assert not recwarn.list


# Refusals


def test_a_head_of_an_older_format(tmp_path):
    random_head().save(tmp_path)
    (tmp_path / "config.json").write_text('{"name": "mood", "labels": ["a", "b"], "accuracy": 0.9}', encoding="utf-8")
    assert "written by an older latdiff; fit it again" in refusal(load_head, tmp_path)


def test_labels_of_one_class():
    said = refusal(fit_head, CODEC, ["a1"] * 10, ["good"] * 10, name="tone")
    assert said == "head 'tone': all labels are of one class ('good'); a head needs two or more"


def test_no_labels_at_all():
    assert "none at all" in refusal(fit_head, CODEC, [], [])


def test_a_class_of_too_few_texts():
    said = refusal(fit_head, CODEC, ["a1"] * 10, ["good"] * 6 + ["bad"] * 4)
    assert "every class needs 5 texts or more" in said
    assert "'bad': 4" in said


def test_unequal_lengths():
    assert "3 texts but 2 labels" in refusal(fit_head, CODEC, ["a", "b", "c"], ["x", "y"])


def test_a_clean_head_cannot_be_read_at_z():
    assert "fit it with noise_aware=True" in refusal(random_head().toward, "label0", mode="noisy")


@pytest.mark.parametrize("C", [0, -1, math.inf, "auto"])
def test_a_regularisation_that_is_none(C):
    assert f"C is {C!r}, must be a number above 0, or 'cv'" in refusal(fit_head, CODEC, *labelled("ab"), C=C)


def test_labels_may_be_numbers():
    texts, labels = labelled("ab")
    head = fit_head(CODEC, texts, [int(label[-1] == "b") for label in labels])
    assert head.toward(1).target == head.toward("1").target == head.away(0).target == (0.0, 1.0)
    assert head.knows("0") and not head.knows("zero")


def test_unknown_features():
    said = refusal(fit_head, CODEC, *labelled("ab"), name="tone", features="max")
    assert said == "head 'tone': features is 'max', must be one of flat, mean, both"


@pytest.mark.parametrize("wanted", [{}, {"label0": -1, "label1": 2}, {"label0": 0}, {"label0": float("nan")}])
def test_weights_of_labels_that_are_no_weights(wanted):
    assert "must be positive numbers" in refusal(random_head().toward, wanted)


def test_classifiers_that_are_not_linear_or_not_fitted_or_of_other_latents():
    texts, labels = labelled("ab")
    assert "must be a linear classifier, and fitted" in refusal(AttributeHead.from_sklearn, CODEC, LinearSVC())
    three = labelled("abc")
    duels = SVC(kernel="linear").fit(CODEC.encode(three[0]).flatten(1).numpy(), three[1])
    assert "one against rest" in refusal(AttributeHead.from_sklearn, CODEC, duels)
    narrow = LinearSVC().fit(CODEC.encode(texts)[:, 0].numpy(), labels)
    said = refusal(AttributeHead.from_sklearn, CODEC, narrow, name="tone")
    assert "reads 3 features, but flat latents of this codec have 6" in said


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


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: torch.zeros(len(x))])
def test_functions_that_are_no_log_probability(function, x0):
    guide = CallableHead(function, name="mine").guide(1.0)
    x0.requires_grad_()
    assert "one log-probability a text, computed by torch" in refusal(guide.log_prob, x0)
    assert "take mode x0" in refusal(CallableHead(function).guide, 1.0, mode="noisy")


def test_an_unknown_label_is_met_with_the_nearest():
    said = refusal(random_head().toward, "labell1")
    assert said == "head 'mood' knows no label 'labell1', only label0, label1, label2; did you mean label1?"


def test_a_head_that_is_not_there_names_those_that_are(tmp_path):
    random_head().save(tmp_path / "heads" / "mood")
    said = refusal(load_head, tmp_path / "heads" / "topic")
    assert "config.json and model.safetensors missing" in said
    assert "fitted heads there: mood" in said
    assert "latdiff fit-head" in said
    assert "fitted heads there: none" in refusal(load_head, tmp_path / "nowhere" / "topic")


def test_a_head_without_its_weights(tmp_path):
    random_head().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "(model.safetensors missing)" in refusal(load_head, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["a", "b"]}, "weight [1, 3, 2, 3] is not of 2 labels (a, b); it must be [K, C, L, D]"),
        ({"log_snrs": [0.0, 1.0]}, "weight [1, 3, 2, 3], bias [1, 3] and 2 noise levels do not belong together"),
        ({"log_snrs": [0.0]}, "log_snrs is [0.0], must be two or more, ascending"),
        ({"kind": "vector"}, "its kind is 'vector', must be labels or number"),
    ],
)
def test_a_head_whose_parts_do_not_belong_together(tmp_path, change, said):
    random_head().save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(config), encoding="utf-8")
    found = refusal(load_head, tmp_path)
    assert said in found and str(tmp_path) in found and found.endswith("fit it again")


def test_a_head_with_another_heads_bias(tmp_path):
    random_head().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"bias": torch.zeros(1, 4)}, tmp_path / "model.safetensors")
    assert "weight [1, 3, 2, 3], bias [1, 4] and clean latents do not belong" in refusal(load_head, tmp_path)
    save_file(tensors | {"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert "weight [3], bias [1, 3] and clean latents do not belong together" in refusal(load_head, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", None), ("config.json", None), ("config.json", b"{}"), ("config.json", b"[1]"),
     ("config.json", b"null")],
)
def test_a_damaged_head(tmp_path, file, content):
    random_head().save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-15] if content is None else content)
    said = refusal(load_head, tmp_path)
    assert "cut short or damaged" in said
    assert "fit it again" in said


def test_scores_refuse_lists_of_unequal_length(x0):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        random_head().score(x0, ["label0"])
