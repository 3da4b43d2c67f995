"""Texts and ids in little memory are those that were put in."""

import random
import sys

import pytest

from latdiff.data.packed import PackedIds, PackedTexts
from latdiff.data.tokens import AT_ONCE, short_enough, tokenize

ROWS = [[5, 3, 1], [], [1], [0, 65_535], [2] * 40]
TEXTS = ["Ann walked.", "", "naïve 天地 🦊", "x" * 1000, "\0"]


@pytest.mark.parametrize("kind, rows", [(PackedIds, ROWS), (PackedTexts, TEXTS)])
def test_rows_come_back_as_from_a_list(kind, rows):
    packed = kind(rows)
    assert len(packed) == len(rows) and list(packed) == rows and packed == rows and rows == packed
    assert [packed[i] for i in range(-5, 5)] == rows + rows
    assert packed[1:4] == rows[1:4] and packed[::-2] == rows[::-2]
    assert packed + rows[:2] == rows + rows[:2] and packed + rows[:0] is packed
    assert packed != rows[:-1] and packed != [*rows[:-1], rows[0]]
    assert not kind() and list(kind()) == []
    with pytest.raises(IndexError):
        packed[5]


def test_lengths_of_rows_of_ids_are_their_counts():
    assert list(PackedIds(ROWS).lengths) == [3, 0, 1, 2, 40]


@pytest.mark.parametrize("late", [0, 3])
def test_ids_of_a_large_vocabulary_fit_wherever_they_come(late):
    rows = [*ROWS[:late], [7, 65_536, 250_099], [9]]
    assert list(PackedIds(rows)) == rows


def test_ids_take_two_bytes_and_texts_one_a_letter():
    draw = random.Random(0)
    ids = PackedIds([draw.randrange(65_536) for _ in range(50)] for _ in range(2000))
    assert sum(map(sys.getsizeof, (ids._held, ids._ends))) < 1.2 * 2000 * (2 * 50 + 8)
    texts = PackedTexts("x" * 200 for _ in range(2000))
    assert sum(map(sys.getsizeof, (texts._held, texts._ends))) < 1.2 * 2000 * (200 + 8)


class Counting:
    """A tokenizer that notes how many texts it is given at once."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, **settings):
        self.calls.append(len(texts))
        return self.tokenizer(texts, **settings)


def test_a_tokenizer_gets_some_texts_at_a_time(codec):
    tokenizer = Counting(codec.tokenizer)
    texts = [f"I walked {number} times." for number in range(2 * AT_ONCE + 5)]
    found = tokenize(tokenizer, texts)
    assert tokenizer.calls == [AT_ONCE + 1, AT_ONCE + 1, 6]
    for row in (0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 4):
        assert found[row] == tokenize(codec.tokenizer, [texts[row]])[0]
    assert list(short_enough(found, 8)) == [row for row in found if len(row) <= 8]
