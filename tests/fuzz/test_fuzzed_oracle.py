"""The oracle of storyworld: any text is read, at a length of 100,000 characters as well, and a story is what it was."""

import math

import pytest
from bounds import bounded
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import shuffled_words, texts

from latdiff import storyworld
from latdiff.storyworld.index import story_index

STORIES = [one.text for one in storyworld.sample(40, seed=11)]
WORDS = sorted(story_index().classes)
story_index()  # built once, before anything is timed
stories = st.sampled_from(STORIES)
SLOW = settings(max_examples=max(25, settings.default.max_examples // 10))  # for what takes a tenth of a second each


def check(text):
    """Whatever is read is right by itself: valid and without errors, or neither, and as probable as that."""
    reading = storyworld.read(text)
    assert reading.valid == (not reading.errors) and len(reading.errors) <= len(reading.details) + 1
    assert (storyworld.log_prob(text) > -math.inf) == reading.valid
    return reading


@st.composite
def changed(draw):
    """A story with a few characters, words or sentences left out, doubled, put in or in another order."""
    text = draw(stories)
    for _ in range(draw(st.integers(1, 3))):
        unit = draw(st.sampled_from(["", " ", ". "]))
        parts = text.split(unit) if unit else list(text)
        place = draw(st.integers(0, max(0, len(parts) - 1)))
        new = draw(st.sampled_from([[], parts[place : place + 1] * 2, [draw(st.sampled_from(WORDS))],
                                    [draw(st.text(max_size=3))], draw(stories).split(". ")[:1]]))
        text = unit.join([*parts[:place], *new, *parts[place + 1 :]])
    return shuffled_words(text, draw(st.integers(0, 99))) if draw(st.integers(0, 9)) == 0 else text


@given(text=st.one_of(texts, changed(), st.lists(st.sampled_from([*WORDS, ".", ",", "I"]), max_size=80).map(" ".join)))
@example(text="")
@example(text="\ud800")
@example(text="²")
@example(text="_ _ .")
@example(text="\u0345.")
@bounded
def test_any_text(text):
    check(text)


@given(text=stories)
@bounded
def test_a_story_is_read_back(text):
    assert check(text).valid


@SLOW
@given(text=st.one_of(changed(), texts), place=st.integers(0, 400))
@example(text=STORIES[0], place=400)
@bounded
def test_any_beginning_has_a_probability(text, place):
    begun, more = storyworld.prefix_log_prob(text[:place]), storyworld.prefix_log_prob(text[: place + 1])
    assert -math.inf <= more <= begun + 1e-9 <= 1e-9


@SLOW
@given(texts=st.lists(st.one_of(texts, changed()), min_size=1, max_size=4))
@bounded
def test_any_texts_are_compared(texts):
    assert 0 <= storyworld.compare(texts, training=texts).valid <= 1


LONG = {
    "stories": " ".join(STORIES * 30), "one word": "a" * 10**5, "no full stop": "the aunt walks to the " * 5_000,
    "full stops": ". " * 50_000, "commas": ", " * 50_000, "marks": "!?" * 50_000, "spaces": " " * 10**5 + "a",
    "distinct sentences": "".join(f"a{n} b{n}. " for n in range(9_000)), "letters": "é" * 10**5,
    "sentences of known words": "".join(f"{a} {b}. " for a in WORDS[:90] for b in WORDS[:90]),
    "sentences of 60": (" ".join(WORDS[:60]) + ". ") * 250, "names": "Anna. " * 16_000, "NULs": "\0" * 10**5,
    "sixty names": ("my aunt and I walk to the harbor and " * 7 + ". ") * 300,
}


@pytest.mark.parametrize("case", LONG)
def test_a_long_text(case):
    bounded(storyworld.read)(LONG[case][: 10**5])


@pytest.mark.parametrize("begun", ["", STORIES[0][:100], STORIES[0] + " "], ids=["alone", "in a story", "behind one"])
def test_a_long_text_has_a_probability(begun):
    bounded(storyworld.prefix_log_prob)(begun + LONG["stories"][: 10**5])
