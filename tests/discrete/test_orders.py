"""Writing hidden tokens in several orders: the law of what is written, calls, and what stays as it was."""

import math

import pytest
import torch
from random_token_models import numbers, random_token_model, streams, texts
from scipy.stats import chisquare
from toy_worlds import Chain, code, table, twins
from transformers import TopPLogitsWarper

from latdiff.discrete.masked import masked_predictor
from latdiff.discrete.sampling import ancestral, confidence, draw, first_hitting, nucleus, steps_of, uniforms
from latdiff.errors import UserError

WORLD, CHAIN = table(), Chain(length=8)
ORDERS = {
    "ancestral": lambda *given, **more: ancestral(*given[:3], 3, *given[3:], **more),
    "first-hitting": first_hitting,
    "confidence": lambda *given, **more: confidence(*given[:3], 3, *given[3:], **more),
}


def blank(count, world):
    return torch.full((count, world.length), world.mask_id)


def likeness(ids, probs, vocab_size):
    """p value of texts [N, L] under probabilities [V^L], rare ones taken together."""
    found = torch.bincount(code(ids, vocab_size), minlength=len(probs)).double()
    common = probs * len(ids) >= 5
    observed, expected = (torch.cat([one[common], one[~common].sum()[None]]) for one in (found, probs * len(ids)))
    return chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


def test_in_many_steps_texts_have_the_worlds_law_and_in_few_they_have_not():
    found, in_few = (ancestral(WORLD.predictor, blank(30_000, WORLD), 3, steps, [numbers()] * 30_000).ids
                     for steps in (500, 4))
    assert likeness(found, WORLD.probs, 3) > 0.01
    assert likeness(in_few, WORLD.probs, 3) < 1e-6


def test_one_token_at_a_time_they_have_it_too():
    found = first_hitting(WORLD.predictor, blank(30_000, WORLD), 3, [numbers()] * 30_000)
    assert likeness(found.ids, WORLD.probs, 3) > 0.01
    assert (found.calls == 4).all()


@pytest.mark.parametrize("vocab_size", [2, 5])
@pytest.mark.parametrize("steps", [1, 2, 10, 40])
def test_twins_differ_as_often_as_they_are_written_at_once_and_unlike(vocab_size, steps):
    world, count = twins(vocab_size), 20_000
    found = ancestral(world.predictor, blank(count, world), vocab_size, steps, [numbers(steps)] * count).ids
    differ = (found[:, 0] != found[:, 1]).double().mean().item()
    expected = (1 - 1 / vocab_size) / steps
    assert differ == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize(("length", "steps"), [(8, 4), (8, 64), (54, 64)])  # a story of 54 in 64 steps: 36.7
def test_calls_are_the_steps_at_which_a_token_is_written(length, steps):
    ids, rows = torch.full((600, length), 2), 0

    def predictor(noisy):
        nonlocal rows
        rows += len(noisy)
        return torch.zeros(*noisy.shape, 2)

    calls = ancestral(predictor, ids, 2, steps, streams(600)).calls.double()
    expected = steps * (1 - (1 - 1 / steps) ** length)
    assert calls.mean().item() == pytest.approx(expected, abs=3 * calls.std().item() / math.sqrt(600))
    assert rows == calls.sum()


@torch.no_grad()
def test_texts_are_those_of_a_sampler_that_reads_every_text_at_every_step():
    model, steps, mask = random_token_model(5), 9, 5
    ids = torch.where(torch.rand(20, 6, generator=numbers()) < 0.2, texts(20, 6), mask)
    predictor = masked_predictor(model)
    found = ancestral(predictor, ids, mask, steps, streams(20))
    order, chances = uniforms(streams(20), ids)
    whole, when = ids.clone(), steps_of(order, steps)
    for step in range(steps):
        logits, due = predictor(whole), (whole == mask) & (when == step)
        whole[due] = draw(logits[due], chances[due])
    assert torch.equal(found.ids, whole)
    assert (found.calls < steps).all() and found.calls.max() > 1


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_visible_stays_and_what_is_hidden_is_written(order):
    ids = CHAIN.sample(50, numbers())
    hidden = torch.rand(50, 8, generator=numbers(1)) < 0.5
    hidden[0], hidden[1] = False, True
    found = ORDERS[order](CHAIN.predictor, ids.masked_fill(hidden, 4), 4, streams(50))
    assert torch.equal(found.ids[~hidden], ids[~hidden])
    assert (found.ids < 4).all() and found.calls[0] == 0
    assert not torch.equal(found.ids, ids)


def test_gaps_are_filled_by_the_law_of_what_is_around_them():
    ids = torch.tensor([[3, 1, 3, 2]]).expand(20_000, 4)
    found = first_hitting(WORLD.predictor, ids, 3, [numbers()] * 20_000).ids
    given = WORLD.joint[:, 1, :, 2]
    assert likeness(found[:, [0, 2]], (given / given.sum()).flatten(), 3) > 0.01


def test_texts_are_read_together_whichever_places_are_hidden():
    ids, reads = torch.ones(30, 8, dtype=torch.long), []
    for row in range(30):
        ids[row, [row % 8, (row + 3) % 8]] = 4
    first_hitting(lambda noisy: reads.append(len(noisy)) or CHAIN.predictor(noisy), ids, 4, streams(30))
    assert reads == [30, 30]


