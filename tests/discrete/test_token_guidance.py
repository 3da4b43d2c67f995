"""Guidance of tokens against enumeration: what is exact, what errs as one in the number of steps, what is refused."""

import pytest
import torch
import torch.nn.functional as F
from discrete_laws import (
    any_tokens,
    chi_square,
    distance,
    exact_classifier,
    generators,
    law,
    left_out_predictor,
    looked_up,
    masks,
    of_texts,
)
from toy_worlds import Table, table, words

from latdiff.discrete.guidance import TokenGuidanceError, TokenGuide, every_change, first_order, mixed
from latdiff.discrete.reverse import masked_kernel, sample_uniform, uniform_kernel, walk
from latdiff.errors import UserError

W1 = table()
V, L = W1.vocab_size, W1.length
LABEL = torch.rand(V**L, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # p(y | x)


def given(world, label):
    """The world of texts with the label."""
    return Table((world.probs * label).view(world.joint.shape))


def ends(world, kernel, steps, masked=True):
    """Law of the texts that walks by a kernel end in."""
    size, length = world.vocab_size, world.length
    if masked:
        return of_texts(law(kernel, masks(size, length), length, steps), size, length)
    return law(kernel, any_tokens(size, length), length, steps)


def kernel_of(world, masked=True):
    return masked_kernel(world.predictor, world.mask_id) if masked else uniform_kernel(left_out_predictor(world))


def guided(world, label, masked=True, **settings):
    return TokenGuide(exact_classifier(world, label), **{"exact": True} | settings)(kernel_of(world, masked))


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "uniform"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_text_of_one_token_is_guided_exactly_in_any_number_of_steps(masked, steps):
    world, label = table(length=1), LABEL[:V]
    found = ends(world, guided(world, label, masked), steps, masked)
    torch.testing.assert_close(found, given(world, label).probs)


def test_under_masks_an_exact_classifier_makes_the_kernel_that_of_the_texts_with_the_label():
    """Since the mean of p(y | z with v) over v is p(y | z), the rate at which masks are lifted is as it was."""
    states = words(V + 1, L)
    found = guided(W1, LABEL)(states, 0.3, 0.5)
    torch.testing.assert_close(found.exp(), kernel_of(given(W1, LABEL))(states, 0.3, 0.5).exp())


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100, 400])
@pytest.mark.parametrize(("joint", "label", "error"), [
    (torch.full((2, 2), 0.25), torch.tensor([13.0, 1.0, 1.0, 13.0]) / 14, 3 / 7),
    (table(length=2, seed=3).joint, LABEL[: V * V], None),
], ids=["equal tokens", "any"])
def test_two_tokens_err_by_a_constant_over_the_number_of_steps(joint, label, error, steps):
    """The steps in which both are drawn, by their marginals, are one in T; all others are exact."""
    world = Table(joint)
    wanted = given(world, label.double())
    apart = wanted.joint.sum(1, keepdim=True) * wanted.joint.sum(0, keepdim=True)
    constant = distance(wanted.probs, apart.flatten())
    found = ends(world, guided(world, label.double()), steps)
    assert distance(found, wanted.probs) == pytest.approx(constant / steps, rel=1e-6)
    assert error is None or constant == pytest.approx(error)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "uniform"])
def test_of_more_tokens_the_error_falls_as_one_in_the_number_of_steps(masked):
    world = table(length=3)
    label = LABEL[: V**3]
    errors = [steps * distance(ends(world, guided(world, label, masked), steps, masked), given(world, label).probs)
              for steps in (20, 40, 80)]
    assert max(errors) < 1.1 * min(errors) and errors[-1] < 1.5


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "uniform"])
def test_guided_samples_are_of_texts_with_the_label(masked):
    steps, count, own = 60, 800, generators(800)
    size = V + 1 if masked else V
    label = (W1.texts == 2).sum(1).double().sub(2).mul(2).sigmoid()
    kernel = looked_up(guided(W1, label, masked), size, L, steps)
    begin = torch.full((count, L), V) if masked else W1.texts[torch.arange(count) % len(W1.texts)]
    found = walk(kernel, begin, steps, own)
    assert chi_square(found, given(W1, label).probs, V) > 0.01
    assert chi_square(found, W1.probs, V) < 1e-9


