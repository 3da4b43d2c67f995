"""Means and standard deviations over seeds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any


def averaged(documents: list[dict]) -> dict:
    """Average the figures of several seeds.

    Args:
        documents: One for each seed, of the same structure.

    Returns:
        A document of that structure with the mean of each number, and the first document's value of anything else.
        `sd` has the sample standard deviations of all numbers that are not integers. One document is returned as it is.
    """
    if len(documents) == 1:
        return documents[0]
    spread = _merged(documents, _deviation)
    return _merged(documents, _mean) | {"sd": spread}


def _mean(values: list) -> float | int | str | None:
    values = [value for value in values if value is not None] or [None]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or len(set(values)) == 1:
        return values[0]
    return sum(values) / len(values)


def _deviation(values: list) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.stdev(numbers) if float in map(type, numbers) and len(numbers) > 1 else None


def _merged(values: list, of_leaves: Callable[[list], Any], absent: tuple = ()) -> Any:
    """Merge nested documents, `of_leaves` making one value of those at each leaf; where it is None, there is no leaf.

    A key that a document lacks has the values `absent` in it: none, but 0 below "errors", which lists only errors that
    occurred.
    """
    if all(isinstance(value, dict) for value in values):
        columns = {key: [one for value in values for one in ([value[key]] if key in value else absent)]
                   for value in values for key in value}
        found = {key: _merged(column, of_leaves, (0.0,) if key == "errors" else absent)
                 for key, column in columns.items()}
        return {key: value for key, value in found.items() if value is not None}
    inner = {type(value[0]) if isinstance(value, list) and value else None for value in values}
    if inner == {dict}:
        return [_merged(list(rows), of_leaves, absent) for rows in zip(*values, strict=True)]
    if inner == {int}:
        counts = [of_leaves(list(column)) for column in itertools.zip_longest(*values, fillvalue=0)]
        return None if None in counts else counts
    return of_leaves(values)
