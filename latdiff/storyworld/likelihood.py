"""The exact probability of a story: every choice that the grammar makes is uniform, and the oracle reads them all."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .frames import FRAMES, PLANS
from .grammar import ATTRIBUTES, WORD_SLOTS, frame_options, slot_values, weather_wordings
from .oracle import Reading, read


def log_prob(text: str) -> float:
    """Natural logarithm of the probability that `sample` generates a text when no attribute is fixed.

    Its mean over stories is minus the entropy of the grammar, 33.0 nats a story: the least that any model of
    storyworld can reach on unseen stories.

    Args:
        text: any string.

    Returns:
        Nats, below 0; -inf for a text that is no story of this world.
    """
    reading = read(text)
    return -math.fsum(math.log(count) for count in _option_counts(reading)) if reading.valid else -math.inf


def _option_counts(reading: Reading) -> Iterator[int]:
    """Number of equally likely options of every choice that shows in a valid story."""
    attributes, slots = reading.attributes, reading.slots
    yield from map(len, ATTRIBUTES.values())
    for slot in WORD_SLOTS:
        if slot in slots:  # the first person has no name, some opening frames have no time
            yield len(slot_values(slot, attributes, slots))
    for role in PLANS[attributes["length"]]:
        yield len(frame_options(role, attributes["sentiment"]))
    yield len(weather_wordings(attributes["weather"], FRAMES["opening"][int(slots["opening_frame"]) - 1]))
