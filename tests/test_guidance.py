"""Heads against scikit-learn, guides against closed forms, and every refusal."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from latdiff.guidance import MAX_RAMP, AttributeHead, Guide, HeadError
from latdiff.schedule import alpha2_at

L, D = 2, 3
ALPHA2 = alpha2_at("cosine", torch.linspace(0.001, 0.999, 100))


class Codec:
    """Latents that show their text's first letter: b is two further along the first dimension than a, and so on."""

    latent_shape = (L, D)

    def encode(self, texts):
        latents = torch.randn(len(texts), L, D, generator=torch.Generator().manual_seed(0))
        latents[:, 0, 0] += torch.tensor([2.0 * (ord(text[0]) - ord("a")) for text in texts])
        return latents

    def digest(self):
        return "abc"


PIPE = SimpleNamespace(codec=Codec())


def labelled(letters, each=30):
    texts = [f"{letter}{number}" for number in range(each) for letter in letters]
    return texts, [f"class {text[0]}" for text in texts]


def random_head(classes=3, bias=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, L, D, generator=generator)
    bias = torch.randn(classes, generator=generator) if bias is None else torch.tensor(bias)
    return AttributeHead("mood", [f"label{i}" for i in range(classes)], weight, bias, 0.9, "abc")


def linear_guide(seed, scale=4.0):
    """Its class is so unlikely everywhere that log p is linear: the gradient is w1 - w0."""
    head = random_head(2, bias=[200.0, -200.0], seed=seed)
    return head.toward("label1", scale), head.weight[1] - head.weight[0]


@pytest.fixture
def x0():
    return torch.randn(5, L, D, generator=torch.Generator().manual_seed(3))


# Fitting


@pytest.mark.parametrize("letters", ["ab", "abc"])
def test_a_head_is_scikit_learns_regression(letters):
    texts, labels = labelled(letters)
    head = AttributeHead.fit(PIPE, texts, labels, name="letter", C=0.3)
    latents = PIPE.codec.encode(texts)
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(latents.flatten(1).numpy(), labels)
    assert head.labels == list(theirs.classes_)
    np.testing.assert_allclose(
        head.predict_proba(latents), theirs.predict_proba(latents.flatten(1).numpy()), atol=1e-4
    )
    assert head.predict(latents) == theirs.predict(latents.flatten(1).numpy()).tolist()
    assert head.score(latents, labels) == pytest.approx(theirs.score(latents.flatten(1).numpy(), labels))
    assert head.weight.shape == (len(letters), L, D)
    assert (head.name, head.codec_digest) == ("letter", "abc")


def test_what_is_learnt_shows_in_accuracy_and_chance_does_too():
    texts, labels = labelled("ad", each=50)  # six apart
    assert AttributeHead.fit(PIPE, texts, labels).accuracy_ > 0.98
    chance = ["heads" if i // 2 % 2 else "tails" for i in range(100)]
    assert AttributeHead.fit(PIPE, texts, chance).accuracy_ < 0.7


def test_weaker_regularisation_gives_larger_weights():
    texts, labels = labelled("ab")
    small, large = (AttributeHead.fit(PIPE, texts, labels, C=c).weight.norm() for c in (0.01, 10.0))
    assert large > 2 * small


def test_probabilities_sum_to_one(x0):
    head = random_head()
    np.testing.assert_allclose(head.predict_proba(x0).sum(1), np.ones(5), rtol=1e-5)


# Guides


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_gradient_is_autograds(classes, x0):
    head = random_head(classes)
    x0.requires_grad_()
    for label in head.labels:
        log_prob = head.log_prob(x0)[:, head.labels.index(label)].sum()
        (expected,) = torch.autograd.grad(log_prob, x0)
        torch.testing.assert_close(head.toward(label).gradient(x0), expected, rtol=1e-4, atol=1e-5)


def test_a_linear_log_probability_has_a_constant_gradient(x0):
    guide, direction = linear_guide(seed=0)
    torch.testing.assert_close(guide.gradient(x0), direction.expand_as(x0))


def steered(guides, x0, t):
    def denoise(z, t, cond=None, x_prev=None):
        return z

    for guide in guides:
        denoise = guide(denoise, ALPHA2)
    return denoise(x0, t)


def test_the_estimate_moves_by_scale_times_ramp_times_gradient(x0):
    guide, direction = linear_guide(seed=0, scale=2.5)
    t = torch.tensor([0, 25, 49, 75, 99])
    moved = steered([guide], x0, t) - x0
    ratio = ((1 - ALPHA2[t]) / ALPHA2[t]).sqrt()
    assert ratio[2].item() == pytest.approx(1, abs=0.05)
    assert ratio[4] > MAX_RAMP > ratio[3]
    expected = 2.5 * ratio.clamp(max=MAX_RAMP).view(-1, 1, 1) * direction
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-4)


