"""Block diffusion: all blocks at once are each in turn; its ends are a language model and masked diffusion."""

import itertools

import pytest
import torch
from random_token_models import numbers, random_token_model, streams, texts
from scipy.stats import chisquare
from toy_worlds import code, words

from latdiff.discrete.blocks import block_mask, block_predictor, nothing_read, read_block, write_blocks
from latdiff.discrete.bounds import exact_bound
from latdiff.discrete.masked import (
    Hidden,
    hide_by_count,
    hide_by_time,
    masked_loss,
    masked_predictor,
    subs,
    weighted_nats,
)
from latdiff.discrete.sampling import ancestral, draw, first_hitting, ranks_of, steps_of, uniforms
from latdiff.errors import UserError
from latdiff.models.token_model import token_logits

V, L, MASK, END = 5, 6, 5, 4
SIZES = [1, 2, 3, 6]


def hidden_texts(count=8, seed=0):
    ids = texts(count, L)
    return ids, ids.masked_fill(torch.rand(count, L, generator=numbers(seed)) < 0.6, MASK)


def test_a_mask_of_two_blocks():
    assert block_mask(4, 2).int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_block_sees_itself_and_the_whole_blocks_before_it_and_not_a_bit_of_the_rest(size):
    model, (clean, noisy), block = random_token_model(V), hidden_texts(), torch.arange(L) // size
    before = block_predictor(model, clean, size)(noisy)
    for place in range(L):
        other = torch.where(torch.arange(L) == place, (clean + 1) % V, clean)
        same = (block_predictor(model, other, size)(noisy) == before).all(-1)
        assert torch.equal(same, (block <= block[place]).expand_as(same))
        other = torch.where(torch.arange(L) == place, (noisy + 1) % (V + 1), noisy)
        same = (block_predictor(model, clean, size)(other) == before).all(-1)
        assert torch.equal(same, (block != block[place]).expand_as(same))


@torch.no_grad()
def one_block_after_another(model, clean, noisy, size):
    """Logits [B, L, V] by reading every noisy block behind keys and values of the whole ones before it."""
    past, found = nothing_read(model, len(clean)), []
    for start in range(0, L, size):
        block, before = slice(start, start + size), slice(max(start - size, 0), start)
        logits, past = read_block(model, past, clean[:, before], noisy[:, block])
        assert past.mask.shape[1] == start
        found.append(logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hide", [hide_by_count, hide_by_time])
def test_the_loss_of_all_blocks_at_once_is_that_of_one_after_another(size, hide):
    model, ids = random_token_model(V), texts(8, L)
    at_once, in_turn = (masked_loss(predictor, ids, MASK, numbers(), size, hide) for predictor in (
        block_predictor(model, ids, size), lambda noisy: one_block_after_another(model, ids, noisy, size)))
    torch.testing.assert_close(at_once, in_turn, rtol=0, atol=1e-5)


@torch.no_grad()
def test_blocks_of_one_token_are_a_language_model_whatever_is_drawn():
    model, ids, nats = random_token_model(V), texts(8, L), torch.zeros(8)
    for place in range(L):  # reads what is before, and a mask where the next token is to be
        read = torch.cat([ids[:, :place], torch.full((8, 1), MASK)], 1)
        logits = token_logits(model, read, torch.ones(place + 1, place + 1, dtype=torch.bool).tril(), last=1)[:, 0]
        nats += torch.nn.functional.cross_entropy(logits, ids[:, place], reduction="none")
    predictor = block_predictor(model, ids, 1)
    for seed in range(3):
        loss = masked_loss(predictor, ids, MASK, numbers(seed), 1)
        torch.testing.assert_close(loss, nats.mean() / L, rtol=0, atol=1e-5)
    torch.testing.assert_close(exact_bound(predictor, ids, MASK, 1).nats.float(), nats, rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_block_is_masked_diffusion_and_does_not_read_the_whole_text():
    model, (ids, noisy) = random_token_model(V), hidden_texts()
    alone = masked_predictor(model)(noisy)
    behind = token_logits(model, torch.cat([ids, noisy], 1), block_mask(L, L), torch.arange(L).repeat(2), last=L)
    torch.testing.assert_close(behind, alone, rtol=0, atol=1e-5)
    losses = [masked_loss(one, ids, MASK, numbers(), size)
              for one, size in ((masked_predictor(model), None), (block_predictor(model, ids, L), L))]
    assert losses[0] == losses[1]


def test_the_bound_is_the_sum_of_every_blocks():
    model, ids = random_token_model(V), texts(4, L)
    predictor = block_predictor(model, ids, 2)
    total = torch.zeros(4)
    for start in range(0, L, 2):
        for places, weight in (([start], 0.5), ([start + 1], 0.5), ([start, start + 1], 0.5)):
            weights = torch.zeros(4, L)
            weights[:, places] = weight
            hidden = Hidden(ids.masked_fill(weights > 0, MASK), weights)
            total += weighted_nats(predictor, ids, hidden, MASK).detach()
    torch.testing.assert_close(exact_bound(predictor, ids, MASK, 2).nats.float(), total, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [None, 2])
def test_one_block_is_written_as_masked_diffusion_writes(steps):
    model, (_, ids) = random_token_model(V), hidden_texts(20)
    found = write_blocks(model, ids, L, streams(20), steps)
    predictor = masked_predictor(model)
    expected = (first_hitting(predictor, ids, MASK, streams(20)) if steps is None
                else ancestral(predictor, ids, MASK, steps, streams(20)))
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.calls, expected.calls)


@torch.no_grad()
def without_cache(model, ids, size, rows, steps):
    """`write_blocks`, by reading the whole text for every token."""
    (order, chances), ids = uniforms(rows, ids), ids.clone()
    for start in range(0, L, size):
        block = slice(start, start + size)
        when = (ranks_of(order[:, block], ids[:, block] == MASK) if steps is None
                else steps_of(order[:, block], steps))
        for step in range(size if steps is None else steps):
            logits = block_predictor(model, ids.clamp(max=V - 1), size)(ids)[:, block]
            due = (ids[:, block] == MASK) & (when == step)
            written = ids[:, block].clone()
            written[due] = draw(logits[due], chances[:, block][due])
            ids[:, block] = written
    return ids


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [None, 2])
def test_texts_are_those_written_without_a_cache_and_what_is_visible_stays(size, steps):
    model, (whole, ids) = random_token_model(V), hidden_texts(24)
    ids[0], ids[1:8], ids[8, 2:] = whole[0], MASK, whole[8, 2:]
    found = write_blocks(model, ids, size, streams(24), steps)
    assert torch.equal(found.ids, without_cache(model, ids, size, streams(24), steps))
    assert torch.equal(found.ids[ids != MASK], ids[ids != MASK]) and (found.ids != MASK).all()
    assert found.calls[0] == 0
    if steps is None:  # a call a token, for there are masks in every block
        assert (found.calls[1:8] == L).all()


