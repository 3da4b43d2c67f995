"""How do the many texts of a corpus, and their ids, lie in little memory? One behind another, unpacked as asked for."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, overload

Row = TypeVar("Row")


class Packed(Sequence[Row], Generic[Row]):
    """N rows of any lengths in one array. A row is unpacked when it is asked for; slices and sums are as of a list.

    Args:
        rows: to begin with.
    """

    def __init__(self, rows: Iterable[Row] = ()):
        self._held, self._ends = self._empty(), array("q", [0])
        for row in rows:
            self.append(row)

    @staticmethod
    @abstractmethod
    def _empty(): ...

    @abstractmethod
    def append(self, row: Row) -> None:
        """Add a row behind the others."""

    @abstractmethod
    def _unpacked(self, held) -> Row: ...

    @property
    def lengths(self) -> array[int]:
        """What each row takes: a row of ids as many as it has."""
        return array("i", (end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place):
        rows = range(len(self))[place]
        if isinstance(rows, range):
            return [self[row] for row in rows]
        return self._unpacked(self._held[self._ends[rows] : self._ends[rows + 1]])

    def __add__(self, more: Sequence[Row]) -> Packed[Row]:
        return type(self)(row for part in (self, more) for row in part) if more else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other,
                                                                                                      strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class PackedIds(Packed[list[int]]):
    """Rows of token ids, in two bytes an id, or four, where a list of Python's integers takes forty.

    Examples:
        >>> ids = PackedIds([[5, 3, 1], [1], [70_000, 1]])
        >>> len(ids), ids[2], ids[:2], list(ids.lengths)
        (3, [70000, 1], [[5, 3, 1], [1]], [3, 1, 2])
    """

    @staticmethod
    def _empty() -> array[int]:
        return array("H")

    def append(self, row: Sequence[int]) -> None:
        try:
            self._held.extend(row)
        except OverflowError:  # an id above 65,535
            self._held = array("I", self._held[: self._ends[-1]])
            self._held.extend(row)
        self._ends.append(len(self._held))

    def _unpacked(self, held: array[int]) -> list[int]:
        return held.tolist()


class PackedTexts(Packed[str]):
    """Texts in UTF-8: a quarter less than as Python's strings, and one piece of memory in place of as many as texts.

    Examples:
        >>> texts = PackedTexts(["Ann", "naïve"])
        >>> texts[1], texts + ["Ben"] == ["Ann", "naïve", "Ben"]
        ('naïve', True)
    """

    @staticmethod
    def _empty() -> bytearray:
        return bytearray()

    def append(self, row: str) -> None:
        self._held += row.encode(errors="surrogatepass")
        self._ends.append(len(self._held))

    def _unpacked(self, held: bytearray) -> str:
        return held.decode(errors="surrogatepass")
