"""Uniform diffusion against enumeration: posteriors, the bound, and what is trained and sampled."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DiscreteDDIMScheduler
from discrete_laws import (
    agreement,
    any_tokens,
    chi_square,
    distance,
    generators,
    law,
    left_out_of_chain,
    left_out_predictor,
    looked_up,
    whole_predictor,
)
from toy_worlds import Chain, table, twins, words

from latdiff.discrete import reverse, uniform
from latdiff.discrete.reverse import _corrector, draw, sample_uniform, uniform_kernel, walk
from latdiff.draws import Draws
from latdiff.errors import UserError

W1 = table()
V, L = W1.vocab_size, W1.length
PREDICT = left_out_predictor(W1)


def alphas(value, count=V**L):
    return torch.full((count,), value, dtype=torch.float64)


def forward(alpha, size=V):
    """q(z | x) of one position, [V, V]."""
    return alpha * torch.eye(size, dtype=torch.float64) + (1 - alpha) / size


def bounds(predict, world, nodes=60):
    """The bound of every text of a world, by enumeration of z and Gauss-Legendre quadrature over the roots of times."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    count, found = len(world.texts), 0
    texts, noisy = world.texts.repeat(count, 1), world.texts.repeat_interleave(count, 0)
    for root, weight in zip((at + 1) / 2, weights / 2, strict=True):
        alpha = alphas(1 - root**2, count)
        log_probs = predict(world.texts, alpha).repeat_interleave(count, 0)
        rates = uniform.rate(log_probs, texts, noisy, alphas(root**2, count**2)).sum(1).view(count, count)
        likely = agreement(world, F.one_hot(world.texts, world.vocab_size), alpha).prod(-1)  # [z, x]
        found = found + weight * 2 * root * (likely * rates).sum(0)
    return found


@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.0, 0.3), (0.2, 0.7), (0.6, 1.0), (0.0, 1.0)])
def test_the_posterior_of_a_text_is_that_of_bayes(alpha_t, alpha_s):
    between = forward(alpha_t / alpha_s)
    for x in range(V):
        joint = forward(alpha_s)[x][:, None] * between  # of z_s and z_t
        bayes = joint / joint.sum(0)
        text = F.one_hot(torch.full((V, 1), x), V).double().log()
        found = uniform.posterior(text, torch.arange(V)[:, None], alpha_t, alpha_s)[:, 0].exp()
        possible = joint.sum(0) > 0
        torch.testing.assert_close(found[possible], bayes.T[possible])
        torch.testing.assert_close(found.sum(-1)[possible], torch.ones(V).double()[possible])


@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.0, 0.3), (0.2, 0.7), (0.6, 1.0)])
def test_with_the_left_out_posterior_it_is_that_of_the_whole_text(alpha_t, alpha_s):
    """By enumeration of x, z_s and z_t of two tokens."""
    world = table(length=2)
    every = world.texts
    of_s = agreement(world, F.one_hot(every, V), alphas(alpha_s, len(every))).prod(-1) @ world.probs  # [z_s]
    one = forward(alpha_t / alpha_s)
    joint = of_s[:, None] * (one[every[:, None], every[None]]).prod(-1)  # [z_s, z_t]
    predict = left_out_predictor(world)
    found = uniform.posterior(predict(every, alphas(alpha_t, len(every))), every, alpha_t, alpha_s).exp()
    for place in range(2):
        given = torch.stack([joint[every[:, place] == token].sum(0) for token in range(V)], 1)
        torch.testing.assert_close(found[:, place], given / given.sum(1, keepdim=True))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.999])
def test_the_two_posteriors_turn_into_each_other(alpha):
    left_out, whole = PREDICT(W1.texts, alphas(alpha)), whole_predictor(W1)(W1.texts, alphas(alpha))
    torch.testing.assert_close(uniform.whole(left_out, W1.texts, alphas(alpha)), whole)
    torch.testing.assert_close(uniform.left_out(whole, W1.texts, alphas(alpha)), left_out)
    theirs = DiscreteDDIMScheduler._to_loo_logits(whole, W1.texts, alpha).log_softmax(-1)
    torch.testing.assert_close(theirs, left_out)


