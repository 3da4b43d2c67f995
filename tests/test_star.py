"""STAR-LDM's networks, loss and denoise function: what may not reach what, bit by bit, and one loss by hand."""

import pytest
import torch
import torch.nn.functional as F
from star_models import CONTINUATIONS, END, LAYOUTS, PREFIXES, D, H, K, L, language_model, noise, planner

from latdiff.diffusion.star import StarLoss, Thinking
from latdiff.lm import read
from latdiff.models.levels import cosine_log_snr, v_weight
from latdiff.models.star import Layout, read_with_plan
from latdiff.schedule import add_noise, v_target

LEVELS = torch.tensor([2.0, 0.0, -2.0])
NO_PLAN = torch.full((3,), -torch.inf)


@pytest.fixture(params=LAYOUTS)
def model(request):
    return language_model(request.param)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def layout(prefixes=PREFIXES, continuations=CONTINUATIONS):
    return Layout.of(prefixes, continuations, K)


def logits(model, features):
    return model.get_output_embeddings()(features)


# The layout


def test_every_id_is_predicted_once_and_the_plan_predicts_what_follows_it():
    made = layout([[0, 5, 6]], [[7, 8, END]])
    assert made.slots.tolist() == [[3, 4, 5]]
    assert made.ids[0, :3].tolist() == [0, 5, 6] and made.ids[0, 6:].tolist() == [7, 8]
    assert made.labels[0].tolist() == [5, 6, -100, -100, -100, 7, 8, END]


def test_rows_are_padded_behind_and_padding_predicts_nothing():
    made = layout()
    assert made.ids.shape == made.labels.shape == (3, 10)
    assert (made.labels != -100).sum(1).tolist() == [len(p) - 1 + len(c) for p, c in zip(PREFIXES, CONTINUATIONS,
                                                                                         strict=True)]
    assert all(END in row for row in made.labels.tolist())


# What may not reach what


def test_the_prefix_knows_nothing_of_the_plan(model):
    z = noise().requires_grad_()
    features, _ = read_with_plan(model, planner().prompts(z, LEVELS), layout())
    before = torch.cat([logits(model, features[row, : len(prefix)]) for row, prefix in enumerate(PREFIXES)])
    (gradient,) = torch.autograd.grad(before.sum(), z, allow_unused=True, retain_graph=True)
    assert gradient is None or not gradient.any()
    behind = logits(model, features[1, len(PREFIXES[1]) + K - 1 :])
    assert torch.autograd.grad(behind.logsumexp(-1).sum(), z)[0][1].any()


def test_the_plan_knows_nothing_of_the_continuation(model):
    kept = []
    hook = model.get_input_embeddings().register_forward_hook(lambda *call: kept.append(call[2]))
    _, hidden = read_with_plan(model, planner().prompts(noise(), LEVELS), layout())
    hook.remove()
    (gradient,) = torch.autograd.grad(hidden.square().sum(), kept[0])
    for row, prefix in enumerate(PREFIXES):
        assert gradient[row, : len(prefix)].any() and not gradient[row, len(prefix) :].any()
    others = layout(continuations=[[12] * len(row) for row in CONTINUATIONS])
    _, other = read_with_plan(model, planner().prompts(noise(), LEVELS), others)
    assert torch.equal(hidden, other)


def test_another_plan_makes_another_continuation(model):
    found = [read_with_plan(model, planner().prompts(noise(seed=seed), LEVELS), layout())[0] for seed in (0, 1)]
    for row, prefix in enumerate(PREFIXES):
        assert torch.equal(found[0][row, : len(prefix)], found[1][row, : len(prefix)])
        assert not torch.equal(found[0][row, len(prefix) :], found[1][row, len(prefix) :])


def test_where_there_is_no_plan_noise_is_not_read(model):
    one, two = (planner().prompts(noise(seed=seed), NO_PLAN) for seed in (0, 1))
    assert torch.equal(one, two) and one.isfinite().all()
    nearly = planner().prompts(noise(), torch.full((3,), -15.0))
    torch.testing.assert_close(nearly, one, rtol=0, atol=0.05)


def test_untrained_networks_do_not_look_at_the_level_and_say_nothing():
    made = planner(trained=False)
    alike = [made.prompts(noise() / level.sigmoid().sqrt(), level.expand(3)) for level in torch.tensor([-3.0, 3.0])]
    torch.testing.assert_close(*alike, rtol=0, atol=1e-5)
    assert not made.estimate(alike[0], torch.randn(3, K, H), LEVELS).any()


def test_soft_prompts_begin_as_large_as_embeddings():
    made = planner(trained=False, width=64)
    made.begin_at(0.1)
    assert made.prompts(noise(200), torch.full((200,), 2.0)).std().item() == pytest.approx(0.1, rel=0.15)


# Without the text


def test_without_the_text_two_prefixes_are_the_same_bit_by_bit(model):
    made, z, level = planner(), noise(1), LEVELS[:1]
    found = [Thinking(model, made, read(model, [prefix]), scale).v(z, level) for prefix in PREFIXES[:2]
             for scale in (0, 1)]
    assert torch.equal(found[0], found[2]) and not torch.equal(found[1], found[3])


