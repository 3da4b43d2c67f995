"""What evaluation asks of a synthetic corpus, and which corpora are ones: texts sampled at will, read back and judged.

    oracle = world("storyworld")
    texts = [story.text for story in oracle.sample(8, seed=0, sentiment="positive")]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from latdiff import storyworld


class SampledText(Protocol):
    """A text sampled from a world, with its attributes and its other choices, each by name."""

    @property
    def text(self) -> str: ...

    @property
    def attributes(self) -> Mapping[str, str]: ...

    @property
    def slots(self) -> Mapping[str, str]: ...


class Reading(Protocol):
    """Whether a text is valid, the kinds of error in it, and the attributes and choices that can be read."""

    @property
    def valid(self) -> bool: ...

    @property
    def errors(self) -> Sequence[str]: ...

    @property
    def attributes(self) -> Mapping[str, str]: ...

    @property
    def slots(self) -> Mapping[str, str]: ...


class Comparison(Protocol):
    """How texts compare with a world."""

    def as_dict(self) -> dict[str, Any]:
        """Figures fit for JSON, among them `valid`, `errors`, `slot_tv`, `coherence` and `independence`.

        `slot_tv` and `independence` hold a "mean" distance and its "floor", the one expected of as many real texts.
        """
        ...


class Oracle(Protocol):
    """A world of texts whose attributes are known exactly; `latdiff.storyworld` is one."""

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each attribute -> the values that it can have."""
        ...

    @property
    def bound(self) -> Mapping[str, tuple[str, ...]]:
        """Name of an attribute -> the slots that cannot stay as they are when it changes; it may be absent."""
        ...

    def sample(self, n: int, seed: int, **fixed: str) -> Sequence[SampledText]:
        """Sample texts.

        Args:
            n: how many.
            seed: any integer; the same seed draws the same texts.
            **fixed: attributes that all the texts are to have; the others are sampled.

        Returns:
            n texts with their attributes.

        Raises:
            ValueError: for an attribute or a value that does not exist.
        """
        ...

    def read(self, text: str) -> Reading:
        """Read the attributes off any text.

        Args:
            text: any string.

        Returns:
            Whether the text is valid, what is wrong with it, and its attributes; those that cannot be read are absent.
        """
        ...

    def compare(self, texts: Iterable[str], **asked: str) -> Comparison:
        """Compare texts with the world's own.

        Args:
            texts: at least one.
            **asked: attributes that the texts were asked to have.

        Returns:
            Figures of the texts, beside the floors that as many real texts have.

        Raises:
            ValueError: for no texts, or an attribute or a value that does not exist.
        """
        ...

    def log_prob(self, text: str) -> float:
        """Exact log-probability of a text.

        Args:
            text: any string.

        Returns:
            Nats; -inf for a text that is not valid.
        """
        ...


WORLDS: dict[str, Oracle] = {"storyworld": storyworld}


def world(name: str) -> Oracle | None:
    """The oracle of a source of data.

    Args:
        name: of the source, as in a recipe's `data.source`.

    Returns:
        Its oracle, or None for texts that have none.
    """
    return WORLDS.get(name)
