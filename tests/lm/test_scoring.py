"""The losses of texts are those of transformers, whatever is read together."""

import pytest
import torch
from random_models import CONTEXT, V, gpt2

from latdiff.lm import scoring, token_losses


def test_losses_are_transformers_own_whatever_is_read_together(model, monkeypatch):
    rows = [[3, 4, 5], [], [7] * 100, [6], [2, 9, 9, 4, 1]]
    nats, counts = token_losses(model, 0, rows)
    assert counts.tolist() == [3, 0, CONTEXT - 1, 1, 5]
    for row, own, count in zip(rows, nats, counts, strict=True):
        if count:
            ids = torch.tensor([[0, *row[:count]]])
            torch.testing.assert_close(own, model(ids, labels=ids).loss.detach() * count, rtol=1e-4, atol=1e-4)
    assert nats[1] == 0
    for most in (1, 6 * V, 60 * V):
        monkeypatch.setattr(scoring, "LOGITS", most)
        torch.testing.assert_close(token_losses(model, 0, rows)[0], nats, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocabulary, expected", [
    (V, [(1, 12), (2, 5), (3, 3)]), (2 * V, [(1, 12), (1, 5), (1, 4), (1, 3), (2, 1)]),
])
def test_a_larger_vocabulary_is_read_in_smaller_pieces(monkeypatch, vocabulary, expected):
    monkeypatch.setattr(scoring, "LOGITS", 10 * V)
    model, sizes = gpt2(vocab_size=vocabulary), []
    model.register_forward_hook(lambda _, inputs, outputs: sizes.append(tuple(outputs.logits.shape[:2])))
    token_losses(model, 0, [[3] * length for length in (3, 12, 0, 5, 4, 1, 1)])
    assert sizes == expected


def test_full_precision_is_for_one_text_at_a_time(monkeypatch):
    """Its copies of all logits of a batch would be several times as large as they are."""
    model, sizes = gpt2(), []
    own = torch.nn.functional.cross_entropy
    monkeypatch.setattr(scoring.F, "cross_entropy", lambda logits, *given, **settings: (
        sizes.append(logits.numel()) or own(logits, *given, **settings)))
    token_losses(model, 0, [[3] * length for length in (3, 9, 5)])
    assert max(sizes) == 9 * V
