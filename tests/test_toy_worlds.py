"""The test worlds' closed forms, each against enumeration, quadrature or its definition."""

import math

import pytest
import torch
from toy_worlds import Chain, Gauss, Table, phi, table, twins, words


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def as_table(chain):
    texts = words(chain.vocab_size, chain.length)
    return Table(chain.log_prob(texts).exp().reshape((chain.vocab_size,) * chain.length))


def test_a_conditional_of_the_table_is_a_ratio_of_its_sums():
    world = table()
    found = world.predictor(torch.tensor([[3, 1, 3, 2]]))[0].exp()
    joint = world.joint
    torch.testing.assert_close(found[0], joint[:, 1, :, 2].sum(1) / joint[:, 1, :, 2].sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], joint[:, :, :, 2].sum((0, 2)) / joint[..., 2].sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(world.predictor(words(4, 4)).exp().sum(-1), torch.ones(256, 4).double())
    assert world.log_prob(world.texts).exp().sum().item() == pytest.approx(1)


def test_a_twin_is_known_from_the_other():
    found = twins(3).predictor(torch.tensor([[3, 1], [3, 3], [2, 3]])).exp()
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 1, 0]).double())
    torch.testing.assert_close(found[1], torch.full((2, 3), 1 / 3).double())
    torch.testing.assert_close(found[2, 1], torch.tensor([0.0, 0, 1]).double())


def test_forward_and_backward_sums_are_those_of_enumeration():
    chain = Chain(vocab_size=3, length=5)
    world, seen = as_table(chain), words(4, 5)
    torch.testing.assert_close(chain.predictor(seen), world.predictor(seen), rtol=0, atol=1e-9)
    assert chain.entropy() == pytest.approx(world.entropy(), abs=1e-9)
    assert world.joint.sum().item() == pytest.approx(1)


def test_texts_of_a_chain_have_its_entropy_at_any_length():
    chain = Chain(length=64)
    nats = -chain.log_prob(chain.sample(2000, numbers()))
    assert nats.mean().item() == pytest.approx(chain.entropy(), abs=3 * nats.std().item() / math.sqrt(2000))
    assert chain.predictor(torch.full((2, 64), 4)).exp().sum(-1).sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_gaussian_worlds_estimates_are_regressions(scale):
    world, a, t = Gauss(torch.tensor([1.0]).double(), scale=scale), 0.7, 0.3
    x, eps = torch.randn(2, 400_000, 1, generator=numbers(), dtype=torch.float64)
    x = x * scale
    z, flowing = math.sqrt(a) * x + math.sqrt(1 - a) * eps, (1 - t) * x + t * eps
    assert abs(((x - world.denoised(z, a)) * z).mean()) < 5e-3
    assert (x - world.denoised(z, a)).var().item() == pytest.approx(world.variance(a), rel=1e-2)
    assert abs(((eps - x - world.velocity(flowing, t)) * flowing).mean()) < 5e-3
    step = (world.flow_map(flowing, t, t + 1e-6) - flowing) / 1e-6
    torch.testing.assert_close(step, world.velocity(flowing, t), rtol=1e-4, atol=1e-4)


def test_the_gaussian_worlds_labels_are_integrals_of_its_probit():
    world, a = Gauss(torch.tensor([0.8, -0.6, 1.2]).double(), b=0.3), 0.4
    x = torch.randn(400_000, 3, generator=numbers(), dtype=torch.float64)
    label = phi(x @ world.w + world.b)
    mean = (label * (x @ world.w)).mean() / label.mean()
    assert mean.item() == pytest.approx(world.mean_given_label(), abs=1e-2)
    z = torch.tensor([[0.5, -1.0, 0.2]]).double()
    clean = world.denoised(z, a) + math.sqrt(world.variance(a)) * x
    assert phi(clean @ world.w + world.b).mean().item() == pytest.approx(world.label_given(z, a).item(), abs=3e-3)
