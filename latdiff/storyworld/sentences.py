"""Sentences as sequences of elements: from a frame to elements, and from elements to words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from .lexicon import PRONOUNS, verb_forms
from .topics import TOPICS

# Tokens that stand for a word chosen from a list, and the slot that the choice fills.
SLOT_TOKENS = {"PLACE": "place", "OBJ": "object", "ADJ": "adjective", "GVERB": "goal_verb", "TIME": "time",
               "WADJ": "weather_wording", "FEEL": "feeling", "KIN": "companion"}
SHORTHANDS = {"COMP": "HIS KIN", "ATPLACE": "PREP the PLACE", "AOBJ": "a ADJ OBJ"}
PREPOSITIONS = {place: preposition for topic in TOPICS.values()
                for place, preposition in topic.places.items()}
VERB_SUBJECTS = {"P": "protagonist", "s": "third", "p": "plural"}
CAPITALIZED = re.compile(r"[A-Z]")


class Element(NamedTuple):
    """One word or comma of a sentence: its kind, the word, case, slot or lemma, and a verb's subject."""

    kind: str  # word, comma, article, verb, pronoun, name, preposition or slot
    value: str = ""
    subject: str = ""


@cache
def elements(frame: str, clauses: tuple[tuple[str, str], ...], person: str) -> tuple[Element, ...]:
    """Elements of a frame, without its full stop.

    `clauses` gives the text for WCLAUSE, WNOUN, COMPLICATION and OUTCOME as (token, text) pairs.
    """
    text = frame.removesuffix(" .")
    for token, clause in clauses:
        text = text.replace(token, clause)
    first = person == "first"
    text = text.replace("BOTH", "COMP and NAME" if first else "NAME and COMP")
    text = text.replace("NAMEO", "HIM" if first else "NAME")
    for token, expansion in SHORTHANDS.items():
        text = re.sub(rf"\b{token}\b", expansion, text)
    return tuple(_element(token) for token in text.split())


def _element(token: str) -> Element:
    """Element of one token of a frame."""
    if token in SLOT_TOKENS:
        return Element("slot", SLOT_TOKENS[token])
    if token == ",":
        return Element("comma", token)
    if token in ("a", "the"):
        return Element("article", token)
    if token in ("NAME", "PREP"):
        return Element({"NAME": "name", "PREP": "preposition"}[token])
    if token.lower() in PRONOUNS and token.isupper():
        return Element("pronoun", token.lower())
    if "/" in token:
        lemma, subject = token.split("/")
        return Element("verb", lemma, VERB_SUBJECTS[subject])
    if CAPITALIZED.search(token):
        raise ValueError(f"The frame token {token!r} has no meaning.")
    return Element("word", token)


def render(sequence: tuple[Element, ...], values: Mapping[str, str]) -> str:
    """Text of one sentence; `values` holds tense, person, gender and the slots that the elements name."""
    words = [word_of(element, values) for element in sequence]
    _choose_articles(sequence, words)
    text = " ".join(words).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


def word_of(element: Element, values: Mapping[str, str]) -> str:
    """The word or comma of one element; "a" is not yet chosen to be "a" or "an"."""
    kind, value = element.kind, element.value
    person = values["person"]
    if kind == "slot":
        return values[value]
    if kind == "verb":
        return verb_forms(value)[values["tense"], person if element.subject == "protagonist" else element.subject]
    if kind == "pronoun":
        word = PRONOUNS[value][person if person == "first" else values["gender"]]
        return "I" if word == "i" else word
    if kind == "name":
        return "I" if person == "first" else values["name"]
    if kind == "preposition":
        return PREPOSITIONS[values["place"]]
    return value


def _choose_articles(sequence: tuple[Element, ...], words: list[str]) -> None:
    """Turn "a" into "an" where the next word asks for it."""
    for index, element in enumerate(sequence):
        if element.kind == "article" and element.value == "a":
            words[index] = indefinite(words[index + 1])


def indefinite(word: str) -> str:
    """The indefinite article before a word of this vocabulary."""
    return "an" if word[0] in "aeiou" else "a"
