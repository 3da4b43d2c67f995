"""Noise levels of STAR-LDM's training: their density, and that the weight makes of it what is wanted."""

import math

import pytest
import torch

from latdiff.models.levels import LIMIT, cosine_log_snr, v_weight


def drawn(count=1_000_000):
    return cosine_log_snr(count, torch.Generator().manual_seed(0)).double()


GRID = torch.linspace(-LIMIT, LIMIT, 300_001, dtype=torch.float64)
WANTED = {"one": (lambda g: torch.ones_like(g), 4.0), "square": (lambda g: g**2, 4 * math.pi**2 / 3)}


@pytest.mark.parametrize("name", WANTED)
def test_density_times_weight_is_the_weight_on_v_that_is_wanted(name):
    """4 sigmoid(g) sigmoid(-g) = sech^2(g/2), by quadrature; its integrals are 4 and, with g^2, 4 pi^2 / 3."""
    f, integral = WANTED[name]
    density = 1 / (GRID / 2).cosh() / (2 * math.pi)
    wanted = 4 * GRID.sigmoid() * (-GRID).sigmoid()
    torch.testing.assert_close(density * v_weight(GRID), wanted, rtol=1e-9, atol=0)
    assert torch.trapezoid(wanted * f(GRID), GRID).item() == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize("name", WANTED)
def test_draws_with_their_weight_have_that_mean(name):
    f, integral = WANTED[name]
    within = 1 - 4 * math.atan(math.exp(-LIMIT / 2)) / math.pi  # the share of the whole density that is drawn from
    found = drawn()
    assert (v_weight(found) * f(found)).mean().item() * within == pytest.approx(integral, rel=1e-3)


def test_they_are_those_of_uniform_times_of_the_cosine_schedule():
    found = drawn()
    assert found.abs().max() <= LIMIT
    times = 2 / math.pi * (-found / 2).exp().atan()
    shares = torch.histc(times.float(), 10, 0, 1) / len(times)
    torch.testing.assert_close(shares, torch.full((10,), 0.1), rtol=0, atol=1e-3)
    few = [cosine_log_snr(8, torch.Generator().manual_seed(seed)) for seed in range(400)]
    assert torch.stack(few).mean(0).abs().max() < 0.5  # no place of the batch is noisier than another


def test_weights_of_both_ends_hardly_count():
    at = v_weight(torch.tensor([0.0, 10.0, -10.0]))
    torch.testing.assert_close(at, torch.tensor([6.2832, 0.0847, 0.0847]), rtol=1e-3, atol=0)


def test_the_same_seed_draws_the_same_levels():
    one, two, other = (cosine_log_snr(5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
