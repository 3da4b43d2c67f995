"""Real texts spoilt in the ways in which decoders spoil them, for a judge of well-formed English to learn from."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Spoil = Callable[[list[str], list[str], random.Random], list[str]]


def drop(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """One or two words in a row are missing."""
    start = rng.randrange(len(words))
    return words[:start] + words[start + rng.randint(1, 2) :]


def swap(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """Two neighbours change places."""
    at = rng.randrange(len(words) - 1)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def repeat(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """One to three words in a row come twice."""
    start = rng.randrange(len(words))
    end = start + rng.randint(1, 3)
    return words[:end] + words[start:]


def replace(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """One or two words are those of another text."""
    found = list(words)
    for _ in range(rng.randint(1, 2)):
        found[rng.randrange(len(found))] = rng.choice(other)
    return found


def insert(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """A word of another text has come in."""
    at = rng.randrange(len(words) + 1)
    return [*words[:at], rng.choice(other), *words[at:]]


def break_off(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """The end is missing."""
    return words[: rng.randint(max(1, len(words) // 2), len(words) - 1)]


def run_on(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """A text goes on in the middle of another one, without a mark between them."""
    half = re.sub(r"[.!?]+$", "", words[-1])
    return [*words[:-1], half, *other[len(other) // 2 :]]


def shuffle(words: list[str], other: list[str], rng: random.Random) -> list[str]:
    """Three to five words in a row are out of order."""
    start = rng.randrange(max(1, len(words) - 2))
    part = words[start : start + rng.randint(3, 5)]
    rng.shuffle(part)
    return words[:start] + part + words[start + len(part) :]


WAYS: Sequence[Spoil] = (drop, swap, repeat, replace, insert, break_off, run_on, shuffle)
LEAST = 4  # words of a text that can be spoilt


def spoilt(texts: list[str], seed: int = 0) -> list[str]:
    """Each text spoilt in one way, some in two; without those that are too short, or came out as they were."""
    rng, found = random.Random(f"spoilt/{seed}"), []
    known = set(texts)
    for text in texts:
        words, other = text.split(), rng.choice(texts).split()
        for _ in range(rng.choice((1, 1, 2))):
            if len(words) >= LEAST:
                words = rng.choice(WAYS)(words, other, rng)
        spoiled = " ".join(words)
        if len(text.split()) >= LEAST and spoiled and spoiled not in known:
            found.append(spoiled)
    return found