@pytest.mark.parametrize("order", ORDERS)
def test_a_text_depends_on_its_own_stream_alone(order):
    whole = ORDERS[order](CHAIN.predictor, blank(12, CHAIN), 4, streams(12))
    part = ORDERS[order](CHAIN.predictor, blank(3, CHAIN), 4, streams(3, first=5))
    assert torch.equal(part.ids, whole.ids[5:8]) and torch.equal(part.calls, whole.calls[5:8])
    assert len(whole.ids.unique(dim=0)) > 6


def llada(logits, ids, mask, steps):
    """LLaDA's loop for one text, greedy, as its authors write it."""
    ids, (base, more) = ids.clone(), divmod(int((ids == mask).sum()), steps)
    for step in range(steps):
        probs = logits(ids[None])[0].softmax(-1)
        sure, tokens = probs.max(-1)
        sure[ids != mask] = -1
        chosen = sure.topk(base + (step < more)).indices
        ids[chosen] = tokens[chosen]
    return ids


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_surest_first_is_lladas_order(steps):
    predictor = masked_predictor(random_token_model(5))
    ids = torch.where(torch.rand(10, 8, generator=numbers()) < 0.3, texts(10, 8), 5)
    found = confidence(predictor, ids, 5, steps, streams(10), temperature=0)
    masks = (ids == 5).sum(1)
    assert torch.equal(found.calls, masks.clamp(max=steps))
    for row in range(10):
        assert torch.equal(found.ids[row], llada(predictor, ids[row], 5, min(steps, int(masks[row]))))


def test_at_once_tokens_are_drawn_at_their_temperature():
    logits = torch.tensor([0.0, 1.0, -0.5, 2.0])
    found = confidence(lambda ids: logits.expand(*ids.shape, 4), torch.full((400, 20), 4), 4, 1, streams(400), 0.7).ids
    share = torch.bincount(found.flatten()) / found.numel()
    expected = (logits / 0.7).softmax(-1)
    assert ((share - expected).abs() <= 3 * (expected * (1 - expected) / found.numel()).sqrt()).all()


def test_the_nucleus_sums_to_at_most_p_and_holds_the_likeliest():
    probs = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).double()
    for top_p, kept in [(0.3, [1]), (0.51, [1]), (0.79, [1]), (0.81, [1, 3]), (0.96, [0, 1, 3]), (1, [0, 1, 2, 3])]:
        assert nucleus(probs.log(), top_p)[0].isfinite().nonzero()[:, 0].tolist() == kept
    assert TopPLogitsWarper(0.79)(None, probs.log())[0].isfinite().nonzero()[:, 0].tolist() == [1, 3]
    drawn = draw(probs.log().expand(3000, 4), torch.rand(3000, generator=numbers()), 0.81)
    share = (drawn == 1).double().mean().item()
    assert share == pytest.approx(0.625, abs=3 * math.sqrt(0.625 * 0.375 / 3000)) and set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("order", ORDERS)
def test_a_narrow_nucleus_writes_the_likeliest_token(order):
    logits = torch.randn(8, 4, generator=numbers())
    found = ORDERS[order](lambda ids: logits.expand(len(ids), 8, 4), blank(3, CHAIN), 4, streams(3), top_p=0.01)
    assert torch.equal(found.ids, logits.argmax(-1).expand(3, 8))


def test_rare_tokens_are_drawn_as_often_as_they_should_which_float32_noise_does_not():
    """Zipf's law over 50,000 tokens, each beside staying masked in one of 1,000 steps."""
    size, steps = 50_000, 1000
    probs = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    probs /= probs.sum()
    entropy = -torch.special.xlogy(probs, probs).sum().item()

    chances = torch.rand(1000, generator=numbers(), dtype=torch.float64)
    nats = -probs[torch.cat([draw(probs.log().expand(50, size), some) for some in chances.split(50)])].log()
    assert nats.mean().item() == pytest.approx(entropy, abs=3 * nats.std().item() / math.sqrt(1000))

    # a token beats "stay" where -log(u) < c, with c its share of stay's exponential; u has 24 bits
    stay = -torch.log1p(-(torch.arange(50, dtype=torch.float64) + 0.5) / 50)
    rates = stay[:, None] * probs / steps
    wins = (2**24 - 1 - torch.floor(2**24 * torch.exp(-rates))).sum(0)
    in_float32 = wins / wins.sum()
    assert -torch.special.xlogy(in_float32, in_float32).sum().item() < entropy - 0.5


@pytest.mark.parametrize(("call", "message"), [
    (lambda: confidence(CHAIN.predictor, blank(2, CHAIN), 4, 9, streams(2)), "steps is 9, but a text has 8 tokens"),
    (lambda: confidence(CHAIN.predictor, blank(2, CHAIN), 4, 8, streams(2), -1), "temperature is -1, must be at least"),
    (lambda: confidence(CHAIN.predictor, blank(2, CHAIN), 4, 8, streams(2), top_p=2), "top_p is 2, must be above 0"),
    (lambda: ancestral(CHAIN.predictor, blank(2, CHAIN), 4, 0, streams(2)), "steps is 0, must be 1 or more"),
    (lambda: first_hitting(CHAIN.predictor, blank(2, CHAIN), 4, streams(2), 0), "top_p is 0, must be above 0"),
])
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_every_text_needs_a_stream():
    with pytest.raises(ValueError, match="3 streams for 2 texts; give one for each"):
        first_hitting(CHAIN.predictor, blank(2, CHAIN), 4, streams(3))
