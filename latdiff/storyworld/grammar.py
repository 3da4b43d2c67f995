"""The seeded grammar: sampling stories, counting them and their exact marginals."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from .frames import FRAMES, PLANS, Frame
from .lexicon import COMPANIONS, FEELINGS, NAMES, TIMES, WEATHERS
from .sentences import elements, render
from .topics import TOPICS, Complication

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "topic": tuple(TOPICS),
    "sentiment": ("positive", "negative"),
    "tense": ("past", "present"),
    "person": ("first", "third"),
    "length": tuple(PLANS),
    "weather": tuple(WEATHERS),
}
# attribute -> slots that have no value in common under any two of its values, and so change with it
BOUND: dict[str, tuple[str, ...]] = {
    "topic": ("place", "object", "adjective", "goal_verb", "complication", "outcome"),
    "sentiment": ("outcome", "feeling"),
    "person": ("name",),
    "length": ("goal_complication_frame", "outcome_frame", "feeling_frame"),
    "weather": ("weather_wording",),
}
T = TypeVar("T")
GENDERS = {name: gender for gender, names in NAMES.items() for name in names}
ALL_NAMES = tuple(GENDERS)
WORD_SLOTS = ("name", "companion", "time", "place", "object", "adjective", "goal_verb", "complication",
              "outcome", "feeling")


@dataclass(frozen=True)
class Story:
    """A story with the attributes it has and the choice made in every slot."""

    text: str
    attributes: dict[str, str]
    slots: dict[str, str]


def check_attributes(attributes: Mapping[str, object]) -> dict[str, str]:
    """Fixed attributes as strings.

    Raises:
        ValueError: for an attribute or a value that does not exist.
    """
    checked = {}
    for name, value in attributes.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"There is no attribute {name!r}; allowed are {', '.join(ATTRIBUTES)}"
                             f"{_nearest(name, tuple(ATTRIBUTES))}.")
        text = str(value)
        if text not in ATTRIBUTES[name]:
            raise ValueError(f"{name} was set to {value!r}; allowed are {', '.join(ATTRIBUTES[name])}"
                             f"{_nearest(text, ATTRIBUTES[name])}.")
        checked[name] = text
    return checked


def _nearest(word: str, allowed: tuple[str, ...]) -> str:
    """A hint at the allowed word that is most like the given one."""
    close = difflib.get_close_matches(word, allowed, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def sample(n: int, seed: int, **attributes: str | int) -> list[Story]:
    """Sample stories.

    Args:
        n: number of stories.
        seed: any integer.
        **attributes: values to fix, such as topic="music" or length=4; the others are uniform.

    Returns:
        n stories. Story i depends on the seed and i alone, so a shorter list is a prefix of a longer one; with an
        attribute fixed, the other choices of story i stay the same where they can.

    Raises:
        ValueError: for a negative n, a seed that is no integer, or an unknown attribute or value.
    """
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n was set to {n!r}; it must be an integer of 0 or more.")
    if not isinstance(seed, int):
        raise ValueError(f"seed was set to {seed!r}; it must be an integer.")
    fixed = check_attributes(attributes)
    return [_draw(f"storyworld {seed} {index}", fixed) for index in range(n)]


def _draw(key: str, fixed: Mapping[str, str]) -> Story:
    """The story that a key stands for."""
    uniform = random.Random(key).random
    # A number is sampled for every choice, needed or not, so that a story keeps its other choices when an
    # attribute is fixed.
    chosen = {}
    for name, values in ATTRIBUTES.items():
        sampled = _pick(values, uniform())
        chosen[name] = fixed.get(name, sampled)
    words: dict[str, str] = {}
    for slot in WORD_SLOTS:
        words[slot] = _pick(slot_values(slot, chosen, words), uniform())
    wording = uniform()
    frames = {role: _pick(frame_options(role, chosen["sentiment"]), uniform())
              for role in PLANS[chosen["length"]]}
    opening = FRAMES["opening"][frames["opening"]]
    words["weather_wording"] = _pick(weather_wordings(chosen["weather"], opening), wording)
    if "TIME" not in opening.text:
        del words["time"]
    if chosen["person"] == "first":
        del words["name"]
    slots = words | {f"{role}_frame": str(index + 1) for role, index in frames.items()}
    return Story(tell(chosen, slots), chosen, slots)


def _pick(values: Sequence[T], draw: float) -> T:
    """The value that a number from 0 to 1 falls on."""
    return values[int(draw * len(values))]


def slot_values(slot: str, attributes: Mapping[str, str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Values that a word slot can have, given the attributes and the slots before it."""
    topic = TOPICS[attributes["topic"]]
    match slot:
        case "name":
            return ALL_NAMES
        case "companion":
            return COMPANIONS
        case "time":
            return TIMES
        case "place":
            return tuple(topic.places)
        case "object":
            return topic.objects
        case "adjective":
            return topic.adjectives
        case "goal_verb":
            return topic.verbs
        case "complication":
            return tuple(f"{attributes['topic']} {index + 1}" for index in range(len(topic.complications)))
        case "outcome":
            count = len(getattr(_complication(words["complication"]), attributes["sentiment"]))
            prefix = f"{words['complication']} {attributes['sentiment']}"
            return tuple(f"{prefix} {index + 1}" for index in range(count))
        case "feeling":
            return FEELINGS[attributes["sentiment"]]
    raise KeyError(slot)


