"""What a request may ask for: everything is checked here, whatever a browser or a program has sent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latdiff.config import SCHEDULERS
from latdiff.errors import UserError, as_number, check_number, nearest, shown

MOST_STEPS = 100
MOST_SAMPLES = 8
MOST_STRENGTH = 4.0  # of a slider, in usual scales
MOST_SEED = 2**31 - 1
MOST_LETTERS = 2_000  # of a text to edit, a prompt or a source text
MOST_GUIDES = 64  # heads, and values of one, that a request may name
MOST_PASTED = 200_000  # characters of examples
MOST_NAME = 40  # letters of a head's name

Strengths = dict[str, dict[str, float]]  # head -> value -> how strongly, 1 being usual


@dataclass(frozen=True)
class Wanted:
    """A request for texts, checked but for what only its checkpoint knows.

    Attributes:
        checkpoint: its name on the page.
        strengths: of the sliders that are not at 0.
        steps: denoiser evaluations; None leaves it to the checkpoint.
        sampler: one of SCHEDULERS; "" leaves it to the checkpoint.
        seed: of the noise.
        samples: how many texts.
        cond: first words, a source text or a class; "" is none.
        text: to edit; "" samples from noise.
        edit_strength: how far an edit goes towards noise.
    """

    checkpoint: str
    strengths: Strengths = field(default_factory=dict)
    steps: int | None = None
    sampler: str = ""
    seed: int = 0
    samples: int = 1
    cond: str = ""
    text: str = ""
    edit_strength: float = 0.65


def wanted_sample(checkpoint: Any, strengths: Any, steps: Any, sampler: Any, seed: Any, samples: Any,
                  cond: Any) -> Wanted:
    """A request for new texts; see Wanted. Raises UserError for what no request may ask for."""
    return Wanted(text_of("checkpoint", checkpoint, 300), strengths_of(strengths), _steps(steps), _sampler(sampler),
                  whole("seed", seed, 0, MOST_SEED), whole("number of texts", samples, 1, MOST_SAMPLES),
                  text_of("condition", cond, MOST_LETTERS).strip())


def wanted_edit(checkpoint: Any, strengths: Any, steps: Any, sampler: Any, seed: Any, text: Any,
                edit_strength: Any) -> Wanted:
    """A request to edit a text; see Wanted. Raises UserError for what no request may ask for."""
    found = wanted_sample(checkpoint, strengths, steps, sampler, seed, 1, "")
    words = " ".join(text_of("text to edit", text, MOST_LETTERS).split())
    if not words:
        raise UserError("there is no text to edit; write one, or click an example")
    if not found.strengths:
        raise UserError("an edit needs a direction; move a slider away from 0")
    far = check_number("strength of the edit", edit_strength, least=0.05, most=1)
    return Wanted(**{**vars(found), "text": words, "edit_strength": far})


def strengths_of(given: Any) -> Strengths:
    """The sliders that are not at 0, of {head: {value: strength}}. Raises UserError for anything else."""
    found: Strengths = {}
    for head, values in _few("sliders", given, 'an object such as {"sentiment": {"positive": 1}}').items():
        for value, moved in _few(f"sliders of {shown(head)}", values, 'an object such as {"positive": 1}').items():
            strength = check_number(f"slider {shown(f'{head}: {value}')}", moved, least=0, most=MOST_STRENGTH)
            if strength:
                found.setdefault(head, {})[value] = strength
    return found


def head_name(given: Any, taken: Mapping[str, Any]) -> str:
    """A name for a head that is to be fitted. Raises UserError for one that is none, or is taken."""
    name = text_of("name of the attribute", given, 10 * MOST_NAME).strip()
    if not re.fullmatch(rf"\w[\w.-]{{0,{MOST_NAME - 1}}}", name):
        raise UserError(f"the name of the attribute is {shown(name)}, must be one word of at most {MOST_NAME} letters, "
                        "digits, '_', '-' and '.'")
    if name in taken:
        raise UserError(f"this checkpoint has a head {name!r} already; give yours another name")
    return name


def text_of(name: str, value: Any, most: int) -> str:
    """A text of at most so many characters, '' for None. Raises UserError for what is none, or is longer."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"the {name} is {shown(value)}, must be a text")
    if len(value) > most:
        raise UserError(f"the {name} has {len(value):,} characters, must have at most {most:,}; shorten it")
    return value


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number, which JSON may have as 3.0. Raises UserError for what is none, or is out of range."""
    number = math.nan if isinstance(value, bool) else as_number(value)
    if not (math.isfinite(number) and number == int(number) and least <= number <= most):
        raise UserError(f"the {name} is {shown(value)}, must be a whole number from {least} to {most}")
    return int(number)


def _steps(given: Any) -> int | None:
    return None if given is None else whole("number of steps", given, 1, MOST_STEPS)


def _sampler(given: Any) -> str:
    name = text_of("sampler", given, 300)
    if name and name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise UserError(f"the sampler is {shown(name)}, must be one of {known}{nearest(name, SCHEDULERS)}")
    return name


def _few(name: str, given: Any, kind: str) -> dict[str, Any]:
    """An object with few keys. Raises UserError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise UserError(f"the {name} are {shown(given)}, must be {kind}")
    if len(given) > MOST_GUIDES:
        raise UserError(f"the {name} are {len(given):,}, must be at most {MOST_GUIDES}")
    return given