def test_what_is_written_has_the_networks_law():
    model, size, count = random_token_model(3, spread=0.2), 2, 10_000
    every = words(3, 4)
    predictor, nats = block_predictor(model, every, size), torch.zeros(81)
    orders = list(itertools.permutations(range(size)))
    for start in range(0, 4, size):
        of_block = []
        for order in orders:
            seen, total = every.clone(), torch.zeros(81)
            seen[:, start : start + size] = 3
            for place in (start + one for one in order):
                total += subs(predictor(seen), seen, 3)[torch.arange(81), place, every[:, place]].detach()
                seen[:, place] = every[:, place]
            of_block.append(total)
        nats += torch.stack(of_block).exp().mean(0).log()
    probs = nats.exp().double()
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    found = write_blocks(model, torch.full((count, 4), 3), size, [numbers()] * count).ids
    common = probs * count >= 5
    observed, expected = torch.bincount(code(found, 3), minlength=81)[common], probs[common] * count
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01
    assert observed.sum() > 0.98 * count


def test_a_text_depends_on_its_own_stream_alone():
    model, (_, ids) = random_token_model(V), hidden_texts(12)
    whole = write_blocks(model, ids, 2, streams(12), end_id=END)
    part = write_blocks(model, ids[4:7], 2, streams(3, first=4), end_id=END)
    assert torch.equal(part.ids, whole.ids[4:7]) and torch.equal(part.calls, whole.calls[4:7])


def test_behind_an_end_nothing_is_read_and_all_masks_are_ends():
    model, ids = random_token_model(V), torch.full((40, L), MASK)
    ids[:20, 5] = 1
    free = write_blocks(model, ids, 2, streams(40)).ids
    ended = write_blocks(model, ids, 2, streams(40), end_id=END)
    blocks = (free == END).unflatten(1, (3, 2)).any(-1).int()
    first = torch.where(blocks.any(1), blocks.argmax(1), 2)
    for row, last in enumerate(first.tolist()):
        upto = 2 * last + 2
        assert torch.equal(ended.ids[row, :upto], free[row, :upto])
        assert (ended.ids[row, upto : 5 if row < 20 else 6] == END).all()
        assert ended.calls[row] == min(upto, 5 if row < 20 else 6)
    assert set(first.tolist()) == {0, 1, 2} and (ended.ids[:20, 5] == 1).all()


def test_what_cannot_be_done_is_refused():
    model, ids = random_token_model(V), texts(2, L)
    for call in (lambda: block_predictor(model, ids, 4), lambda: write_blocks(model, ids, 4, streams(2))):
        with pytest.raises(UserError, match="block_size is 4, which does not divide the 6 tokens"):
            call()
    with pytest.raises(UserError, match="steps is 0, must be 1 or more"):
        write_blocks(model, ids, 2, streams(2), steps=0)