@pytest.mark.parametrize("world", [table(length=2), W1], ids=["two tokens", "four"])
def test_the_bound_is_tight_with_the_left_out_posterior_and_not_with_the_whole_one(world):
    exact = -world.log_prob(world.texts)
    torch.testing.assert_close(bounds(left_out_predictor(world), world), exact, rtol=0, atol=1e-5)
    off = bounds(whole_predictor(world), world) - exact
    assert off.abs().median() > 0.3 and (off @ world.probs) > 0.3


def test_the_rate_is_that_of_the_paper():
    """Schiff et al. 2024, as it is written there."""
    t, guess = 0.3, torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    for x in range(V):
        for z in range(V):
            c, g = V * (1 - t) * F.one_hot(torch.tensor(x), V).double() + t, V * (1 - t) * guess[0] + t
            written = -((V / c[z] - V / g[z]) - (c / c[z] * (g[z] * c / (g * c[z])).log()).sum()) / (V * (1 - t))
            text, noisy = torch.tensor([[x]]), torch.tensor([[z]])
            found = uniform.rate(guess.log()[None], text, noisy, torch.tensor([t]).double())
            torch.testing.assert_close(found.item(), written.item())


def test_the_estimated_bound_has_its_mean_and_its_standard_error():
    texts = W1.sample(400, torch.Generator().manual_seed(0))
    nats, errors = uniform.bound(PREDICT, texts, V, generators(400), draws=32)
    off = nats + W1.log_prob(texts)
    assert abs(off.mean()) < 3 * off.std() / 400**0.5
    assert 0.8 < off.square().mean().sqrt() / errors.square().mean().sqrt() < 1.25


def test_of_a_chain_of_many_tokens_the_bound_is_its_entropy():
    chain = Chain(length=24)
    texts = chain.sample(200, torch.Generator().manual_seed(0))
    nats, errors = uniform.bound(left_out_of_chain(chain), texts, chain.vocab_size, generators(200), draws=32)
    error = errors.square().mean().sqrt().item() / 200**0.5
    assert abs((nats + chain.log_prob(texts)).mean()) < 3 * error < 0.05 * chain.entropy()
    worse = uniform.bound(lambda ids, alpha: torch.zeros(*ids.shape, 4).log_softmax(-1), texts, 4, generators(200), 32)
    torch.testing.assert_close(worse[0].mean().item(), 24 * np.log(4), rtol=0.03, atol=0)


def test_a_text_has_its_bound_whatever_is_beside_it():
    both = uniform.bound(PREDICT, W1.texts[:5], V, generators(5), draws=8)
    alone = uniform.bound(PREDICT, W1.texts[3:4], V, generators(5)[3:4], draws=8)
    torch.testing.assert_close([one[3:4] for one in both], list(alone))


def test_the_loss_is_the_bound_a_token():
    texts = W1.sample(40_000, torch.Generator().manual_seed(0))
    found = [uniform.loss(PREDICT, part, V, torch.Generator().manual_seed(i)).item()
             for i, part in enumerate(texts.split(2_000))]
    entropy = W1.entropy() / L
    assert abs(np.mean(found) - entropy) < 3 * np.std(found) / len(found) ** 0.5 < 0.1 * entropy


