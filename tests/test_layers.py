"""Building blocks: what may be read, and that noise levels are told apart."""

import pytest
import torch
import torch.nn.functional as F

from latdiff.models.layers import Attention, Block, FeedForward, LogSnrEmbedding, Norm, attend


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # for the weights
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs(noise, masked):
    query, key, value = noise(2, 2, 3, 8), noise(2, 2, 5, 8), noise(2, 2, 5, 8)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])[:, None, None] if masked else None
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(attend(query, key, value, mask), expected)


def test_what_is_masked_does_not_matter(noise):
    attention, x, context = Attention(8, 2), noise(2, 3, 8), noise(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, False], [True, True, True, True, False]])
    other = torch.where(mask[..., None], context, 100 * noise(2, 5, 8))
    torch.testing.assert_close(attention(x, context, mask), attention(x, other, mask))
    assert not torch.allclose(attention(x, context), attention(x, other))


def test_attention_reads_itself_without_a_context(noise):
    attention, x = Attention(8, 2), noise(2, 3, 8)
    torch.testing.assert_close(attention(x), attention(x, x))


def test_self_attention_follows_a_permutation(noise):
    block, x = Block(8, 2), noise(2, 5, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]))


def test_the_feed_forward_looks_at_one_position_at_a_time(noise):
    layer, x = FeedForward(8), noise(2, 3, 8)
    torch.testing.assert_close(layer(x)[:, 1:2], layer(x[:, 1:2]))


def test_the_norm_gives_unit_size_and_keeps_low_precision(noise):
    norm, x = Norm(64), 7 * noise(3, 64) + 1
    torch.testing.assert_close(norm(x).mean(-1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(norm(x).pow(2).mean(-1), torch.ones(3), rtol=1e-3, atol=1e-3)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert Norm(64, elementwise_affine=False)(x).shape == x.shape


def test_noise_levels_are_told_apart(noise):
    embedding = LogSnrEmbedding(16)
    levels = torch.linspace(-20, 20, 81)
    with torch.no_grad():
        vectors = embedding(levels)
    assert vectors.shape == (81, 16)
    distance = torch.cdist(vectors, vectors) + torch.eye(81)
    assert distance.min() > 1e-3