def test_a_masked_kernel_takes_logits_and_leaves_out_that_of_the_mask():
    states = words(V + 1, L)

    def logits(ids):
        return F.pad(W1.predictor(ids) + 3.0, (0, 1), value=7.0)

    torch.testing.assert_close(masked_kernel(logits, V)(states, 0.2, 0.4), kernel_of(W1)(states, 0.2, 0.4))


def linear(size):
    weight = torch.randn(L, size, generator=torch.Generator().manual_seed(1))
    return lambda one_hot, alpha: (one_hot * weight).sum((1, 2)) + alpha.float()


@pytest.mark.parametrize("size", [V, V + 1], ids=["uniform", "masked"])
def test_the_first_order_is_exact_where_the_log_probability_is_linear(size):
    states = words(size, L)
    alpha = torch.linspace(0, 1, len(states)).double()
    exact, once = (judge(linear(size), states, alpha, size) for judge in (every_change, first_order))
    torch.testing.assert_close(exact, once, rtol=1e-4, atol=1e-5)
    straight = linear(size)(F.one_hot(states, size).float(), alpha)
    torch.testing.assert_close(once.gather(-1, states[..., None])[..., 0], straight[:, None].expand(-1, L))


def test_both_ways_guide_alike_by_it():
    for masked in (True, False):
        size, kernel = (V + 1 if masked else V), kernel_of(W1, masked)
        guides = [TokenGuide(linear(size), 1.5, exact) for exact in (True, False)]
        exact, once = (guide(kernel)(words(size, L), 0.4, 0.6) for guide in guides)
        torch.testing.assert_close(exact.exp(), once.exp(), rtol=1e-4, atol=1e-6)


def test_every_change_asks_of_the_places_alone_some_texts_at_a_time(monkeypatch):
    from latdiff.discrete import guidance

    states, alpha = words(V + 1, L), torch.zeros((V + 1) ** L)
    whole = every_change(linear(V + 1), states, alpha, V + 1)
    sizes = []

    def counted(one_hot, alpha):
        sizes.append(len(one_hot))
        return linear(V + 1)(one_hot, alpha)

    monkeypatch.setattr(guidance, "NUMBERS", 100 * (V + 1) * L)
    places = states == V
    some = every_change(counted, states, alpha, V + 1, places)
    assert sum(sizes) == places.sum() * (V + 1) and max(sizes) == 100
    torch.testing.assert_close(some, torch.where(places[..., None], whole, 0.0))
    assert every_change(counted, states[:1], alpha[:1], V + 1, places[:1]).shape == (1, L, V + 1)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("scale", [1.0, 30.0, -2.0])
def test_tokens_that_are_seen_stay_and_no_mask_is_left(exact, scale):
    begin = torch.tensor([[2, V, V, 0]]).expand(50, -1)
    found = walk(guided(W1, LABEL, scale=scale, exact=exact), begin, 5, generators(50))
    assert torch.equal(found[:, [0, 3]], begin[:, [0, 3]]) and (found < V).all()


