"""The transformer over tokens: a position reads what it may, and not a bit of anything else."""

import pytest
import torch
from random_token_models import random_token_model, texts
from transformers import LlamaForCausalLM

from latdiff.discrete.blocks import block_mask
from latdiff.errors import UserError
from latdiff.models.token_model import mask_id_of, token_logits, token_model

L, V = 6, 5
BLOCKS = torch.arange(L) // 2
MASKS = {
    "full": torch.ones(L, L, dtype=torch.bool),
    "causal": torch.ones(L, L, dtype=torch.bool).tril(),
    "block-causal": BLOCKS[:, None] >= BLOCKS,
    "itself": torch.eye(L, dtype=torch.bool),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_what_may_not_be_read_changes_no_bit_and_what_may_does(name, attention):
    model, allowed, ids = random_token_model(V), MASKS[name], texts(2, L)
    model.set_attn_implementation(attention)
    before = token_logits(model, ids, allowed)
    for place in range(L):
        changed = ids.clone()
        changed[:, place] = mask_id_of(model)
        same = (token_logits(model, changed, allowed) == before).all(-1)
        assert torch.equal(same, ~allowed[:, place].expand(2, L))


@torch.no_grad()
def test_each_row_may_have_a_mask_of_its_own():
    model, ids = random_token_model(V), texts(2, L)
    both = token_logits(model, ids, torch.stack([MASKS["causal"], MASKS["full"]]))
    for row, name in enumerate(["causal", "full"]):
        torch.testing.assert_close(both[row], token_logits(model, ids[row : row + 1], MASKS[name])[0])


@torch.no_grad()
def test_with_a_causal_mask_it_is_the_language_model_of_transformers():
    model, ids = random_token_model(V), texts(3, L)
    found = token_logits(model, ids, MASKS["causal"])
    assert found.shape == (3, L, V)
    behind_start = torch.nn.functional.pad(ids, (1, 0), value=V + 1)
    torch.testing.assert_close(found, model(behind_start).logits[:, 1:, :V], rtol=0, atol=1e-5)
    torch.testing.assert_close(token_logits(model, ids, MASKS["causal"], last=2), found[:, -2:])


@torch.no_grad()
def test_positions_may_come_twice():
    model, ids = random_token_model(V), texts(1, L)
    alone = token_logits(model, ids, MASKS["full"])
    apart = torch.block_diag(MASKS["full"], MASKS["full"]).bool()
    twice = token_logits(model, ids.repeat(1, 2), apart, torch.arange(L).repeat(2))
    torch.testing.assert_close(twice, alone.repeat(1, 2, 1), rtol=0, atol=1e-5)
    assert not torch.allclose(token_logits(model, ids, MASKS["full"], 2 * torch.arange(L)), alone, atol=1e-3)


@torch.no_grad()
def test_it_knows_where_it_is_in_a_text_of_masks_alone():
    found = token_logits(random_token_model(V), torch.full((1, L), V), MASKS["full"])[0]
    assert torch.pdist(found).min() > 0.01


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = random_token_model(V)
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(token_logits(loaded, texts(2, L), block_mask(3, 1)),
                       token_logits(model, texts(2, L), block_mask(3, 1)))


def test_its_size_is_that_of_the_language_model_it_is_held_against():
    with torch.device("meta"):
        model = token_model(1800)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(6.8e6, rel=0.02)
    assert mask_id_of(model) == 1800


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"width is 100 for 8 heads.* that 16 divides, such as 112"):
        token_model(10, width=100, heads=8)
