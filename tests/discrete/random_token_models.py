"""Tiny token models with random weights, wide enough for one token to differ from another, and numbers."""

import torch

from latdiff.models.token_model import token_model


def random_token_model(vocab_size=5, spread=0.3, seed=0):
    torch.manual_seed(seed)
    model = token_model(vocab_size, width=16, layers=2, heads=2, context=32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=spread)
    return model


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def any_predictor(length, vocab_size, block_size=None, seed=1):
    """Logits of no law, that depend on all that is seen of a token's own block; V is the mask."""
    size = block_size or length
    logits = torch.randn((vocab_size + 1) ** size, size, vocab_size, generator=numbers(seed), dtype=torch.float64)
    powers = (vocab_size + 1) ** torch.arange(size)
    return lambda ids: logits[(ids.unflatten(1, (-1, size)) * powers).sum(-1)].flatten(1, 2)


def streams(count, first=0):
    return [numbers(1000 + place) for place in range(first, first + count)]


def texts(count, length, vocab_size=5, seed=3):
    return torch.randint(vocab_size, (count, length), generator=numbers(seed))
