"""Random numbers of a part of a batch are those that the whole batch has."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.draws import Draws, SharedDropout
from latdiff.models.conditions import Labels
from latdiff.models.denoiser import LatentDenoiser

PARTS = [slice(0, 2), slice(2, 5), slice(5, 6)]


def seeded():
    return torch.Generator().manual_seed(3)


def test_parts_of_a_batch_have_its_numbers_in_the_same_order():
    whole = Draws(seeded(), 6)
    expected = whole.rand(), whole.randn(2, 3), whole.rand(1, 1)
    assert [tuple(one.shape) for one in expected] == [(6,), (6, 2, 3), (6, 1, 1)]
    for part in PARTS:
        draws = Draws(seeded(), 6, part)
        for found, one in zip((draws.rand(), draws.randn(2, 3), draws.rand(1, 1)), expected, strict=True):
            assert torch.equal(found, one[part])


def test_a_whole_batch_has_the_generators_own_numbers():
    assert torch.equal(Draws.of(seeded(), 4).randn(5), torch.randn(4, 5, generator=seeded()))


@pytest.mark.parametrize("times", ["stratified", "uniform", "logit-normal"])
def test_the_denoisers_loss_of_a_batch_is_the_mean_of_its_parts(times):
    torch.manual_seed(0)
    denoiser = LatentDenoiser(3, 4, width=16, depth=1, heads=2, classes=["a", "b"])
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    diffusion = GaussianDiffusion(denoiser, torch.linspace(0.99, 0.01, 50), condition_dropout=0.5, times=times)
    x0, cond = torch.randn(6, 3, 4), Labels.of(list("ababab"), ["a", "b"])
    whole = diffusion.loss(x0, seeded(), cond).item()
    parts = [diffusion.loss(x0[part], Draws(seeded(), 6, part), cond[part]).item() for part in PARTS]
    weighed = sum(loss * (part.stop - part.start) / 6 for loss, part in zip(parts, PARTS, strict=True))
    assert weighed == pytest.approx(whole, rel=1e-5)
    assert max(parts) > 1.01 * whole


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("part", PARTS)
def test_dropout_of_a_part_is_that_of_the_whole_batch(rate, part):
    x = torch.randn(6, 5, 8)
    torch.manual_seed(1)
    whole = nn.Dropout(rate)(x), F.dropout(x, rate)
    torch.manual_seed(1)
    with SharedDropout(6, part):
        found = nn.Dropout(rate)(x[part]), F.dropout(x[part], rate)
        assert torch.equal(nn.Dropout(rate).eval()(x[part]), x[part])
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other[part])
        assert (one == 0).any()


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.tensor([[True, False, True, True, True]])},
    {"attn_mask": torch.tensor([[0.0, 1.0, -1.0, 0.5, -torch.inf]])},
], ids=str)
def test_dropout_within_torchs_attention_is_as_well(options):
    query, key, value = torch.randn(3, 6, 2, 5, 4)
    torch.manual_seed(1)
    whole = F.scaled_dot_product_attention(query, key, value, dropout_p=0.4, **options)
    for part in PARTS:
        torch.manual_seed(1)
        with SharedDropout(6, part):
            found = F.scaled_dot_product_attention(query[part], key[part], value[part], dropout_p=0.4, **options)
        torch.testing.assert_close(found, whole[part])


def test_queries_that_share_keys_have_the_dropout_of_the_whole_batch():
    query, key, value = torch.randn(6, 4, 5, 4), *torch.randn(2, 6, 2, 5, 4)
    torch.manual_seed(1)
    whole = F.scaled_dot_product_attention(query, key, value, dropout_p=0.4, enable_gqa=True)
    torch.manual_seed(1)
    with SharedDropout(6, slice(2, 5)):
        found = F.scaled_dot_product_attention(query[2:5], key[2:5], value[2:5], dropout_p=0.4, enable_gqa=True)
    torch.testing.assert_close(found, whole[2:5])


@pytest.mark.parametrize("part", PARTS)
def test_what_has_no_rows_of_the_batch_is_dropped_out_alike_in_all_parts(part):
    positions = torch.ones(9, 4)
    torch.manual_seed(1)
    whole = F.dropout(positions, 0.5)
    torch.manual_seed(1)
    with SharedDropout(6, part):
        assert torch.equal(F.dropout(positions, 0.5), whole)


def test_a_query_without_keys_finds_nothing():
    query, mask = torch.randn(2, 1, 3, 4), torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[1, 0, 2] = False
    with SharedDropout(4, slice(0, 2)):
        found = F.scaled_dot_product_attention(query, query, query, mask, dropout_p=1e-9)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, query, query, mask))
    assert not found[1, 0, 2].any()
