"""A prefix that is read once: what is read and written behind it is what it is where all is read at once."""

import pytest
import torch
from star_models import LAYOUTS, PREFIXES, H, K, language_model

from latdiff.lm import look_ahead, read, write

PROMPTS = torch.randn(3, K, H, generator=torch.Generator().manual_seed(4))


@pytest.fixture(params=LAYOUTS)
def model(request):
    return language_model(request.param)


def numbers(n):
    return [torch.Generator().manual_seed(place) for place in range(n)]


def test_what_is_written_behind_a_past_is_what_is_written_behind_its_prefix(model):
    past = read(model, PREFIXES)
    expected = write(model, PREFIXES, numbers(3), 9, prompts=PROMPTS)
    assert len({tuple(row) for row in expected}) == 3
    for _ in range(2):  # the past stays as it was
        assert write(model, PREFIXES, numbers(3), 9, prompts=PROMPTS, past=past) == expected
    alone = write(model, PREFIXES[1:2], numbers(3)[1:2], 9, prompts=PROMPTS[1:2], past=past.rows([1]))
    assert alone == expected[1:2]


def test_a_row_without_room_writes_nothing_beside_the_others(model):
    full = [PREFIXES[0], [0] * 37]
    found = write(model, full, numbers(2), 5, prompts=PROMPTS[:2], past=read(model, full))
    assert found == write(model, full, numbers(2), 5, prompts=PROMPTS[:2])
    assert found[0] and not found[1]


@torch.no_grad()
def test_states_are_those_of_one_call_and_rows_may_be_repeated(model):
    past = read(model, PREFIXES)
    found = look_ahead(model, past.rows([2, 0, 2]), PROMPTS)
    for row, prefix in enumerate([PREFIXES[2], PREFIXES[0], PREFIXES[2]]):
        words = model.get_input_embeddings()(torch.tensor([prefix]))
        whole = model.base_model(inputs_embeds=torch.cat([words, PROMPTS[row : row + 1]], 1)).last_hidden_state
        torch.testing.assert_close(found[row], whole[0, -K:], rtol=0, atol=1e-5)


def test_a_row_stops_where_it_is_told_to(model):
    whole = write(model, PREFIXES, numbers(3), 9, prompts=PROMPTS)
    found = write(model, PREFIXES, numbers(3), 9, prompts=PROMPTS, until=lambda ids: len(ids) == 2 or ids[-1] == 7)
    for row, expected in zip(found, whole, strict=True):
        most = expected.index(7) + 1 if 7 in expected[:2] else 2
        assert row == expected[:most]


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(ValueError, match="a prefix is empty"):
        read(model, [[0], []])
    with pytest.raises(ValueError, match="there is a past, but no prompts"):
        write(model, PREFIXES, numbers(3), 3, past=read(model, PREFIXES))
    with pytest.raises(ValueError, match="before which nothing can be read"):
        write(model, PREFIXES, numbers(3), 3, lead=PROMPTS, prompts=PROMPTS, past=read(model, PREFIXES))
