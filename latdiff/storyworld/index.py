"""The sentences of the grammar, filed so that a reader finds one whatever its tense, person or nouns are.

Every word belongs to a class (all forms of a verb are one class, all names and subject pronouns of the
protagonist another, all objects of all topics another). A sentence is filed under the classes of its
words, without articles and commas; so a sentence with one wrong form is still found and the wrong form seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from .frames import FRAMES
from .grammar import ALL_NAMES, complication_clause, outcome_clause, slot_values
from .lexicon import COMPANIONS, FEELINGS, PRONOUNS, TIMES, WEATHERS, verb_forms
from .sentences import PREPOSITIONS, Element, elements
from .topics import TOPICS

ARTICLES = ("a", "an", "the")
PRONOUN_CLASSES = {"he": "~subject", "him": "~him", "his": "~him", "they": "~they", "them": "~them"}


@dataclass(frozen=True)
class Pattern:
    """A sentence of the grammar before words are filled in."""

    role: str
    frame: int
    choices: dict[str, str]  # slots that the wording itself decides; "weather" for the weather
    elements: tuple[Element, ...]
    content: tuple[Element, ...]  # the elements without articles and commas


@dataclass
class Index:
    """All patterns by key, and what is known about single words."""

    patterns: dict[str, Pattern] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    verbs: dict[str, tuple[str, str]] = field(default_factory=dict)  # form -> (lemma, tense)
    slots: dict[str, dict[str, str]] = field(default_factory=dict)  # slot -> lower case -> value
    topics: dict[str, dict[str, str]] = field(default_factory=dict)  # slot -> value -> topic
    topic_words: dict[str, str] = field(default_factory=dict)  # words of one topic only
    weather_words: dict[str, str] = field(default_factory=dict)
    feelings: dict[str, str] = field(default_factory=dict)
    capitals: dict[str, str] = field(default_factory=dict)

    def key(self, words: Sequence[str]) -> str | None:
        """Key of a sentence of lower-case words, None where a word is unknown."""
        found = [self.classes.get(word, "") for word in words if word not in ARTICLES]
        return " ".join(found) if all(found) else None

    def slot_of(self, word: str) -> str | None:
        """The slot that a word can fill, names left out; None for a word of no slot."""
        slot = self.classes.get(word, "")
        return slot[1:] if slot.startswith("~") and slot[1:] in self.slots else None

    def starting_with(self, key: str) -> Pattern | None:
        """A pattern that begins with this key and goes on, if there is one."""
        position = bisect_left(self.keys, key + " ")
        if position < len(self.keys) and self.keys[position].startswith(key + " "):
            return self.patterns[self.keys[position]]
        return None


@lru_cache(maxsize=1)
def story_index() -> Index:
    """The index of the grammar, built once."""
    built = Index()
    _file_words(built)
    sequences = list(_sequences())
    for _, _, _, sequence in sequences:
        _file_verbs(built, sequence)
    for _, _, _, sequence in sequences:
        for element in sequence:
            if element.kind == "word":
                built.classes.setdefault(element.value, element.value)
    for role, frame, choices, sequence in sequences:
        content = tuple(element for element in sequence if element.kind not in ("article", "comma"))
        key = " ".join(_element_class(built, element) for element in content)
        built.patterns.setdefault(key, Pattern(role, frame, choices, sequence, content))
    built.keys = sorted(built.patterns)
    _file_topic_words(built)
    return built


def _sequences() -> Iterator[tuple[str, int, dict[str, str], tuple[Element, ...]]]:
    """Every sentence of the grammar: role, frame number, what its wording decides, elements."""
    for role, frames in FRAMES.items():
        for number, frame in enumerate(frames):
            for clauses, choices in _clause_choices(frame.text):
                for person in ("third", "first"):
                    yield role, number, choices, elements(frame.text, clauses, person)


def _clause_choices(text: str) -> Iterator[tuple[tuple[tuple[str, str], ...], dict[str, str]]]:
    """Ways to fill the clauses of a frame, each with the slots that this decides."""
    rows: list[tuple[tuple[tuple[str, str], ...], dict[str, str]]] = [((), {})]
    for token, options in _clause_options().items():
        if token in text:
            rows = [((*clauses, (token, clause)), choices | decided)
                    for clauses, choices in rows for clause, decided in options]
    yield from rows


@lru_cache(maxsize=1)
def _clause_options() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Texts of each kind of clause, with the slots that each decides."""
    complications = [value for topic in TOPICS for value in slot_values("complication", {"topic": topic}, {})]
    outcomes = [value for complication in complications for sentiment in FEELINGS
                for value in slot_values("outcome", {"topic": complication.split()[0],
                                                     "sentiment": sentiment}, {"complication": complication})]
    return {
        "WCLAUSE": [(clause, {"weather": name, "weather_wording": clause})
                    for name, weather in WEATHERS.items() for clause in weather.clauses],
        "WNOUN": [(weather.noun, {"weather": name}) for name, weather in WEATHERS.items()],
        "COMPLICATION": [(complication_clause(value), {"complication": value}) for value in complications],
        "OUTCOME": [(outcome_clause(value), {"outcome": value}) for value in outcomes],
    }