def test_training_finds_the_left_out_posterior():
    """Of one token it knows nothing of z: a table of guesses for every z ends in the law of the token."""
    world, logits = table(length=1), torch.zeros(V, V, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        texts = world.sample(1_000, generator)
        optimiser.zero_grad()
        uniform.loss(lambda ids, alpha: logits[ids].log_softmax(-1), texts, V, generator).backward()
        optimiser.step()
    torch.testing.assert_close(logits.softmax(-1).double(), world.probs.expand(V, V), rtol=0, atol=0.03)


def test_parts_of_a_batch_have_the_loss_of_the_whole():
    texts, rows = W1.texts[:10], (slice(0, 4), slice(4, 10))
    whole = uniform.loss(PREDICT, texts, V, torch.Generator().manual_seed(3))
    parts = [uniform.loss(PREDICT, texts[own], V, Draws(torch.Generator().manual_seed(3), 10, own)) for own in rows]
    torch.testing.assert_close(whole, 0.4 * parts[0] + 0.6 * parts[1])


def test_the_rate_holds_in_float32_at_both_ends():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1, 5, 1_000, generator=generator).log_softmax(-1)
    ids = torch.randint(1_000, (1, 5), generator=generator)
    for root in (uniform.EDGE, 1e-3, 0.5, 1 - 1e-4, 1 - uniform.EDGE):
        t = torch.tensor([root**2], dtype=torch.float64)
        for noisy in (ids, (ids + 1) % 1_000):
            single = 2 * root * uniform.rate(log_probs, ids, noisy, t)
            double = 2 * root * uniform.rate(log_probs.double().log_softmax(-1), ids, noisy, t)
            torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-3)
            assert (double >= 0).all()


def test_a_token_is_kept_or_any_of_all():
    ids = torch.full((2_000, 10), 2)
    found = uniform.corrupt(ids, alphas(0.4, 2_000), V, generators(2_000))
    counts = torch.bincount(found.flatten(), minlength=V) / found.numel()
    torch.testing.assert_close(counts.double(), forward(0.4)[2], rtol=0, atol=0.02)
    torch.testing.assert_close(found[7:8], uniform.corrupt(ids[:1], alphas(0.4, 1), V, generators(2_000)[7:8]))


def test_what_is_sampled_nears_the_law_as_one_in_the_number_of_steps():
    errors = [steps * distance(law(uniform_kernel(PREDICT), any_tokens(V, L), L, steps), W1.probs)
              for steps in (10, 20, 40, 80)]
    assert max(errors) < 1.05 * min(errors) and errors[-1] < 1.2
    one = table(length=1)
    found = law(uniform_kernel(left_out_predictor(one)), any_tokens(V, 1), 1, 3)  # where nothing is factorised
    torch.testing.assert_close(found, one.probs)


def test_samples_are_of_that_law():
    kernel = looked_up(uniform_kernel(PREDICT), V, L, 80)
    own = generators(1_000)
    found = walk(kernel, uniform.noise(1_000, L, V, own), 80, own)
    assert chi_square(found, W1.probs, V) > 0.01
    assert chi_square(found, any_tokens(V, L), V) < 1e-9


@pytest.mark.parametrize("corrector_steps", [0, 2])
def test_a_sample_follows_from_its_own_generator(corrector_steps):
    def sampled(own):
        return sample_uniform(PREDICT, L, V, 6, own, corrector_steps=corrector_steps)

    assert torch.equal(sampled(generators(9))[5:7], sampled(generators(9)[5:7]))
    assert len(sampled([])) == 0


@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_step_of_diffusers_has_the_probabilities_of_the_kernel(step):
    """From the whole posterior, which theirs takes; ours says the probabilities that theirs draws by."""
    ids, count = torch.tensor([[0, 2, 1, 1]]), 20_000
    alpha = torch.tensor([step / 8], dtype=torch.float64)
    logits = uniform.whole(PREDICT(ids, alpha), ids, alpha)
    theirs = DiscreteDDIMScheduler(8).step(
        logits.expand(count, -1, -1), step, ids.expand(count, -1), temperature=1.0,
        generator=torch.Generator().manual_seed(0)).prev_sample
    ours = uniform_kernel(PREDICT)(ids, step / 8, (step + 1) / 8).exp()[0]
    for place in range(L):
        assert chi_square(theirs[:, place : place + 1], ours[place], V) > 0.01
    same = draw(ours.log().expand(count, -1, -1), [torch.Generator().manual_seed(1)] * count)
    assert all(chi_square(same[:, place : place + 1], ours[place], V) > 0.01 for place in range(L))


