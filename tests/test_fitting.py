"""Fitting a head: its report, and the labels that are taken and refused."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict, cross_val_score
from toy_heads import CODEC, labelled, refusal

from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.fitting import calibration_error, fit_head
from latdiff.heads.number import NumberHead


def test_calibration_error_is_the_mean_gap_between_sureness_and_truth():
    sure = np.array([[0.9, 0.1]] * 10)
    assert calibration_error(sure, [0] * 9 + [1]) == pytest.approx(0)
    assert calibration_error(sure, [0] * 5 + [1] * 5) == pytest.approx(0.4)
    both = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    assert calibration_error(both, [0] * 5 + [1] * 5 + [1] * 6 + [0] * 4) == pytest.approx(0.2)


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
        (np.eye(2)[[0, 1] * 15], "the label at index 0 is [1.0, 0.0] of type list, must be a text, a number or"),
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


@pytest.mark.parametrize("kind", [AttributeHead, NumberHead])
@pytest.mark.parametrize("seed", [-1, 2**32, 20241128093000, 10**80])
def test_a_random_state_that_scikit_learn_does_not_take(kind, seed, numbered):
    latents, labels, numbers = numbered
    given = labels if kind is AttributeHead else numbers
    assert "must be from 0 to 2**32 - 1" in refusal(kind(random_state=seed).fit, latents, given)


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
    assert list(plain.report) == ["texts", "alike", "C", "features", "accuracy", "majority",
                                  "calibration_error"]
    assert plain.report["majority"] == 32 / 62
    assert "accuracy_by_noise" in fit_head(CODEC, texts, labels, noise_aware=True).report


def chance(each=50):
    """Texts with labels that they do not show."""
    texts, _ = labelled("ad", each)
    return texts, ["heads" if i // 2 % 2 else "tails" for i in range(len(texts))]


WEAK = "right on .* % of 100 cross-validated texts, where the commonest label alone would be right on 50.0 %, .* more"


def test_a_head_that_guesses_warns_when_it_is_fitted_and_when_it_steers(tmp_path):
    with pytest.warns(UserWarning, match=f"head 'coin' is {WEAK}"):
        coin = fit_head(CODEC, *chance(), name="coin")
    coin.save(tmp_path)
    for head in (coin, load_head(tmp_path)):
        assert head.report["majority"] == 0.5
        for steer, label in ((head.toward, "heads"), (head.away, "tails")):
            with pytest.warns(UserWarning, match=f"head 'coin' is {WEAK}") as warned:
                steer(label)
            assert len(warned) == 1


def test_a_head_that_knows_its_labels_does_not_warn(recwarn):
    head = fit_head(CODEC, *labelled("ad", each=50))
    head.toward("class a")
    AttributeHead.from_weights(["a", "b"], head.weight, head.bias, report={"accuracy": 0.5}).toward("a")  # an older one
    assert not recwarn.list


@pytest.mark.parametrize(("accuracy", "texts", "warns"), [
    (0.59, 100, True), (0.61, 100, False), (0.51, 400, True), (0.56, 400, False), (0.3, 400, True),
])
def test_two_standard_errors_above_the_commonest_label_are_enough(accuracy, texts, warns, recwarn):
    report = {"accuracy": accuracy, "majority": 0.5, "texts": texts}
    AttributeHead.from_weights(["a", "b"], torch.ones(2, 1, 3), torch.zeros(2), report=report).toward("a")
    assert len(recwarn.list) == warns


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


def test_labels_may_be_numbers():
    texts, labels = labelled("ab")
    head = fit_head(CODEC, texts, [int(label[-1] == "b") for label in labels])
    assert head.toward(1).target == head.toward("1").target == head.away(0).target == (0.0, 1.0)
    assert head.knows("0") and not head.knows("zero")


def coins(each=120, times=6):
    """Texts whose labels are drawn by chance, each given several times over, with the same label."""
    drawn = np.random.default_rng(0).integers(2, size=each)
    texts = [f"{'abcd'[i % 4]}{i}" for i in range(each)]
    return texts * times, ["tails" if one else "heads" for one in drawn] * times


class Steady:
    """A codec whose latents follow from the text alone, many enough to know each of a few hundred texts by."""

    latent_shape, digest = (8, 16), "abc"

    def encode(self, texts):
        seeds = [int.from_bytes(text.encode(), "big") for text in texts]
        return torch.stack([torch.randn(8, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@pytest.mark.parametrize("C", [0.01, 10.0, "cv"])
def test_texts_that_repeat_are_not_held_out_from_themselves(C):
    with pytest.warns(UserWarning, match=r"of 720 cross-validated texts \(120 different ones\), .* can hardly steer"):
        head = fit_head(Steady(), *coins(), name="coin", C=C, noise_aware=C == 10)
    assert abs(head.report["accuracy"] - 0.5) < 0.1
    assert head.report["different_texts"] == 120
    if C == 10:
        assert abs(head.report["accuracy_by_noise"]["0.00"] - 0.5) < 0.2


def test_latents_that_repeat_choose_no_C_by_heart():
    texts, labels = coins()
    once = AttributeHead(C="cv").fit(Steady().encode(texts[:120]), labels[:120]).C_
    assert once == AttributeHead(C="cv").fit(Steady().encode(texts), labels).C_


def test_numbers_of_texts_that_repeat():
    texts, labels = coins()
    numbers = [float(label == "heads") for label in labels]
    assert fit_head(Steady(), texts, numbers, NumberHead(alpha=1.0)).report["r2"] < 0.05
    assert NumberHead(alpha=1.0).fit(Steady().encode(texts), numbers).sd > 0.49


@pytest.mark.parametrize("head", [AttributeHead("tone"), NumberHead("tone")])
def test_folds_of_texts_that_differ_are_scikit_learns_own(head):
    texts, letters = labelled("ab")
    labels = np.array([float(letter == "class a") for letter in letters])
    latents = CODEC.encode(texts).flatten(1).numpy()
    found = fit_head(CODEC, texts, labels, head).report
    if isinstance(head, NumberHead):
        guessed = cross_val_predict(Ridge(alpha=100.0), latents, labels, cv=KFold(5, shuffle=True, random_state=0))
        assert found["r2"] == 1 - (labels - guessed).std() ** 2 / labels.var()
    else:
        ours = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        assert found["accuracy"] == cross_val_score(ours, latents, labels, cv=folds).mean()
    assert "different_texts" not in found


@pytest.mark.parametrize(("head", "said"), [
    (AttributeHead("tone"), "head 'tone': class 'a' has 20 texts, of which only 2 differ; the 5 folds"),
    (NumberHead("tone"), "head 'tone' has 40 texts, of which only 4 differ; the 5 folds"),
])
def test_too_few_texts_that_differ(head, said):
    labels = ["a", "b"] if isinstance(head, AttributeHead) else [1, 2]
    assert said in refusal(fit_head, CODEC, ["a1", "b1", "a2", "b2"] * 10, labels * 20, head)