def test_linear_guides_add_up_in_any_order(x0):
    (one, direction_one), (two, direction_two) = linear_guide(0), linear_guide(1, scale=-1.0)
    t = torch.full((5,), 49)
    there, back = steered([one, two], x0, t), steered([two, one], x0, t)
    torch.testing.assert_close(there, back)
    ramp = ((1 - ALPHA2[49]) / ALPHA2[49]).sqrt()
    torch.testing.assert_close(there - x0, (ramp * (4 * direction_one - direction_two)).expand_as(x0))


def test_scale_zero_changes_nothing(x0):
    t = torch.arange(5) * 20
    torch.testing.assert_close(steered([random_head().toward("label1", 0.0)], x0, t), x0)


def test_a_guide_makes_its_label_likelier_and_a_negative_one_less_likely(x0):
    head, t = random_head(), torch.full((5,), 49)
    before, up, down = (
        head.log_prob(x)[:, 1]
        for x in (
            x0,
            steered([head.toward("label1", 0.5)], x0, t),
            steered([head.toward("label1", -0.5)], x0, t),
        )
    )
    assert (up > before).all()
    assert (down < before).all()


def test_a_guide_hands_on_condition_and_estimate(x0):
    seen = []

    def denoise(z, t, cond=None, x_prev=None):
        seen.append((cond, x_prev))
        return z

    random_head().toward("label0")(denoise, ALPHA2)(x0, torch.zeros(5).long(), "cond", "estimate")
    assert seen == [("cond", "estimate")]


def test_arguments_are_left_as_they_were(x0):
    before = x0.clone()
    steered([random_head().toward("label1")], x0, torch.full((5,), 49))
    assert torch.equal(x0, before)


# Saving


def test_a_saved_head_is_the_same(tmp_path, x0):
    head = random_head()
    head.save(tmp_path / "heads" / "mood")
    again = AttributeHead.load(tmp_path / "heads" / "mood")
    assert torch.equal(again.log_prob(x0), head.log_prob(x0))
    assert (again.name, again.labels, again.accuracy_, again.codec_digest) == (
        head.name, head.labels, head.accuracy_, head.codec_digest,
    )  # fmt: skip
    assert sorted(file.name for file in (tmp_path / "heads" / "mood").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_fitted_head_can_be_saved(tmp_path):
    head = AttributeHead.fit(PIPE, *labelled("ab"))
    head.save(str(tmp_path))
    assert torch.equal(AttributeHead.load(str(tmp_path)).weight, head.weight)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["labels"] == [
        "class a",
        "class b",
    ]


# Refusals


def refusal(call, *arguments, **keywords):
    with pytest.raises(HeadError) as error:
        call(*arguments, **keywords)
    return str(error.value)


def test_labels_of_one_class():
    said = refusal(AttributeHead.fit, PIPE, ["a1"] * 10, ["good"] * 10, name="tone")
    assert said == "head 'tone': all labels are of one class ('good'); a head needs two or more"


def test_no_labels_at_all():
    assert "none at all" in refusal(AttributeHead.fit, PIPE, [], [])


def test_a_class_of_too_few_texts():
    said = refusal(AttributeHead.fit, PIPE, ["a1"] * 10, ["good"] * 6 + ["bad"] * 4)
    assert "every class needs five texts or more" in said
    assert "'bad': 4" in said


def test_unequal_lengths():
    assert "3 texts but 2 labels" in refusal(AttributeHead.fit, PIPE, ["a", "b", "c"], ["x", "y"])


def test_an_unknown_label_is_met_with_the_nearest():
    said = refusal(random_head().toward, "labell1")
    assert said == "head 'mood' knows no label 'labell1', only label0, label1, label2; did you mean label1?"


def test_a_head_that_is_not_there_names_those_that_are(tmp_path):
    random_head().save(tmp_path / "heads" / "mood")
    said = refusal(AttributeHead.load, tmp_path / "heads" / "topic")
    assert "config.json and model.safetensors missing" in said
    assert "fitted heads there: mood" in said
    assert "latdiff fit-head" in said
    assert "fitted heads there: none" in refusal(AttributeHead.load, tmp_path / "nowhere" / "topic")


def test_a_head_without_its_weights(tmp_path):
    random_head().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "(model.safetensors missing)" in refusal(AttributeHead.load, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", None), ("config.json", None), ("config.json", b"{}"), ("config.json", b"[1]")],
)
def test_a_damaged_head(tmp_path, file, content):
    random_head().save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-15] if content is None else content)
    said = refusal(AttributeHead.load, tmp_path)
    assert "cut short or damaged" in said
    assert "fit it again" in said


def test_scores_refuse_lists_of_unequal_length(x0):
    with pytest.raises(ValueError):
        random_head().score(x0, ["label0"])


def test_the_default_scale_is_that_of_the_command_line():
    from latdiff.cli import DEFAULT_SCALE

    guide = random_head().toward("label0")
    assert isinstance(guide, Guide)
    assert guide.scale == DEFAULT_SCALE
    assert math.isfinite(MAX_RAMP)
