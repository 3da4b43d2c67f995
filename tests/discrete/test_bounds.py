"""Bounds on the nats of a text: tight where conditionals are, equal in the mean, and never far from their error."""

import itertools
import math

import numpy as np
import pytest
import torch
from random_token_models import any_predictor, numbers, streams, texts
from toy_worlds import Chain, table, words

from latdiff.discrete.bounds import estimated_bound, exact_bound
from latdiff.discrete.masked import hide_by_count, hide_by_time, weighted_nats
from latdiff.errors import UserError

HIDES = [hide_by_count, hide_by_time]
WORLD = table()


def test_the_bound_is_the_probability_of_every_text_where_conditionals_are_exact():
    bound = exact_bound(WORLD.predictor, WORLD.texts, WORLD.mask_id)
    torch.testing.assert_close(bound.nats, -WORLD.log_prob(WORLD.texts), rtol=0, atol=1e-9)
    assert not bound.error.any()


@pytest.mark.parametrize("block_size", [1, 2])
def test_in_blocks_too(block_size):
    texts_, size = WORLD.texts, block_size

    def predictor(noisy):
        """Each block given itself and the whole ones before it."""
        found = []
        for start in range(0, 4, size):
            seen = torch.full_like(noisy, WORLD.mask_id)
            seen[:, :start], seen[:, start : start + size] = texts_[:, :start], noisy[:, start : start + size]
            found.append(WORLD.predictor(seen)[:, start : start + size])
        return torch.cat(found, 1)

    bound = exact_bound(predictor, texts_, WORLD.mask_id, size)
    torch.testing.assert_close(bound.nats, -WORLD.log_prob(texts_), rtol=0, atol=1e-9)


def test_it_is_the_mean_over_all_orders_of_writing():
    predictor, ids = any_predictor(4, 3), WORLD.texts[30:31]
    total = 0.0
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        seen = torch.full_like(ids, 3)
        for place in order:
            total -= predictor(seen)[0, place].log_softmax(-1)[ids[0, place]].item()
            seen[0, place] = ids[0, place]
    assert exact_bound(predictor, ids, 3).nats.item() == pytest.approx(total / len(orders), abs=1e-12)


def test_both_estimators_have_its_mean_for_any_predictor():
    predictor, ids = any_predictor(4, 3), WORLD.texts
    exact = exact_bound(predictor, ids, 3).nats

    def mean(hide, level, patterns):
        """Mean nats of every text over patterns of numbers, each with its weight."""
        levels = torch.full((len(ids), 1), level, dtype=torch.float64)
        return sum(weight * weighted_nats(predictor, ids, hide(ids, 3, levels, pattern.expand(len(ids), 4)), 3)
                   for pattern, weight in patterns)

    orders = [(torch.tensor(order) / 4, 1 / 24) for order in itertools.permutations(range(4))]
    counts = sum(mean(hide_by_count, (k + 0.5) / 4, orders) for k in range(4)) / 4
    torch.testing.assert_close(counts, exact, rtol=0, atol=1e-12)

    def from_0(*given):
        return hide_by_time(*given, first=0.0)

    nodes, weights = np.polynomial.legendre.leggauss(6)  # exact, as the mean at a time is a polynomial of degree 3
    times = torch.zeros_like(exact)
    for time, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        sets = [(1.0 - chosen, time ** chosen.sum().item() * (1 - time) ** (4 - chosen.sum().item()))
                for chosen in words(2, 4).double()]
        times += weight * mean(from_0, time, sets)
    torch.testing.assert_close(times, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_of_one_token_it_is_the_loss_of_any_predictor(seed):
    predictor, ids = any_predictor(1, 3, seed=seed), torch.arange(3)[:, None]
    expected = -predictor(torch.full((3, 1), 3))[:, 0].log_softmax(-1).diagonal()
    torch.testing.assert_close(exact_bound(predictor, ids, 3).nats, expected, rtol=0, atol=1e-12)
    counted = estimated_bound(predictor, ids, 3, streams(3), draws=4)
    torch.testing.assert_close(counted.nats, expected, rtol=0, atol=1e-12)
    assert counted.error.max() < 1e-12
    timed = estimated_bound(predictor, ids, 3, streams(3), 1000, hide=hide_by_time)
    assert ((timed.nats - expected).abs() <= 3 * timed.error).all()


@pytest.mark.parametrize("hide", HIDES)
@pytest.mark.parametrize("block_size", [None, 2])
def test_estimates_stray_as_far_as_their_errors_say(hide, block_size):
    predictor, ids = any_predictor(4, 3, block_size), WORLD.texts[40:41]
    exact = exact_bound(predictor, ids, 3, block_size).nats
    found = estimated_bound(predictor, ids.expand(600, 4), 3, streams(600), 64, block_size, hide)
    strayed = found.nats - exact
    spread = strayed.square().mean().sqrt().item()
    assert spread == pytest.approx(found.error.square().mean().sqrt().item(), rel=0.15)
    assert abs(strayed.mean()) < 3 * spread / math.sqrt(600) + 1e-3 * exact


def test_equal_losses_are_no_variance_of_counts_and_much_of_times():
    """Of a story's 54 tokens."""

    def nats(hide, count):
        ids = torch.zeros(count, 54, dtype=torch.long)
        levels = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
        hidden = hide(ids, 5, levels, torch.rand(ids.shape, generator=numbers(), dtype=torch.float64))
        return weighted_nats(lambda noisy: torch.zeros(1, 1, 5).double().expand(count, 54, 5), ids, hidden, 5)

    timed = nats(hide_by_time, 40_000)
    expected = math.sqrt((math.log(1e3) / 0.999 - 1) / 54)
    assert expected == pytest.approx(0.33, abs=5e-3)
    assert (timed.std() / timed.mean()).item() == pytest.approx(expected, rel=0.1)
    assert (nats(hide_by_count, 2000) - 54 * math.log(5)).abs().max() < 1e-9


def test_counts_vary_less_than_times_on_a_chain_of_a_storys_length():
    chain = Chain(length=54)
    ids = chain.sample(4, numbers())
    counted, timed = (estimated_bound(chain.predictor, ids, 4, streams(4), 128, hide=hide) for hide in HIDES)
    assert counted.error.square().sum() < timed.error.square().sum() / 4
    for bound in (counted, timed):
        assert ((bound.nats + chain.log_prob(ids)).abs() <= 3 * bound.error).all()


def test_a_texts_estimate_depends_on_no_other():
    predictor, ids = any_predictor(4, 3), WORLD.texts[:6]
    whole = estimated_bound(predictor, ids, 3, streams(6), 8)
    part = estimated_bound(predictor, ids[2:4], 3, streams(2, first=2), 8)
    assert torch.equal(part.nats, whole.nats[2:4]) and torch.equal(part.error, whole.error[2:4])


def test_what_cannot_be_computed_is_refused():
    predictor = any_predictor(4, 3)
    with pytest.raises(UserError, match=r"a block has 54 tokens, too many .* Estimate the bound"):
        exact_bound(predictor, texts(1, 54), 3)
    with pytest.raises(UserError, match="draws is 1, must be 2 or more"):
        estimated_bound(predictor, WORLD.texts[:1], 3, streams(1), draws=1)
    with pytest.raises(UserError, match="block_size is 3, which does not divide the 4 tokens"):
        estimated_bound(predictor, WORLD.texts[:1], 3, streams(1), block_size=3)