def _file_words(built: Index) -> None:
    """File names, pronouns, articles and the values of word slots."""
    for row in PRONOUNS:
        for word in PRONOUNS[row].values():
            built.classes[word] = PRONOUN_CLASSES[row]
    built.slots["name"] = {name.lower(): name for name in ALL_NAMES}
    built.slots["companion"] = {word: word for word in COMPANIONS}
    built.slots["time"] = {word.lower(): word for word in TIMES}
    built.slots["feeling"] = {word: word for words in FEELINGS.values() for word in words}
    built.slots["weather_wording"] = {word: word for row in WEATHERS.values() for word in row.adjectives}
    built.weather_words = {word: name for name, row in WEATHERS.items()
                           for word in (row.noun, *row.adjectives)}
    built.feelings = {word: sentiment for sentiment, words in FEELINGS.items() for word in words}
    for name, topic in TOPICS.items():
        rows = {"place": topic.places, "object": topic.objects, "adjective": topic.adjectives,
                "goal_verb": topic.verbs}
        for slot, words in rows.items():
            built.slots.setdefault(slot, {}).update((word, word) for word in words)
            built.topics.setdefault(slot, {}).update((word, name) for word in words)
    for slot, values in built.slots.items():
        for word in values:
            built.classes[word] = "~subject" if slot == "name" else f"~{slot}"
    for word in PREPOSITIONS.values():
        built.classes[word] = "~preposition"
    built.capitals = {"i": "I"} | {word: value for slot in ("name", "time")
                                   for word, value in built.slots[slot].items() if word != value}
    built.classes.update(dict.fromkeys(ARTICLES, "~article"))


def _file_verbs(built: Index, sequence: tuple[Element, ...]) -> None:
    """File all forms of the verbs of a sentence."""
    for element in sequence:
        if element.kind == "verb" and element.value not in built.verbs:
            for (tense, _), form in verb_forms(element.value).items():
                built.verbs[form] = element.value, tense
                built.classes[form] = f"~verb {element.value}"


def _element_class(built: Index, element: Element) -> str:
    """Class of the words that an element stands for."""
    match element.kind:
        case "verb":
            return f"~verb {element.value}"
        case "pronoun":
            return PRONOUN_CLASSES[element.value]
        case "name":
            return "~subject"
        case "preposition":
            return "~preposition"
        case "slot":
            return f"~{element.value}"
    return built.classes[element.value]


def _file_topic_words(built: Index) -> None:
    """File the words that occur in one topic and nowhere else."""
    homes: dict[str, set[str]] = {}
    for pattern in built.patterns.values():
        home = next((pattern.choices[slot].split()[0] for slot in ("complication", "outcome")
                     if slot in pattern.choices), "")
        for element in pattern.content:
            if element.kind == "word":
                homes.setdefault(element.value, set()).add(home)
    common = {element.value for row in FRAMES.values() for frame in row
              for element in elements(frame.text, tuple((token, "") for token in _clause_options()), "third")}
    for word, topics in homes.items():
        if len(topics) == 1 and word not in common and built.classes[word] == word:
            built.topic_words[word] = next(iter(topics))
    for values in built.topics.values():
        for word, topic in values.items():
            if word not in common and homes.get(word, {topic}) == {topic}:
                built.topic_words[word] = topic
    built.topic_words = {word: topic for word, topic in built.topic_words.items() if topic}