def test_the_guide_is_judged_at_the_noise_of_where_the_step_leads():
    asked = []

    def classify(one_hot, alpha):
        asked.append(alpha)
        return one_hot[:, 0, 0]

    TokenGuide(classify)(kernel_of(W1))(words(V + 1, L)[:5], 0.25, 0.5)
    assert len(asked) == 1 and torch.equal(asked[0], torch.full((5,), 0.5).double())


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "uniform"])
def test_at_gamma_one_mixtures_are_the_conditional_bit_for_bit(masked):
    conditional, size = given(W1, LABEL), V + 1 if masked else V
    if masked:
        mixture = masked_kernel(mixed(conditional.predictor, W1.predictor, 1.0), V)
    else:
        mixture = mixed(kernel_of(conditional, False), kernel_of(W1, False), 1.0)
    states = words(size, L)
    assert torch.equal(mixture(states, 0.2, 0.4), kernel_of(conditional, masked)(states, 0.2, 0.4))


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.5, 2.5])
def test_mixtures_are_powers(gamma):
    conditional, states = given(W1, LABEL), words(V, L)
    one, other = (kernel_of(world, False)(states, 0.2, 0.4).exp() for world in (conditional, W1))
    powers = one**gamma * other ** (1 - gamma)
    found = mixed(kernel_of(conditional, False), kernel_of(W1, False), gamma)(states, 0.2, 0.4)
    torch.testing.assert_close(found.exp(), powers / powers.sum(-1, keepdim=True))


def test_mixed_predictors_leave_the_rate_and_rule_out_what_either_does():
    conditional = given(W1, (W1.texts[:, 1] != 0).double())
    kernel = masked_kernel(mixed(conditional.predictor, W1.predictor, 3.0), V)
    found = kernel(torch.full((1, L), V), 0.25, 0.5).exp()
    torch.testing.assert_close(found[..., V], torch.full((1, L), 2 / 3).double())
    assert found[0, 1, 0] == 0 and found.isfinite().all()


def test_a_stronger_mixture_has_the_label_more_often():
    label = (W1.texts == 2).sum(1).double().sub(2).mul(2).sigmoid()
    conditional, shares = given(W1, label), []
    for gamma in (0.0, 1.0, 2.0):
        kernel = mixed(kernel_of(conditional, False), kernel_of(W1, False), gamma)
        shares.append((ends(W1, kernel, 50, masked=False) @ label).item())
    assert shares == sorted(shares) and shares[2] > shares[1] + 0.05


def test_guides_wrap_the_kernel_of_uniform_samples():
    predict = left_out_predictor(W1)
    guide = TokenGuide(exact_classifier(W1, LABEL), 4.0)
    found = sample_uniform(predict, L, V, 5, generators(20), guide)
    assert torch.equal(found[3:5], sample_uniform(predict, L, V, 5, generators(20)[3:5], guide))
    assert not torch.equal(found, sample_uniform(predict, L, V, 5, generators(20)))
    still = TokenGuide(exact_classifier(W1, LABEL), 0.0)
    assert torch.equal(sample_uniform(predict, L, V, 5, generators(20), still),
                       sample_uniform(predict, L, V, 5, generators(20)))


def test_guides_act_under_inference_mode():
    with torch.inference_mode():
        found = walk(guided(W1, LABEL, exact=False), torch.full((3, L), V), 4, generators(3))
    assert (found < V).all()


def once(classifier, exact=False):
    return TokenGuide(classifier, exact=exact)(kernel_of(W1))(torch.full((2, L), V), 0.0, 0.5)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: TokenGuide("positive"), "classifier is 'positive', must be a function of one-hot texts"),
    (lambda: TokenGuide(linear(V), float("nan")), "scale is nan, must be a finite number"),
    (lambda: once(lambda one_hot, alpha: one_hot.sum((1, 2)).detach()), "have no gradient"),
    (lambda: once(lambda one_hot, alpha: one_hot), "must be one log-probability a text, [2]"),
    (lambda: once(lambda one_hot, alpha: one_hot.sum((1, 2)) * torch.nan, True), "returned NaN"),
    (lambda: once(lambda one_hot, alpha: (one_hot[:, 0, 0] * 0).log()), "gradient of the classifier is not finite"),
    (lambda: mixed(W1.predictor, W1.predictor, "2"), "gamma is '2', must be"),
])
def test_wrong_input_is_told_in_a_sentence(call, said):
    with pytest.raises(UserError) as error:
        call()
    assert said in str(error.value)
    assert isinstance(error.value, TokenGuidanceError) or "gamma" in said
