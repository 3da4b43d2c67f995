"""Texts cut in two between words: what a model goes on from, and what it is to write."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from latdiff.data.tokens import plain_ids

LEFT = 2  # words, at least, behind a cut


@dataclass(frozen=True)
class Split:
    """A text cut in two.

    Attributes:
        before: its first words.
        behind: the others.
    """

    before: str
    behind: str

    @property
    def text(self) -> str:
        """The whole."""
        return f"{self.before} {self.behind}"


def cut(text: str, place: int) -> Split:
    """A text cut behind its first `place` words."""
    words = text.split()
    return Split(" ".join(words[:place]), " ".join(words[place:]))


def split_texts(texts: Sequence[str], count: int, seed: int) -> list[Split]:
    """Every text cut at random places between words, one after another.

    Args:
        texts: with single spaces; those of too few words are left out.
        count: cuts a text, at different places; fewer where it has no more.
        seed: of the places, which for a text do not depend on the other texts.
    """
    found = []
    for text in texts:
        places = range(1, len(text.split()) - LEFT + 1)
        chosen = random.Random(f"{seed}/split/{text}").sample(places, min(count, len(places)))
        found += [cut(text, place) for place in chosen]
    return found


def split_ids(tokenizer, splits: Sequence[Split]) -> list[tuple[list[int], list[int]] | None]:
    """Ids of both parts as they are in the whole text, end-of-text behind it.

    None for a text that is cut within a token: after the first words its other ids could not come.
    """
    before = plain_ids(tokenizer, [one.before for one in splits], add_special_tokens=False, truncation=False)
    whole = plain_ids(tokenizer, [one.text for one in splits], add_special_tokens=False, truncation=False)
    return [(first, [*row[len(first) :], tokenizer.eos_token_id]) if row[: len(first)] == first else None
            for first, row in zip(before, whole, strict=True)]