def _complication(value: str) -> Complication:
    """The complication that a slot value such as "music 3" names."""
    topic, number = value.split()
    return TOPICS[topic].complications[int(number) - 1]


def complication_clause(value: str) -> str:
    """Clause of a complication such as "music 3"."""
    return _complication(value).clause


def outcome_clause(value: str) -> str:
    """Clause of an outcome such as "music 3 positive 1"."""
    complication, sentiment, number = value.rsplit(" ", 2)
    return getattr(_complication(complication), sentiment)[int(number) - 1]


def frame_options(role: str, sentiment: str) -> tuple[int, ...]:
    """Indices of the frames of a role that suit a sentiment."""
    return tuple(index for index, frame in enumerate(FRAMES[role]) if frame.sentiment in (None, sentiment))


def weather_wordings(weather: str, opening: Frame) -> tuple[str, ...]:
    """Adjectives or clauses for the weather, whichever the opening frame takes."""
    kind = WEATHERS[weather]
    return kind.clauses if "WCLAUSE" in opening.text else kind.adjectives


def tell(attributes: Mapping[str, str], slots: Mapping[str, str]) -> str:
    """Text of the story with these attributes and slots.

    Raises:
        KeyError: for a slot that the story needs and that is missing.
    """
    values = dict(attributes) | dict(slots)
    values["gender"] = GENDERS[slots["name"]] if attributes["person"] == "third" else ""
    clauses = (("WCLAUSE", slots["weather_wording"]), ("WNOUN", WEATHERS[attributes["weather"]].noun),
               ("COMPLICATION", complication_clause(slots["complication"])),
               ("OUTCOME", outcome_clause(slots["outcome"])))
    sentences = []
    for role in PLANS[attributes["length"]]:
        frame = FRAMES[role][int(slots[f"{role}_frame"]) - 1].text
        used = tuple((token, text) for token, text in clauses if token in frame)
        sentences.append(render(elements(frame, used, attributes["person"]), values))
    return " ".join(sentences)


def combinations(fixed: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Every combination of attributes that agrees with the fixed ones; all are equally likely."""
    choices = [(fixed[name],) if name in fixed else values for name, values in ATTRIBUTES.items()]
    for values in product(*choices):
        yield dict(zip(ATTRIBUTES, values, strict=True))


def count_stories(**attributes: str | int) -> int:
    """Exact number of combinations of choices, and so of stories, with the given attributes.

    Raises:
        ValueError: for an unknown attribute or value.
    """
    total = 0
    for chosen in combinations(check_attributes(attributes)):
        openings = sum(len(weather_wordings(chosen["weather"], frame))
                       * (len(TIMES) if "TIME" in frame.text else 1) for frame in FRAMES["opening"])
        frames = math.prod(len(frame_options(role, chosen["sentiment"]))
                           for role in PLANS[chosen["length"]][1:])
        topic = TOPICS[chosen["topic"]]
        outcomes = sum(len(getattr(row, chosen["sentiment"])) for row in topic.complications)
        names = len(ALL_NAMES) if chosen["person"] == "third" else 1
        total += (openings * frames * outcomes * names * len(COMPANIONS) * len(topic.places)
                  * len(topic.objects) * len(topic.adjectives) * len(topic.verbs)
                  * len(FEELINGS[chosen["sentiment"]]))
    return total


def marginals(**attributes: str | int) -> dict[str, dict[str, float]]:
    """Exact probability of every value of every slot, given the attributes that are fixed.

    Args:
        **attributes: values to fix, as in `sample`.

    Returns:
        Slot -> value -> probability among the stories in which the slot occurs.

    Raises:
        ValueError: for an unknown attribute or value.
    """
    weights: dict[str, dict[str, float]] = {}
    for chosen in combinations(check_attributes(attributes)):
        for slot, values in _slot_probabilities(chosen).items():
            row = weights.setdefault(slot, {})
            for value, probability in values.items():
                row[value] = row.get(value, 0.0) + probability
    totals = {slot: math.fsum(row.values()) for slot, row in weights.items()}
    return {slot: {value: weight / totals[slot] for value, weight in row.items()}
            for slot, row in weights.items()}


def _slot_probabilities(chosen: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Probability of each value of each slot under one combination of attributes; a row adds up to the
    probability that the slot occurs."""
    rows: dict[str, dict[str, float]] = {}
    for slot in WORD_SLOTS:
        if slot == "outcome":
            values = tuple(value for complication in slot_values("complication", chosen, {})
                           for value in slot_values(slot, chosen, {"complication": complication}))
        else:
            values = slot_values(slot, chosen, {})
        rows[slot] = dict.fromkeys(values, 1 / len(values))
    for role in PLANS[chosen["length"]]:
        options = frame_options(role, chosen["sentiment"])
        rows[f"{role}_frame"] = {str(index + 1): 1 / len(options) for index in options}
    if chosen["person"] == "first":
        del rows["name"]
    openings = FRAMES["opening"]
    timed = sum("TIME" in frame.text for frame in openings) / len(openings)
    rows["time"] = {value: probability * timed for value, probability in rows["time"].items()}
    rows["weather_wording"] = wording = dict[str, float]()
    for frame in openings:
        wordings = weather_wordings(chosen["weather"], frame)
        for value in wordings:
            wording[value] = wording.get(value, 0.0) + 1 / len(wordings) / len(openings)
    return rows
