"""Guides of heads: targets, scales, contradictions."""

import pytest
import torch
from toy_heads import CODEC, labelled, random_head, refusal, words_head

from latdiff.diffusion.guidance import Guide, warn_of_contradictions
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.callable import CallableHead
from latdiff.heads.fitting import fit_head
from latdiff.heads.linear import USUAL_PUSH


def test_a_head_fitted_in_inference_mode_steers(numbered, x0):
    latents, labels, _ = numbered
    with torch.inference_mode():
        head = AttributeHead().fit(latents.clone(), labels)
        head.to("cpu")
    guide = head.toward("class a")
    (gradient,) = torch.autograd.grad(guide.log_prob(x0.requires_grad_()).sum(), x0)
    assert gradient.isfinite().all()


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


@pytest.mark.parametrize("wanted", [{}, {"label0": -1, "label1": 2}, {"label0": 0}, {"label0": float("nan")}])
def test_weights_of_labels_that_are_no_weights(wanted):
    assert "must be positive numbers" in refusal(random_head().toward, wanted)


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: torch.zeros(len(x))])
def test_functions_that_are_no_log_probability(function, x0):
    guide = CallableHead(function, name="mine").guide(1.0)
    x0.requires_grad_()
    assert "one log-probability a text, computed by torch" in refusal(guide.log_prob, x0)
    assert "take mode x0" in refusal(CallableHead(function).guide, 1.0, mode="noisy")


def test_an_unknown_label_is_met_with_the_nearest():
    said = refusal(random_head().toward, "labell1")
    assert said == "head 'mood' knows no label 'labell1', only label0, label1, label2; did you mean label1?"
