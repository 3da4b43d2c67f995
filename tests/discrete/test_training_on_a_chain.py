"""Trained for seconds on a Markov chain, bounds come down to its entropy and do not fall below."""

import math

import pytest
import torch
from random_token_models import numbers, streams
from toy_worlds import Chain

from latdiff.discrete.blocks import block_predictor
from latdiff.discrete.bounds import estimated_bound, exact_bound
from latdiff.discrete.masked import hide_by_count, hide_by_time, masked_loss
from latdiff.models.token_model import token_model

CHAIN = Chain(vocab_size=3, length=4, seed=1)
MASK, STEPS = CHAIN.mask_id, 120


def trained(size, hide):
    torch.manual_seed(0)
    model, generator = token_model(CHAIN.vocab_size, width=32, layers=2, heads=2, context=4), numbers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        ids = CHAIN.sample(128, generator)
        loss = masked_loss(block_predictor(model, ids, size), ids, MASK, generator, size, hide)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.mark.parametrize(("size", "hide"), [(4, hide_by_count), (4, hide_by_time), (2, hide_by_count)])
def test_bounds_come_down_to_the_entropy_and_stay_above(size, hide):
    model, ids = trained(size, hide), CHAIN.sample(1000, numbers(1))
    predictor = block_predictor(model, ids, size)
    exact = exact_bound(predictor, ids, MASK, size).nats
    excess = exact + CHAIN.log_prob(ids)
    assert -3 * excess.std().item() / math.sqrt(1000) < excess.mean().item() < 0.05 * CHAIN.entropy()
    apart = estimated_bound(predictor, ids, MASK, streams(1000), 16, size, hide).nats - exact
    cut = 1e-3 * CHAIN.entropy() if hide is hide_by_time else 1e-6
    assert apart.mean().item() == pytest.approx(0, abs=3 * apart.std().item() / math.sqrt(1000) + cut)
