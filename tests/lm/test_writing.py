"""The token loop writes what transformers would, each row by its own numbers."""

import pytest
import torch
from random_models import KINDS, SMALL, V, gpt2, numbers, random_model
from transformers import TopPLogitsWarper

from latdiff.lm import context, write, writing

END = 1
PREFIXES = [[0], [0, 5, 6, 7], [0, 9], [0, 3, 3], [0, 2]]


def by_transformers(model, prefix, most):
    ids = torch.tensor([prefix])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most,
                           pad_token_id=0)
    return whole[0, len(prefix) :].tolist()


# Writing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eos_token_id", [None, 5, 7])
def test_greedy_writing_is_transformers_own_beside_rows_of_other_lengths(kind, eos_token_id):
    model = random_model(KINDS[kind], eos_token_id)
    expected = [by_transformers(model, prefix, 12) for prefix in PREFIXES]
    assert write(model, PREFIXES, [], 12, greedy=True) == expected


def test_the_greedy_rows_that_end_do_so_at_different_steps():
    """What the test above compares is worth comparing: texts differ, and some end early."""
    written = [write(gpt2(end), PREFIXES, [], 12, greedy=True) for end in (5, 7)]
    assert any(len({len(row) for row in rows}) > 2 for rows in written)
    assert len({tuple(row) for row in write(gpt2(), PREFIXES, [], 12, greedy=True)}) > 2


def constant(end):
    """A model whose next token is END with the probability `end`, 0 with 0.35, whatever stands before."""
    model = gpt2(eos_token_id=END)
    model.set_output_embeddings(torch.nn.Linear(SMALL["hidden_size"], V))
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.35, end] + [(0.65 - end) / (V - 2)] * (V - 2)).log())
    return model


@pytest.mark.parametrize("streams", [numbers(40), None])
def test_a_row_ends_where_an_end_is_likeliest_whatever_is_drawn(streams):
    def draw(**settings):
        return write(constant(0.4), [[0]] * 40, streams, 8, greedy=streams is None, **settings)

    assert draw(end_when_likeliest=True) == [[END]] * 40
    assert (draw() == [[END]] * 40) == (streams is None)


def test_a_row_goes_on_where_an_end_is_not_likeliest_unless_one_is_drawn():
    own = write(constant(0.3), [[0]] * 40, numbers(40), 8)
    assert write(constant(0.3), [[0]] * 40, numbers(40), 8, end_when_likeliest=True) == own
    assert {row[-1] == END for row in own} == {True, False}


def test_cached_logits_are_those_of_the_whole_text(model, monkeypatch):
    seen, own = [], writing.choose

    def choose(logits, *rest):
        seen.append(logits)
        return own(logits, *rest)

    monkeypatch.setattr(writing, "choose", choose)
    written = write(model, PREFIXES, numbers(5), 8)
    for row, prefix in enumerate(PREFIXES):
        whole = model(torch.tensor([[*prefix, *written[row]]])).logits[0, len(prefix) - 1 : -1]
        torch.testing.assert_close(torch.stack([step[row] for step in seen]), whole.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_text_is_the_same_whatever_is_written_beside_it(top_p):
    model = gpt2(END)
    five = write(model, PREFIXES, numbers(5), 20, top_p)
    assert write(model, PREFIXES[:2], numbers(2), 20, top_p) == five[:2]
    assert write(model, PREFIXES[3:4], numbers(1, 3), 20, top_p) == five[3:4]
    assert write(model, PREFIXES, numbers(5, 50), 20, top_p) != five


def test_a_row_that_ends_early_does_not_change_others():
    model = gpt2(END)
    rows = write(model, [[0]] * 40, numbers(40), 20)
    ended = [row for row in rows if len(row) < 20]
    assert ended and len(ended) < 40
    assert all(row.index(END) == len(row) - 1 for row in ended)
    assert rows == [write(model, [[0]], numbers(1, place), 20)[0] for place in range(40)]


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_tokens_are_as_frequent_as_the_distribution_has_them(top_p):
    model = gpt2(spread=2.0)
    with torch.no_grad():
        logits = model(torch.tensor([[0, 5]])).logits[:, -1]
    expected = (TopPLogitsWarper(top_p)(None, logits) if top_p < 1 else logits).softmax(-1)[0]
    n = 4000
    found = torch.tensor(write(model, [[0, 5]] * n, numbers(n), 1, top_p)).flatten().bincount(minlength=V) / n
    assert (expected > 0.02).sum() > 1
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_writing_stops_at_the_models_context(model):
    rows = write(model, [[0], [0] * 46, [0] * 48], numbers(3), 100)
    assert [len(row) for row in rows] == [context(model) - 1, 2, 0]
    assert write(model, [[0]], numbers(1), 0) == [[]]


# Refusals


def test_rows_that_cannot_be_written(model):
    with pytest.raises(ValueError, match="a prefix is empty"):
        write(model, [[0], []], numbers(2), 4)
    with pytest.raises(ValueError, match="1 streams for 2 prefixes"):
        write(model, [[0], [0]], numbers(1), 4)