def noised(world, alpha):
    """Law of z at alpha."""
    every = F.one_hot(world.texts, world.vocab_size)
    return agreement(world, every, alphas(alpha, len(every))).prod(-1) @ world.probs


def test_the_corrector_leaves_noised_texts_as_likely_as_they_were():
    ids = W1.texts[torch.multinomial(noised(W1, 0.75), 500, True, generator=torch.Generator().manual_seed(0))]
    found = _corrector(PREDICT, 4, 5, generators(500))(ids, 2)
    assert chi_square(found, noised(W1, 0.75), V) > 0.01
    assert 0.5 < (found != ids).sum(1).double().mean() < 2.5


def test_the_corrector_leads_to_them_from_anywhere():
    world = twins(2)
    ids = torch.tensor([[0, 1]]).expand(250, 2)
    found = _corrector(left_out_predictor(world), 4, 12, generators(250))(ids, 2)
    assert chi_square(ids, noised(world, 0.75), 2) < 1e-9
    assert chi_square(found, noised(world, 0.75), 2) > 0.01


def test_an_id_is_drawn_where_it_has_any_chance():
    log_probs = torch.tensor([[[-torch.inf, 0.0, -torch.inf], [0.0, -torch.inf, 0.0]]])
    found = draw(log_probs.expand(500, -1, -1), generators(500))
    assert set(found[:, 0].tolist()) == {1} and set(found[:, 1].tolist()) == {0, 2}


def test_the_smallest_number_draws_the_first_token_that_has_a_chance(monkeypatch):
    monkeypatch.setattr(reverse, "numbers_of", lambda generators, *shape: torch.zeros(shape).double())
    assert draw(torch.tensor([[[-torch.inf, 0.0, 0.0]]]), generators(1)).item() == 1


def flat(ids, alpha=None):
    return torch.zeros(*ids.shape, V)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: uniform.loss(flat, torch.tensor([[0, 3]]), V, torch.Generator()), "ids hold 3, must be from 0 to 2"),
    (lambda: uniform.corrupt(torch.tensor([[-1]]), alphas(0.5, 1), V, generators(1)), "ids hold -1"),
    (lambda: uniform.bound(flat, torch.zeros(1, 2), V, generators(1)), "must be whole numbers"),
    (lambda: uniform.bound(flat, words(V, 2), 1, generators(9)), "vocab_size is 1"),
    (lambda: uniform.bound(flat, words(V, 2), V, generators(9), draws=1), "draws is 1, must be 2 or more"),
    (lambda: uniform.bound(flat, words(V, 2), V, generators(2)), "2 streams for 9 texts"),
    (lambda: uniform.bound(flat, words(2, 2), 4, generators(4), 2), "the predictor returned the shape [4, 2, 3]"),
    (lambda: walk(uniform_kernel(flat), words(V, 2), 0, generators(9)), "steps is 0, must be 1 or more"),
    (lambda: walk(uniform_kernel(flat), words(V, 2), 4, generators(1)), "1 streams for 9 texts"),
    (lambda: sample_uniform(flat, 2, V, 4, generators(1), corrector_steps=-1), "corrector_steps is -1"),
    (lambda: sample_uniform(flat, 2, V, 4, generators(1), lambda kernel: kernel, 1), "beside a guide"),
    (lambda: draw(torch.full((1, 2, 3), -torch.inf), generators(1)), "no token is possible"),
])
def test_wrong_input_is_told_in_a_sentence(call, said):
    with pytest.raises(UserError) as error:
        call()
    assert said in str(error.value)