def test_guidance_scales_0_and_1_are_the_two_estimates_bit_by_bit(model):
    made, past = planner(), read(model, PREFIXES)
    prompts = made.prompts(noise(), LEVELS)
    by = {scale: Thinking(model, made, past, scale).v(noise(), LEVELS) for scale in (0, 1, 2)}
    assert torch.equal(by[0], made.estimate(prompts, None, LEVELS))
    torch.testing.assert_close(by[2], by[0] + 2 * (by[1] - by[0]), rtol=1e-5, atol=1e-5)
    everywhere = torch.tensor([True] * 3)
    assert torch.equal(by[0], made.estimate(prompts, made.without(torch.randn(3, K, H), everywhere), LEVELS))
    nowhere = torch.randn(3, K, H)
    assert torch.equal(made.without(nowhere, ~everywhere), nowhere)


# One call, or the prefix read once


def test_with_the_prefix_read_once_the_estimate_is_that_of_one_call(model):
    made = planner()
    prompts = made.prompts(noise(), LEVELS)
    _, hidden = read_with_plan(model, prompts, layout())
    past = read(model, PREFIXES)
    thinking = Thinking(model, made, past)
    for _ in range(2):  # and a step leaves the past as it was
        found = thinking.v(noise(), LEVELS)
        torch.testing.assert_close(found, made.estimate(prompts, hidden, LEVELS), rtol=0, atol=1e-5)
    assert past.cache.get_seq_length() == max(map(len, PREFIXES))
    signal = LEVELS.sigmoid()
    expected = signal.sqrt().view(-1, 1, 1) * noise() - (1 - signal).sqrt().view(-1, 1, 1) * found
    torch.testing.assert_close(thinking(noise(), signal), expected, rtol=1e-4, atol=1e-5)


# The loss


def test_the_loss_is_that_of_its_parts(model):
    made, x0 = planner(), noise(seed=5)
    nats, error = StarLoss(model, made, condition_dropout=0.0)(x0, PREFIXES, CONTINUATIONS, seeded())
    draws = seeded()
    levels, eps = cosine_log_snr(3, draws), torch.randn(3, L, D, generator=draws)
    z = add_noise(x0, eps, levels.sigmoid())
    features, hidden = read_with_plan(model, made.prompts(z, levels), layout())
    v = v_target(x0, eps, levels.sigmoid())
    errors = (made.estimate(made.prompts(z, levels), hidden, levels) - v).square()
    torch.testing.assert_close(error, (v_weight(levels)[:, None, None] * errors).mean())
    torch.testing.assert_close(nats, F.cross_entropy(logits(model, features).flatten(0, 1), layout().labels.flatten()))


def test_dropped_rows_are_estimated_without_the_text(model):
    made, x0 = planner(), noise(seed=5)
    always = StarLoss(model, made, condition_dropout=1.0)
    _, one = always(x0, PREFIXES, CONTINUATIONS, seeded())
    _, other = always(x0, [[0, 2]] * 3, CONTINUATIONS, seeded())
    assert torch.equal(one, other)
    one.backward()
    assert made.nothing.grad.any() and not model.get_input_embeddings().weight.grad.any()
    made.zero_grad()
    sum(StarLoss(model, made, condition_dropout=0.0)(x0, PREFIXES, CONTINUATIONS, seeded())).backward()
    assert model.get_input_embeddings().weight.grad.any() and not made.nothing.grad.any()


def test_of_standard_gaussian_plans_an_untrained_head_knows_all_that_can_be_known(model):
    """v* = 0 on x ~ N(0, I): its squared error is 1 a number at every level, and the weights' mean is 4."""
    x0 = noise(2000, seed=9)
    loss = StarLoss(model, planner(trained=False))
    with torch.no_grad():
        _, error = loss(x0, PREFIXES[:1] * 2000, CONTINUATIONS[:1] * 2000, seeded())
    assert error.item() == pytest.approx(4, rel=0.03)


def test_a_prefix_that_tells_the_plan_is_learnt():
    """Two plans, each behind a prefix of its own: with the text the error falls far below that without it."""
    model, made = language_model("llama"), planner(trained=False)
    plans = torch.stack([torch.ones(L, D), -torch.ones(L, D)]).repeat(16, 1, 1)
    prefixes, loss = [[0, 5], [0, 6]] * 16, StarLoss(model, made, condition_dropout=0.5)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for step in range(40):
        _, error = loss(plans, prefixes, [[7, END]] * 32, seeded(step))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    past, signal = read(model, prefixes), torch.full((32,), -4.0).sigmoid()
    with torch.no_grad():
        x0 = [Thinking(model, made, past, scale)(noise(32, seed=3), signal) for scale in (1, 0)]
    with_text, without = ((one - plans).square().mean().item() for one in x0)
    assert with_text < 0.4 < 0.9 < without
