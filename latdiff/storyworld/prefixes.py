"""The exact probability that a story begins with given words, and what that says of its attributes.

It is a sum over all choices that could have made the words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product

from .frames import FRAMES, PLANS
from .grammar import (
    ATTRIBUTES,
    GENDERS,
    check_attributes,
    combinations,
    complication_clause,
    frame_options,
    outcome_clause,
    slot_values,
    weather_wordings,
)
from .lexicon import WEATHERS
from .sentences import Element, elements, indefinite, word_of

Then = Callable[[Mapping[str, str], str], float]  # (choices so far, rest of the text) -> probability
LATER = ("length", "sentiment")  # attributes that no opening shows
# Token of a frame -> the slot that its clause says.
CLAUSES = {"WCLAUSE": "weather_wording", "COMPLICATION": "complication", "OUTCOME": "outcome"}


def prefix_log_prob(words: str, **attributes: str | int) -> float:
    """Natural logarithm of the probability that a story which `sample` generates begins with a text.

    That of the rest of a story, behind first words and a space, is `log_prob(story) - prefix_log_prob(words + " ")`.

    Args:
        words: any string; the empty one has probability 1.
        **attributes: values to fix, as in `sample`; the probability is then that among such stories.

    Returns:
        Nats, at most 0; -inf where no story begins so.

    Raises:
        ValueError: for an unknown attribute or value.
    """
    fixed = check_attributes(attributes)
    later = [dict(zip(LATER, values, strict=True)) for values in product(*(
        (fixed[name],) if name in fixed else ATTRIBUTES[name] for name in LATER))]

    def then(values: Mapping[str, str], left: str) -> float:
        if not left:
            return 1.0
        return math.fsum(_sentences(PLANS[one["length"]][1:], {**values, **one}, left) for one in later) / len(later)

    early = list(combinations({**fixed, **later[0]}))
    share = math.fsum(_sentence("opening", values, words, ". ", then) for values in early) / len(early)
    return min(0.0, math.log(share)) if share else -math.inf


def prefix_posterior(words: str, attribute: str) -> dict[str, float]:
    """Probability of each value of an attribute, given that a story which `sample` generates begins with a text.

    Before the outcome both sentiments have 1/2: whoever is surer of a story's end there, a head, a plan or a model, is
    wrong by a measurable amount.

    Args:
        words: what some story begins with; with the empty string, the values have their prior.
        attribute: one of `ATTRIBUTES`.

    Returns:
        The attribute's values in their order, with probabilities that sum to 1.

    Raises:
        ValueError: for an unknown attribute, and for words that no story begins with.
    """
    values = ATTRIBUTES.get(attribute, ("",))  # of an unknown one, prefix_log_prob says what there is
    found = {value: math.exp(prefix_log_prob(words, **{attribute: value})) for value in values}
    total = math.fsum(found.values())  # the prior is uniform
    if not total:
        raise ValueError(f"no story begins with {words!r}, so that it says nothing of the {attribute}.")
    return {value: share / total for value, share in found.items()}


def _sentences(roles: tuple[str, ...], values: Mapping[str, str], left: str) -> float:
    """Probability that sentences of these roles begin with what is left of the text, given the choices so far."""
    if not left:
        return 1.0
    if not roles:
        return 0.0
    return _sentence(roles[0], values, left, ". " if roles[1:] else ".",
                     lambda chosen, rest: _sentences(roles[1:], chosen, rest))


def _sentence(role: str, values: Mapping[str, str], left: str, end: str, then: Then) -> float:
    """Probability that a sentence of a role, and what comes then, begin with what is left of the text."""
    if not left:
        return 1.0
    options = frame_options(role, values["sentiment"])
    total = 0.0
    for frame in options:
        with_frame = {**values, "opening_frame": str(frame)} if role == "opening" else values
        for sequence, chosen, share in _sequences(FRAMES[role][frame].text, with_frame):
            total += share * _words(sequence, chosen, left, end, then)
    return total / len(options)


def _sequences(frame: str, values: Mapping[str, str]) -> Iterator[tuple[tuple[Element, ...], Mapping[str, str], float]]:
    """Elements of a frame for every way to choose its clauses, the choices so far, and the share of the way."""
    slot = next((slot for token, slot in CLAUSES.items() if token in frame and slot not in values), None)
    if slot is not None:
        for chosen, share in _choices(slot, values):
            yield from ((sequence, further, share * more) for sequence, further, more in _sequences(frame, chosen))
        return
    clauses = (("WCLAUSE", lambda: values["weather_wording"]), ("WNOUN", lambda: WEATHERS[values["weather"]].noun),
               ("COMPLICATION", lambda: complication_clause(values["complication"])),
               ("OUTCOME", lambda: outcome_clause(values["outcome"])))
    used = tuple((token, clause()) for token, clause in clauses if token in frame)
    yield elements(frame, used, values["person"]), values, 1.0


def _words(sequence: tuple[Element, ...], values: Mapping[str, str], left: str, end: str, then: Then,
           place: int = 0) -> float:
    """Probability that a sentence from a place on, and what comes then, begin with what is left of the text."""
    if not left:
        return 1.0
    if place == len(sequence):
        return _behind(end, left, lambda rest: then(values, rest))
    article = sequence[place] == Element("article", "a")  # which depends on the word behind it
    element, total = sequence[place + article], 0.0
    for chosen, share in _choices(_needed(element, values), values):
        word = word_of(element, chosen)
        word = f"{indefinite(word)} {word}" if article else word
        said = word[0].upper() + word[1:] if place == 0 else word if word == "," else f" {word}"
        go_on = partial(_words, sequence, chosen, end=end, then=then, place=place + 1 + article)
        total += share * _behind(said, left, go_on)
    return total


def _behind(said: str, left: str, go_on: Callable[[str], float]) -> float:
    """What `go_on` makes of the text behind what is said; 1 where the text ends within that, 0 where it differs."""
    if left.startswith(said):
        return go_on(left[len(said) :])
    return float(said.startswith(left))


def _needed(element: Element, values: Mapping[str, str]) -> str | None:
    """The slot that has to be chosen before an element's word is known, None where it is known."""
    about = {"slot": element.value, "preposition": "place"}.get(element.kind)
    if element.kind in ("pronoun", "name") and values["person"] == "third":
        about = "name"
    return None if about in values else about


def _choices(slot: str | None, values: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], float]]:
    """The choices so far with each value of a slot, and the share of each."""
    if slot is None:
        yield values, 1.0
        return
    if slot == "weather_wording":
        options = weather_wordings(values["weather"], FRAMES["opening"][int(values["opening_frame"])])
    else:
        options = slot_values(slot, values, values)
    for value in options:
        gender = {"gender": GENDERS[value]} if slot == "name" else {}
        yield {**values, slot: value, **gender}, 1 / len(options)
