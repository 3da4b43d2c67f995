"""Spoilt texts differ from real ones as a decoder's mistakes do, each in the way that its function names."""

import random

import pytest

from latdiff.data.spoiling import (
    LEAST,
    WAYS,
    break_off,
    drop,
    insert,
    repeat,
    replace,
    run_on,
    shuffle,
    spoilt,
    swap,
)

WORDS = "the soup was cold and the waiter rude .".split()
OTHER = "a dog runs over wet sand today .".split()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_keeps_most_of_the_text_and_leaves_the_given_one_alone(way):
    for seed in range(50):
        words = list(WORDS)
        found = way(words, OTHER, random.Random(seed))
        assert words == WORDS
        assert found and len(set(found) & set(WORDS)) >= 3


def test_what_each_way_does():
    def lengths(way):
        return {len(way(list(WORDS), OTHER, random.Random(seed))) - len(WORDS) for seed in range(200)}

    assert lengths(drop) == {-1, -2}
    assert lengths(repeat) == {1, 2, 3}
    assert lengths(insert) == {1}
    assert lengths(swap) == lengths(replace) == lengths(shuffle) == {0}
    assert max(lengths(break_off)) < 0
    assert run_on([*WORDS[:-1], "rude."], OTHER, random.Random(0)) == [*WORDS[:-1], "rude", *OTHER[4:]]
    assert sorted(swap(list(WORDS), OTHER, random.Random(0))) == sorted(WORDS)


def test_texts_that_are_short_or_come_out_as_real_ones_are_left_out():
    texts = ["too short here", "good good good good", *(f"text number {i} is about word {i}" for i in range(40))]
    found = spoilt(texts)
    assert not set(found) & set(texts)
    assert len(found) <= len(texts) - 1
    assert all(len(text.split()) >= LEAST for text in texts[1:])
    assert found == spoilt(texts) != spoilt(texts, seed=1)
