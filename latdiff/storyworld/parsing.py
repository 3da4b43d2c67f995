"""From raw text to sentences, each matched with a sentence of the grammar where there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .index import ARTICLES, Index, Pattern

TOKEN = re.compile(r"\w+|[^\w\s]")
ODD_SPACE = re.compile(r"^\s|\s$|\s\s|[^\S ]|\s[,.]")
LONGEST = 60  # words; a longer run of words without a full stop is not searched for hidden sentences


@dataclass
class Sentence:
    """One sentence of a text, in lower case."""

    tokens: list[str]  # words and commas
    closed: bool  # ends in a full stop
    pattern: Pattern | None = None
    role: str | None = None  # also known for the beginning of a sentence
    cut: bool = False  # the beginning of a sentence of the grammar

    @property
    def words(self) -> list[str]:
        """The words without commas."""
        return [token for token in self.tokens if token != ","]

    @property
    def content(self) -> list[str]:
        """The words without commas and articles."""
        return [token for token in self.tokens if token != "," and token not in ARTICLES]


def surface_errors(text: str, tokens: list[str], known: Index) -> list[tuple[str, str]]:
    """Errors of spacing, case, punctuation and vocabulary, as (kind, detail)."""
    found = []
    odd = [token for token in tokens if not token[0].isalnum() and token[0] not in "_,."]
    for token in dict.fromkeys(odd):
        found.append(("punctuation", f"The mark {token!r} does not belong in a story."))
    # Where the space belongs is known for commas and full stops only.
    joined = " ".join(tokens).replace(" ,", ",").replace(" .", ".")
    if ODD_SPACE.search(text) if odd else joined != text:
        found.append(("spacing", "Words are not separated by exactly one space."))
    start = True
    for token in tokens:
        word = token.lower()
        if word in known.classes:
            expected = known.capitals.get(word, word)
            expected = expected[0].upper() + expected[1:] if start else expected
            if token != expected:
                found.append(("case", f"{token!r} should be {expected!r}."))
        elif token[0].isalnum() or token[0] == "_":
            found.append(("unknown_word", f"{token!r} is no word of this world."))
        start = token == "."
    return found


def split_sentences(tokens: list[str], known: Index) -> tuple[list[Sentence], list[tuple[str, str]]]:
    """Sentences of a text with their patterns, and errors of full stops as (kind, detail)."""
    sentences: list[Sentence] = []
    found = []
    current: list[str] = []
    for token in tokens:
        if token == ".":
            if current:
                sentences.append(_match(Sentence(current, True), known))
            else:
                found.append(("punctuation", "There is a full stop without a sentence."))
            current = []
        elif token == "," or token[0].isalnum() or token[0] == "_":
            current.append(token.lower())
    if current:
        sentences.append(_match(Sentence(current, False), known))
    return _repair_stops(sentences, known, found), found


def _match(sentence: Sentence, known: Index) -> Sentence:
    """Fill in the pattern and the role of a sentence."""
    key = known.key(sentence.words)
    sentence.pattern = known.patterns.get(key) if key else None
    if sentence.pattern:
        sentence.role = sentence.pattern.role
        return sentence
    # The last word may itself be cut in two.
    begun = key if key is not None else known.key(sentence.words[:-1])
    pattern = known.starting_with(begun) if begun else None
    if pattern:
        sentence.role, sentence.cut = pattern.role, True
    return sentence


def _repair_stops(sentences: list[Sentence], known: Index, found: list[tuple[str, str]]) -> list[Sentence]:
    """Part sentences that run together and join one that a full stop tears apart, noting the errors."""
    repaired: list[Sentence] = []
    for sentence in sentences:
        parts = None if sentence.pattern else _part(sentence, known)
        joined = None
        if not parts and not sentence.pattern and repaired and not repaired[-1].pattern:
            joined = _match(Sentence(repaired[-1].tokens + sentence.tokens, sentence.closed), known)
        if parts:
            found.append(("punctuation", "Two sentences run together without a full stop."))
            repaired.extend(parts)
        elif joined and joined.pattern:
            found.append(("punctuation", "A full stop stands in the middle of a sentence."))
            repaired[-1] = joined
        else:
            repaired.append(sentence)
    return repaired


def _part(sentence: Sentence, known: Index) -> tuple[Sentence, Sentence] | None:
    """The two sentences of the grammar that this one consists of, if there are such."""
    if len(sentence.tokens) > LONGEST or known.key(sentence.words) is None:
        return None
    for position in range(1, len(sentence.tokens)):
        key = known.key([token for token in sentence.tokens[:position] if token != ","])
        # A part may not end in an article or a comma: those belong to what follows.
        if key in known.patterns and sentence.tokens[position - 1] not in (*ARTICLES, ","):
            rest = _match(Sentence(sentence.tokens[position:], sentence.closed), known)
            if rest.pattern:
                return _match(Sentence(sentence.tokens[:position], True), known), rest
    return None
