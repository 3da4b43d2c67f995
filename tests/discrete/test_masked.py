"""What is hidden of a text, what it weighs, and the training loss of masked diffusion."""

import math

import pytest
import torch
from random_token_models import any_predictor, numbers, random_token_model, texts

from latdiff.discrete.bounds import exact_bound
from latdiff.discrete.masked import (
    hide_by_count,
    hide_by_time,
    masked_loss,
    masked_predictor,
    subs,
    weighted_nats,
    without_mask,
)
from latdiff.draws import Draws
from latdiff.errors import UserError

V, L, MASK = 5, 6, 5
FIRST = 1e-3


@pytest.mark.parametrize("mask_id", [2, V])
def test_visible_tokens_are_certain_and_the_mask_is_never_predicted(mask_id):
    logits, ids = torch.randn(3, L, V, generator=numbers()), texts(3, L)
    ids[:, ::2] = mask_id
    probs = subs(logits, ids, mask_id).exp()
    visible = ids != mask_id
    assert torch.equal(probs[visible], torch.nn.functional.one_hot(ids[visible], V).float())
    torch.testing.assert_close(probs.sum(-1), torch.ones(3, L))
    if mask_id < V:
        assert (probs[..., mask_id] == 0).all()
        kept = torch.tensor([token for token in range(V) if token != mask_id])
        torch.testing.assert_close(probs[~visible][:, kept], logits[~visible][:, kept].softmax(-1))
    assert torch.equal(without_mask(logits.bfloat16(), V), logits.bfloat16().float())


def test_exactly_so_many_tokens_of_a_block_are_hidden_and_share_its_weight():
    levels = ((torch.arange(30) + 0.5) / 30)[:, None].repeat(1, 2)
    hidden = hide_by_count(texts(30, 2 * L), MASK, levels, torch.rand(30, 2 * L, generator=numbers()))
    counts = (hidden.ids == MASK).unflatten(1, (2, L)).sum(-1)
    assert counts.unique(return_counts=True)[1].tolist() == [10] * L  # 30 texts of two blocks
    assert torch.equal(hidden.weight > 0, hidden.ids == MASK)
    torch.testing.assert_close(hidden.weight.unflatten(1, (2, L)).sum(-1), torch.full((30, 2), float(L)))
    visible = hidden.ids != MASK
    assert torch.equal(hidden.ids[visible], texts(30, 2 * L)[visible])


def test_the_last_level_hides_all_and_none_hides_more():
    levels = torch.tensor([[0.0], [1 - 2**-24], [1 - 2**-53]], dtype=torch.float64)
    hidden = hide_by_count(texts(3, 54), MASK, levels, torch.rand(3, 54, generator=numbers()))
    assert (hidden.ids == MASK).sum(1).tolist() == [1, 54, 54]


def test_the_weight_of_a_time_is_that_of_the_log_linear_schedule():
    levels = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    found = hide_by_time(texts(50, 1), MASK, levels, torch.zeros(50, 1)).weight[:, 0]
    times = (FIRST + (1 - FIRST) * levels[:, 0]).requires_grad_()
    sigma = -torch.log1p(-(1 - FIRST) * times)
    slope = torch.autograd.grad(sigma.sum(), times)[0]
    torch.testing.assert_close(found, (slope / torch.expm1(sigma)).detach(), rtol=1e-9, atol=0)


def test_a_token_is_hidden_as_often_as_its_time_says():
    levels = torch.tensor([[0.0, 0.5], [0.25, 1.0]])
    hidden = hide_by_time(texts(2, 8000), MASK, levels, torch.rand(2, 8000, generator=numbers()))
    shares = (hidden.ids == MASK).unflatten(1, (2, -1)).double().mean(-1)
    times = (FIRST + (1 - FIRST) * levels).double()
    assert ((shares - times).abs() <= 3 * (times * (1 - times) / 4000).sqrt()).all()


@pytest.mark.parametrize(("first", "last", "expected"), [
    (FIRST, 1, math.log(1 / FIRST) / (1 - FIRST) - 1), (0.45, 0.95, 0.49), (0.3, 0.8, 0.96), (0.5, 1, 0.39),
])
def test_a_tokens_weight_varies_as_published(first, last, expected):
    levels = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    hidden = hide_by_time(texts(100_000, 1), MASK, levels, torch.zeros(100_000, 1), first, last)
    weight = hidden.weight[:, 0]  # where hidden, with probability 1 / weight: the mean is 1, that of squares `weight`
    assert weight.mean().item() - 1 == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("hide", [hide_by_count, hide_by_time])
@pytest.mark.parametrize("block_size", [None, 2])
def test_the_training_loss_is_the_bound_a_token_in_the_mean(hide, block_size):
    predictor, ids, generator = any_predictor(4, 3, block_size), texts(40, 4, 3), numbers(2)
    found = torch.stack([masked_loss(predictor, ids, 3, generator, block_size, hide) for _ in range(600)])
    exact = exact_bound(predictor, ids, 3, block_size).nats.mean() / 4
    error = found.std().item() / math.sqrt(len(found))
    cut = 1e-3 * exact.item() if hide is hide_by_time else 0.0
    assert found.mean().item() == pytest.approx(exact.item(), abs=3 * error + cut)


@pytest.mark.parametrize("hide", [hide_by_count, hide_by_time])
def test_parts_of_a_batch_have_the_losses_of_the_whole(hide):
    model, ids = random_token_model(V), texts(6, L)
    whole = masked_loss(masked_predictor(model), ids, MASK, numbers(), 3, hide)
    parts = [masked_loss(masked_predictor(model), ids[own], MASK, Draws(numbers(), 6, own), 3, hide)
             for own in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, whole)
    assert masked_loss(masked_predictor(model), ids, MASK, numbers(), 3, hide) == whole
    assert masked_loss(masked_predictor(model), ids, MASK, numbers(1), 3, hide) != whole


def test_levels_of_a_batch_lie_evenly_in_every_block():
    seen = []

    def hide(ids, mask_id, levels, of_tokens):
        seen.append(levels)
        return hide_by_count(ids, mask_id, levels, of_tokens)

    masked_loss(lambda ids: torch.zeros(*ids.shape, V), texts(8, L), MASK, numbers(), 2, hide)
    levels = seen[0].sort(0).values
    torch.testing.assert_close(levels.diff(dim=0), torch.full((7, 3), 1 / 8))
    assert len(levels[0].unique()) == 3


@pytest.mark.parametrize("hide", [hide_by_count, hide_by_time])
def test_only_hidden_tokens_are_learnt_from(hide):
    logits = torch.zeros(2, L, V, requires_grad=True)
    hidden = hide(texts(2, L), MASK, torch.tensor([[0.3], [0.6]]), torch.rand(2, L, generator=numbers()))
    weighted_nats(lambda ids: logits, texts(2, L), hidden, MASK).sum().backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, hidden.ids == MASK)


def test_a_block_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"block_size is 4, which does not divide .* set one of 1, 2, 3, 6$"):
        masked_loss(lambda ids: torch.zeros(*ids.shape, V), texts(2, L), MASK, numbers(), 4)
