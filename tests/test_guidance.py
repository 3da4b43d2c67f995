"""Guides against closed forms: Gaussian worlds in which the guided denoiser is known exactly."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from latdiff.diffusion.guidance import (
    MAX_RAMP,
    ClassifierFree,
    GuidanceError,
    Guide,
    stack,
    steer,
    titles,
    warn_of_strain,
)
from latdiff.diffusion.modes import MODES
from latdiff.diffusion.noise import streams
from latdiff.errors import UserError
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.callable import CallableHead
from latdiff.heads.number import NumberHead
from latdiff.schedule import alpha2_at, betas, log_snr

L, D = 2, 3
ALPHA2 = alpha2_at("cosine", torch.linspace(0.001, 0.999, 100))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_head(classes=3, seed=0, name="mood"):
    labels = [f"label{i}" for i in range(classes)]
    return AttributeHead.from_weights(labels, noise(classes, L, D, seed=seed), noise(classes, seed=seed + 1), name=name)


def linear_guide(seed, scale=4.0, **settings):
    """Its class is so unlikely everywhere that log p is linear: the gradient is w1 - w0."""
    head = AttributeHead.from_weights(["label0", "label1"], noise(2, L, D, seed=seed), torch.tensor([200.0, -200.0]))
    return head.toward("label1", scale, **settings), head.weight[0, 1] - head.weight[0, 0]


@pytest.fixture
def x0():
    return noise(5, L, D, seed=3)


def identity(z, alpha2, cond=None, x_prev=None):
    return z


def steered(guides, x0, t):
    return steer(identity, guides)(x0, ALPHA2[t])


# The push on x0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_gradient_is_the_labels_weights_minus_the_expected_ones(classes, x0):
    head, t = random_head(classes), torch.full((5,), 49)
    ramp = ((1 - ALPHA2[49]) / ALPHA2[49]).sqrt()
    probability = torch.tensor(head.predict_proba(x0))
    for index, label in enumerate(head.classes_):
        expected = head.weight[0, index] - torch.einsum("bc,cld->bld", probability, head.weight[0])
        moved = steered([head.toward(label, 2.0)], x0, t) - x0
        torch.testing.assert_close(moved, 2 * ramp * expected, rtol=1e-4, atol=1e-5)


def test_the_estimate_moves_by_scale_times_ramp_times_gradient(x0):
    guide, direction = linear_guide(seed=0, scale=2.5)
    t = torch.tensor([0, 25, 49, 75, 99])
    moved = steered([guide], x0, t) - x0
    ratio = ((1 - ALPHA2[t]) / ALPHA2[t]).sqrt()
    assert ratio[2].item() == pytest.approx(1, abs=0.05)
    assert ratio[4] > MAX_RAMP > ratio[3]
    expected = 2.5 * ratio.clamp(max=MAX_RAMP).view(-1, 1, 1) * direction
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def test_scale_zero_changes_nothing(x0):
    t = torch.arange(5) * 20
    torch.testing.assert_close(steered([random_head().toward("label1", 0.0)], x0, t), x0)


def test_a_guide_makes_its_label_likelier_and_a_negative_one_less_likely(x0):
    head, t = random_head(), torch.full((5,), 49)
    guides = [head.toward("label1", 0.5), head.toward("label1", -0.5), head.away("label1", 0.5)]
    before, up, down, away = (
        head.log_prob(x)[:, 1] for x in (x0, *(steered([guide], x0, t) for guide in guides))
    )
    assert (up > before).all()
    assert (down < before).all()
    assert (away < before).all()


def test_several_labels_make_their_sum_likelier(x0):
    head, t = random_head(4), torch.full((5,), 49)
    moved = steered([head.toward({"label0": 1, "label2": 3}, 0.2)], x0, t)
    before, after = (head.log_prob(x).exp()[:, [0, 2]].sum(1) for x in (x0, moved))
    assert (after > before).all()


def test_a_number_is_approached(x0):
    head = NumberHead.from_weights(noise(L, D), torch.tensor(1.0), sd=2.0, name="words")
    t = torch.full((5,), 49)
    before = torch.tensor(head.predict(x0))
    after = torch.tensor(head.predict(steered([head.toward(4.0, scale=0.3)], x0, t)))
    assert ((after - 4).abs() < (before - 4).abs()).all()


def test_it_works_in_inference_mode(x0):
    t, guides = torch.full((5,), 49), [random_head().toward("label1", mode=mode) for mode in ("x0", "denoiser")]
    expected = steered(guides, x0, t)
    with torch.inference_mode():
        torch.testing.assert_close(steered(guides, x0 * 1, t), expected)


def test_arguments_are_left_as_they_were(x0):
    before = x0.clone()
    steered([random_head().toward("label1")], x0, torch.full((5,), 49))
    assert torch.equal(x0, before)
    assert not x0.requires_grad


# Settings of one guide


def test_it_acts_within_its_interval_only(x0):
    guide, _ = linear_guide(0, interval=(0.2, 0.8))
    t = torch.tensor([0, 5, 30, 50, 90])
    sigma = (1 - ALPHA2[t]).sqrt()
    moved = (steered([guide], x0, t) - x0).abs().amax((1, 2)) > 0
    assert moved.tolist() == ((sigma >= 0.2) & (sigma <= 0.8)).tolist() == [False, False, True, True, False]


def test_where_no_guide_acts_none_is_computed(x0):
    guide, asked = linear_guide(0, interval=(0.2, 0.8))[0], []
    guide.head.log_prob_of = lambda *_: asked.append(1)
    assert torch.equal(steered([guide], x0, torch.full((5,), 90)), x0) and not asked


def test_whether_gradients_are_finite_is_asked_once_for_all_guides(x0, monkeypatch):
    """On a GPU every answer is waited for."""
    isfinite, asked = torch.Tensor.isfinite, []
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: asked.append(1) or isfinite(self))
    steered([random_head(seed=seed).toward("label0", 1.0) for seed in range(3)], x0, torch.full((5,), 49))
    assert len(asked) == 1


def test_a_clamp_limits_the_push_and_keeps_its_direction(x0):
    t = torch.full((5,), 49)
    free, held = (steered([linear_guide(0, clamp=clamp)[0]], x0, t) - x0 for clamp in (None, 0.1))
    torch.testing.assert_close(held.square().mean((1, 2)).sqrt(), torch.full((5,), 0.1))
    torch.testing.assert_close(torch.cosine_similarity(free.flatten(1), held.flatten(1)), torch.ones(5))
    small = steered([linear_guide(0, scale=1e-3, clamp=0.1)[0]], x0, t)
    torch.testing.assert_close(small, steered([linear_guide(0, scale=1e-3)[0]], x0, t))


def test_a_normalised_gradient_has_length_one_however_sure_the_head(x0):
    t, ramp = torch.full((5,), 49), ((1 - ALPHA2[49]) / ALPHA2[49]).sqrt()
    moved = steered([random_head().toward("label1", 0.5, normalise=True)], x0, t) - x0
    torch.testing.assert_close(moved.square().mean((1, 2)).sqrt(), (0.5 * ramp).expand(5))


# Stacking


@pytest.mark.parametrize("mode", ["x0", "denoiser", "monte-carlo"])
def test_guides_add_up_in_any_order(mode, x0):
    """Not only linear ones: all gradients are taken at the same estimate."""
    one = random_head(3, seed=0).toward("label1", 2.0, mode)
    two = random_head(4, seed=5).toward("label3", -1.0)
    t = torch.full((5,), 49)
    def steered(guides, x0, t):
        return steer(identity, guides, streams(torch.Generator().manual_seed(0), 5))(x0, ALPHA2[t])

    there, back = steered([one, two], x0, t), steered([two, one], x0, t)
    torch.testing.assert_close(there, back)
    apart = steered([one], x0, t) + steered([two], x0, t) - x0
    torch.testing.assert_close(there, apart)


def test_neighbours_in_a_stack_steer_as_one_and_other_wrappers_keep_their_place(x0):
    one, two = random_head(seed=0).toward("label1", 2.0), random_head(seed=5).toward("label2", 2.0)
    t = torch.full((5,), 49)

    def double(denoise):
        return lambda z, alpha2, cond=None, x_prev=None: 2 * denoise(z, alpha2, cond, x_prev)

    torch.testing.assert_close(stack(identity, [one, two])(x0, ALPHA2[t]), steered([one, two], x0, t))
    inside, outside = (stack(identity, guides)(x0, ALPHA2[t]) for guides in ([double, one], [one, double]))
    torch.testing.assert_close(inside, 2 * x0 + (steered([one], 2 * x0, t) - 2 * x0))
    torch.testing.assert_close(outside, 2 * steered([one], x0, t))
    assert torch.equal(stack(identity, [])(x0, ALPHA2[t]), x0)


def test_a_guide_farther_out_differentiates_through_one_farther_in(x0):
    inner, outer = random_head(seed=0).toward("label1", 2.0), random_head(seed=5).toward("label2", 3.0, "denoiser")

    def scaled(denoise):
        return lambda z, alpha2, cond=None, x_prev=None: 0.5 * denoise(z, alpha2, cond, x_prev)

    t = torch.full((5,), 49)
    both = stack(identity, [inner, scaled, outer])(x0, ALPHA2[t])
    estimate = stack(identity, [inner, scaled])(x0, ALPHA2[t])
    # the inner push counts as a constant, so that the outer gradient is half of that at the estimate
    direct = steered([random_head(seed=5).toward("label2", 3.0, "denoiser")], estimate, t) - estimate
    torch.testing.assert_close(both - estimate, 0.5 * direct, rtol=1e-4, atol=1e-5)


def test_a_guide_hands_on_condition_and_estimate(x0):
    seen = []

    def denoise(z, alpha2, cond=None, x_prev=None):
        seen.append((cond, x_prev))
        return z

    random_head().toward("label0")(denoise)(x0, torch.full((5,), 0.5), "cond", x0 + 1)
    (found,) = seen
    assert found[0] == "cond"
    assert torch.equal(found[1], x0 + 1)


@pytest.mark.parametrize("mode", ["x0", "denoiser", "monte-carlo"])
def test_the_denoiser_is_called_once_and_differentiated_only_where_the_mode_says_so(mode, x0):
    seen = []

    def denoise(z, alpha2, cond=None, x_prev=None):
        seen.append(torch.is_grad_enabled() and z.requires_grad)
        return z

    with torch.no_grad():
        guides = [random_head(seed=s).toward("label0", 1.0, mode) for s in (0, 1)]
        out = steer(denoise, guides)(x0, torch.full((5,), 0.5))
    assert seen == [mode != "x0"]
    assert not out.requires_grad


# Exactness, in worlds where the guided denoiser is known


def exact_denoiser(z, alpha2, cond=None, x_prev=None):
    """Of x ~ N(0, I): E[x | z] = alpha z."""
    return alpha2.sqrt().view(-1, 1, 1) * z


def sampled(denoise, n, steps):
    """n latents by DDPM."""
    scheduler = DDPMScheduler(trained_betas=betas("cosine"), prediction_type="sample", clip_sample=False,
                              timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    z, generator = noise(n, L, D, seed=1), torch.Generator().manual_seed(2)
    for t in scheduler.timesteps:
        x0 = denoise(z, scheduler.alphas_cumprod[t].expand(len(z)))
        z = scheduler.step(x0, t, z, generator=generator).prev_sample
    return z


def number_world():
    """x ~ N(0, I) and y = <w, x> + 0.5 + N(0, 0.7²), to be 2."""
    weight, sd = noise(L, D, seed=9), 0.7
    return NumberHead.from_weights(weight, torch.tensor(0.5), sd=sd), weight, sd


def test_mode_denoiser_is_autograd_through_the_denoiser(x0):
    head, weight, sd = number_world()
    t = torch.tensor([10, 30, 50, 70, 90])
    alpha, sigma2 = ALPHA2[t].sqrt().view(-1, 1, 1), (1 - ALPHA2[t]).view(-1, 1, 1)
    guide = head.toward(2.0, scale=1.0, mode="denoiser")
    moved = steer(exact_denoiser, [guide])(x0, ALPHA2[t]) - alpha * x0
    residual = 2 - 0.5 - (alpha * x0 * weight).sum((1, 2), keepdim=True)
    torch.testing.assert_close(moved, sigma2 * weight * residual / sd**2, rtol=1e-3, atol=1e-4)


def test_mode_monte_carlo_is_exact_with_enough_draws(x0):
    """E[x | z, y] adds sigma² w r / (sd² + sigma² |w|²); the point estimate of mode denoiser leaves out sigma² |w|²."""
    head, weight, sd = number_world()
    t = torch.tensor([10, 30, 50, 70, 90])
    alpha, sigma2 = ALPHA2[t].sqrt().view(-1, 1, 1), (1 - ALPHA2[t]).view(-1, 1, 1)
    residual = 2 - 0.5 - (alpha * x0 * weight).sum((1, 2), keepdim=True)
    exact = sigma2 * weight * residual / (sd**2 + sigma2 * weight.square().sum())
    errors = {}
    torch.manual_seed(0)  # of the draws
    for mode, draws in (("denoiser", 1), ("monte-carlo", 16), ("monte-carlo", 20000)):
        guide = head.toward(2.0, scale=1.0, mode=mode, draws=draws)
        moved = steer(exact_denoiser, [guide])(x0, ALPHA2[t]) - alpha * x0
        errors[mode, draws] = ((moved - exact).norm() / exact.norm()).item()
    assert errors["monte-carlo", 20000] < 0.05 < errors["monte-carlo", 16] < 0.7 * errors["denoiser", 1]


def dglm_world():
    """A guide whose margin has the variance v at the signal variance alpha2: |w|² (1 - alpha2) / alpha2."""
    weight = 0.6 * noise(L, D, seed=9)
    head = AttributeHead.from_weights(["no", "yes"], torch.stack([-weight / 2, weight / 2]), torch.tensor([0.1, -0.2]))
    return head.toward("yes", 1.0, "monte-carlo", aggregate="dglm"), weight


@pytest.mark.parametrize("variance", [0.5, 2.0, 4.0])
def test_dglms_aggregate_is_that_of_many_draws(variance, x0):
    guide, weight = dglm_world()
    ratio = variance / weight.square().sum().item()  # sigma² / alpha²
    alpha2 = torch.full((len(x0),), 1 / (1 + ratio))
    found = guide._log_prob_from_z(x0, x0, alpha2, (1 - alpha2).sqrt().view(-1, 1, 1), None)
    margin = (x0 * weight).sum((1, 2)).double() - 0.3 + variance**0.5 * noise(400_000, 1, seed=5).double()
    loss = torch.nn.functional.softplus(-margin)
    error = math.sqrt((math.exp(variance) - 1) / len(margin))  # of the mean of a log-normal variable
    torch.testing.assert_close(found.double(), -loss.exp().mean(0).log(), rtol=0, atol=4 * error)


def test_dglms_aggregate_is_a_logistic_loss_with_half_the_variance_off_its_margin(x0):
    guide, weight = dglm_world()
    alpha2 = ALPHA2[torch.tensor([0, 30, 50, 70, 90])]
    moved = steer(identity, [guide])(x0, alpha2) - x0
    variance = weight.square().sum() * (1 - alpha2) / alpha2
    margin = (x0 * weight).sum((1, 2)) - 0.3
    push = (1 - alpha2) / alpha2.sqrt() * torch.sigmoid(-margin + variance / 2)
    torch.testing.assert_close(moved, push.view(-1, 1, 1) * weight, rtol=1e-4, atol=1e-5)
    clean = guide.head.log_prob_of(guide.target, x0)
    torch.testing.assert_close(guide._log_prob_from_z(x0, x0, torch.ones(5), torch.zeros(5, 1, 1), None), clean)


def test_dglms_aggregate_is_of_two_labels_and_its_own_mode():
    with pytest.raises(UserError, match="has the labels label0, label1, label2"):
        random_head().toward("label1", 1.0, "monte-carlo", aggregate="dglm")
    with pytest.raises(GuidanceError, match="needs a head of two labels"):
        number_world()[0].toward(2.0, 1.0, "monte-carlo", aggregate="dglm")
    with pytest.raises(GuidanceError, match="is of mode monte-carlo, but mode is 'x0'"):
        dglm_world()[0].head.toward("yes", 1.0, aggregate="dglm")
    with pytest.raises(GuidanceError, match="aggregate is 'median', must be one of mean, dglm"):
        random_head(2).toward("label1", 1.0, "monte-carlo", aggregate="median")


@pytest.mark.parametrize(
    ("mode", "sd"),
    [("x0", 0.3), ("x0", 1.0), ("x0", 3.0), ("denoiser", 0.3), ("denoiser", 1.0), ("monte-carlo", 1.0)],
)
def test_a_number_is_met_at_the_usual_scale_however_sure_the_head(mode, sd):
    """|w|² = 1, so that a head of sd .3 explains 92% of the variance; scales of label heads would diverge."""
    weight = noise(L, D, seed=9) / noise(L, D, seed=9).norm()
    head = NumberHead.from_weights(weight, torch.tensor(0.5), sd=sd)
    z = sampled(steer(exact_denoiser, [head.toward(2.0, mode=mode)]), 400, steps=25)
    found = torch.tensor(head.predict(z))
    assert found.mean() == pytest.approx(2.0, abs=0.25)
    assert found.std() < 0.5


def mixture():
    """x ~ half N(m, I), half N(-m, I): denoiser, and the two optimal heads, of clean latents and of z_t.

    z given the class is N(±alpha m, I), so that the log-odds at z are 2 alpha <m, z>: linear at every noise level.
    """
    mean = 1.2 * noise(L, D, seed=4) / noise(L, D, seed=4).norm()
    alphas_cumprod = DDPMScheduler(trained_betas=betas("cosine")).alphas_cumprod

    def denoise(z, alpha2, cond=None, x_prev=None):
        alpha, sigma2 = alpha2.sqrt().view(-1, 1, 1), (1 - alpha2).view(-1, 1, 1)
        return alpha * z + sigma2 * mean * torch.tanh((alpha * z * mean).sum((1, 2), keepdim=True))

    levels = alphas_cumprod[torch.arange(900, -1, -9)]  # farther out, at 999, weights have to be extrapolated
    signed = torch.stack([-mean, mean])
    weight = levels.sqrt().view(-1, 1, 1, 1) * signed
    noisy = AttributeHead.from_weights(["left", "right"], weight, torch.zeros(len(weight), 2), log_snr(levels))
    clean = AttributeHead.from_weights(["left", "right"], signed, torch.zeros(2))
    return mean, alphas_cumprod, denoise, noisy, clean


def test_mode_noisy_is_exact_at_scale_one(x0):
    mean, alphas_cumprod, denoise, noisy, _ = mixture()
    t = torch.tensor([99, 504, 702, 900, 970])
    alpha, sigma2 = alphas_cumprod[t].sqrt().view(-1, 1, 1), (1 - alphas_cumprod[t]).view(-1, 1, 1)
    guided = steer(denoise, [noisy.toward("right", scale=1.0, mode="noisy")])(x0, alphas_cumprod[t])
    torch.testing.assert_close(guided, alpha * x0 + sigma2 * mean, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_sampling_under_a_guide_ends_at_its_side(mode):
    """Along m: the exact guided distribution is N(|m|, 1); mode noisy reaches it, the others a known way about."""
    mean, _, denoise, noisy, clean = mixture()
    head = noisy if mode == "noisy" else clean
    denoise = steer(denoise, [head.toward("right", 1.0, mode)])
    z = sampled(denoise, 2000, steps=100)
    along = (z * mean).sum((1, 2)) / mean.norm()
    across = z - along.view(-1, 1, 1) * mean / mean.norm()
    # what was not asked for is left alone
    assert across.square().sum((1, 2)).mean() == pytest.approx(L * D - 1, rel=0.06)
    if mode == "noisy":
        assert along.mean() == pytest.approx(1.2, abs=0.08)
        assert along.std() == pytest.approx(1.0, abs=0.06)
    else:
        assert (along > 0).float().mean() > 0.85


# What goes wrong


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "x1"}, "mode is 'x1', must be one of x0, denoiser, monte-carlo, noisy"),
        ({"scale": math.nan}, "scale is nan, must be a finite number"),
        ({"interval": (0.5, 0.2)}, "interval is (0.5, 0.2), must be"),
        ({"clamp": 0.0}, "clamp is 0.0, must be above 0"),
        ({"draws": 0}, "draws is 0, must be 1 or more"),
        ({"scale": "3"}, "scale is '3', must be a finite number"),
        ({"scale": [3]}, "scale is [3], must be a finite number"),
        ({"scale": None}, "scale is None, must be a finite number"),
        ({"interval": 0.5}, "interval is 0.5, must be"),
        ({"interval": (0, "1")}, "interval is (0, '1'), must be"),
        ({"clamp": "x"}, "clamp is 'x', must be above 0"),
        ({"draws": 2.5}, "draws is 2.5, must be 1 or more"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(GuidanceError) as error:
        Guide(**{"head": random_head(), "target": (1.0, 0.0, 0.0), "scale": 1.0} | settings)
    assert said in str(error.value)
    assert "'mood'" in str(error.value)


@pytest.mark.parametrize("kind", [np.float32, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_a_number_without_dimensions_is_a_scale(kind, x0):
    head = random_head()
    plain, other = (head.toward("label1", scale, clamp=scale) for scale in (3.0, kind(3.0)))
    assert other == plain and torch.equal(*(steered([guide], x0, torch.full((5,), 49)) for guide in (plain, other)))
    assert ClassifierFree(kind(3.0)) == ClassifierFree(3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_with_the_heads_name_and_the_level(bad, x0):
    head = random_head()
    head.weight[0, 1, 0, 0] = bad
    with pytest.raises(GuidanceError, match=r"head 'mood' towards label1 is not finite where sigma is 0\.70"):
        steered([head.toward("label1")], x0, torch.full((5,), 49))


def test_latents_driven_off_the_data_are_warned_of_with_a_smaller_scale(x0):
    head = random_head()
    head.radius = 1.2
    guide = head.toward("label1", 10.0)
    with pytest.warns(UserWarning, match=r"2.00 standard deviations out or more.* 1.20; .*Try mood=label1:2$"):
        warn_of_strain(torch.full((5, L, D), 2.0), [guide])


def test_a_head_that_knows_no_radius_takes_that_of_whitened_latents():
    for guide in (random_head().toward("label1"), CallableHead(lambda x: x.sum((1, 2))).guide(1.0)):
        with pytest.warns(UserWarning, match="where the farthest text lies at 1.30"):
            warn_of_strain(torch.full((5, L, D), 1.5), [guide])


def test_no_warning_where_there_is_no_cause(recwarn):
    head = random_head()
    warn_of_strain(torch.full((5, L, D), 1.2), [head.toward("label1")])
    head.radius = 1.1
    warn_of_strain(torch.cat([torch.full((2, L, D), 1.2), torch.full((3, L, D), 1.0)]), [head.toward("label1")])
    warn_of_strain(torch.full((5, L, D), 9.0), [])
    assert not recwarn.list


def test_titles_are_told_apart():
    head = random_head()
    guides = [head.toward(f"label{i}", mode=mode) for i, mode in ((1, "x0"), (2, "x0"), (1, "denoiser"), (1, "x0"))]
    assert titles(guides) == ["mood=label1", "mood=label2", "mood=label1 #2", "mood=label1 #3"]


# Classifier-free guidance


class Shift:
    """A condition that moves x0, by 0 where it is left out."""

    def __init__(self, by):
        self.by = by

    def __getitem__(self, rows):
        return Shift(self.by[rows])

    def without(self, rows):
        return Shift(self.by.masked_fill(rows, 0.0))


def conditional(z, alpha2, cond=None, x_prev=None):
    """x0 is z, moved by the condition."""
    return z + (0 if cond is None else cond.by.view(-1, 1, 1))


def test_classifier_free_guidance_goes_on_from_no_condition_through_the_one_given(x0):
    alpha2, cond = torch.full((5,), 0.5), Shift(torch.full((5,), 2.0))
    for scale, move in ((0.0, 0), (0.5, 1), (1.0, 2), (3.0, 6)):
        guided = ClassifierFree(scale)(conditional)
        torch.testing.assert_close(guided(x0, alpha2, cond), x0 + move)
        torch.testing.assert_close(guided(x0, alpha2), x0)


def test_classifier_free_guidance_is_exact_for_gaussians():
    """Data N(m, 1) given the class, N(0, 2) without: the score is w times the one and 1 - w times the other."""
    z, m = torch.linspace(-2, 2, 5).view(5, 1, 1), 1.5
    alpha2, a = ALPHA2[40].expand(5), ALPHA2[40].sqrt()

    def denoise(z, alpha2, cond=None, x_prev=None):
        given = torch.zeros(len(z), 1, 1) if cond is None else cond.by.view(-1, 1, 1)
        mean, variance = m * given, 2.0 - given
        gain = a * variance / (a**2 * variance + 1 - a**2)
        return mean + gain * (z - a * mean)

    cond = Shift(torch.ones(5))
    guided = ClassifierFree(2.5)(denoise)(z, alpha2, cond)
    scores = [(a * denoise(z, alpha2, one) - z) / (1 - a**2) for one in (cond, None)]  # Tweedie
    mixed = 2.5 * scores[0] - 1.5 * scores[1]
    torch.testing.assert_close((a * guided - z) / (1 - a**2), mixed)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 5), (3.0, 10)])
def test_classifier_free_guidance_calls_the_denoiser_once(x0, scale, rows):
    calls = []

    def denoise(z, alpha2, cond=None, x_prev=None):
        calls.append([len(z), len(alpha2), len(cond.by), len(x_prev)])
        return z

    ClassifierFree(scale)(denoise)(x0, torch.full((5,), 0.5), Shift(torch.ones(5)), x0)
    assert calls == [[rows] * 4]


def test_heads_steer_what_classifier_free_guidance_leaves(x0):
    alpha2, cond = ALPHA2[50].expand(5), Shift(torch.full((5,), 2.0))
    guide = random_head().toward("label0", 1.0)
    both = stack(conditional, [ClassifierFree(3.0), guide])(x0, alpha2, cond)
    torch.testing.assert_close(both, guide(lambda z, alpha2, cond=None, x_prev=None: z + 6)(x0, alpha2))


# What a step costs


def test_outside_its_interval_a_guide_computes_nothing(x0):
    guide = CallableHead(lambda x: pytest.fail("a gradient that nobody needs")).guide(1.0, interval=(0.2, 0.8))
    assert torch.equal(steered([guide], x0, torch.full((5,), 99)), x0)


def test_monte_carlo_draws_differ_by_sample_and_guide_and_follow_the_samples_streams(x0):
    guides = [random_head(seed=s).toward("label1", 1.0, "monte-carlo", draws=2) for s in (0, 0)]
    t = torch.full((5,), 49)
    same = x0[:1].expand(5, -1, -1)

    def moved(guides, generators):
        return steer(identity, guides, generators)(same, ALPHA2[t]) - same

    first, again = (moved(guides[:1], streams(torch.Generator().manual_seed(0), 5)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 1e-3
    one, both = streams(torch.Generator().manual_seed(0), 5), streams(torch.Generator().manual_seed(0), 5)
    assert (moved(guides, both) - 2 * moved(guides[:1], one)).abs().max() > 1e-3
    part = steer(identity, guides[:1], streams(torch.Generator().manual_seed(0), 5)[3:])(same[3:], ALPHA2[t[3:]])
    torch.testing.assert_close(part - same[3:], first[3:])
