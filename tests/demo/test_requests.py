"""What a request may ask for, and what is said of anything else."""

import math

import pytest

from latdiff.demo.requests import Wanted, head_name, wanted_edit, wanted_sample
from latdiff.errors import UserError

USUAL = {"checkpoint": "tiny", "strengths": {}, "steps": 5, "sampler": "", "seed": 0, "samples": 2, "cond": ""}


def test_sliders_at_zero_are_no_guides_and_whole_numbers_may_be_floats():
    given = USUAL | {"strengths": {"tone": {"good": 0, "bad": 1.5}, "topic": {"art": 0}}, "steps": 5.0, "samples": 2.0}
    assert wanted_sample(**given) == Wanted("tiny", {"tone": {"bad": 1.5}}, 5, "", 0, 2, "")
    assert wanted_sample(**USUAL | {"steps": None, "strengths": None, "cond": None}).steps is None


@pytest.mark.parametrize(("name", "value", "said"), [
    ("checkpoint", 3, "checkpoint is 3, must be a text"),
    ("strengths", [1], "must be an object"),
    ("strengths", {"tone": 1}, "must be an object"),
    ("strengths", {"tone": {"good": math.nan}}, "'tone: good' is nan"),
    ("strengths", {"tone": {"good": 4.1}}, "at most 4"),
    ("strengths", {"tone": {"good": -1}}, "at least 0"),
    ("strengths", {"tone": {"good": None}}, "must be a number"),
    ("strengths", {str(i): {} for i in range(65)}, "at most 64"),
    ("steps", 101, "from 1 to 100"),
    ("steps", 2.5, "a whole number"),
    ("steps", True, "a whole number"),
    ("sampler", "dpm", "did you mean"),
    ("seed", math.inf, "is inf"),
    ("seed", "1", "is '1'"),
    ("samples", 9, "from 1 to 8"),
    ("cond", "x" * 2001, "2,001 characters"),
])
def test_what_no_request_may_ask_for_is_refused_in_a_sentence(name, value, said):
    with pytest.raises(UserError) as error:
        wanted_sample(**USUAL | {name: value})
    assert said in str(error.value)


@pytest.mark.parametrize(("text", "strengths", "far", "said"), [
    ("  ", {"tone": {"good": 1}}, 0.5, "no text to edit"),
    ("A text.", {"tone": {"good": 0}}, 0.5, "move a slider"),
    ("A text.", {"tone": {"good": 1}}, 0, "strength of the edit"),
    ("x" * 2001, {"tone": {"good": 1}}, 0.5, "at most 2,000"),
])
def test_an_edit_needs_a_text_a_direction_and_a_strength(text, strengths, far, said):
    with pytest.raises(UserError, match=said):
        wanted_edit("tiny", strengths, 5, "", 0, text, far)
    assert wanted_edit("tiny", {"tone": {"good": 1}}, 5, "", 0, " A \n text. ", 0.5).text == "A text."


@pytest.mark.parametrize("name", ["", "two words", "../up", "x" * 41, None, 3, "sentiment"])
def test_a_head_has_one_word_that_is_not_taken_for_a_name(name):
    with pytest.raises(UserError):
        head_name(name, {"sentiment": None})
    assert head_name(" tone-2 ", {"sentiment": None}) == "tone-2"
