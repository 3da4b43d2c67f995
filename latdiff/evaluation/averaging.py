"""Documents of several seeds become one of means and standard deviations."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any


def averaged(documents: list[dict]) -> dict:
    """One document of several seeds' alike ones: means in place of numbers, and under `sd` their standard deviations.

    Those of the sample, in the same tree, for all that is no whole number. Of texts and of other words the first
    document's stay. A single document is left as it is.
    """
    if len(documents) == 1:
        return documents[0]
    spread = _merged(documents, _deviation)
    return _merged(documents, _mean) | {"sd": spread}


def _mean(values: list) -> float | int | str | None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or len(set(values)) == 1:
        return values[0]
    return sum(values) / len(values)


def _deviation(values: list) -> float | None:
    return statistics.stdev(values) if float in map(type, values) and len(values) > 1 else None


def _merged(values: list, of_leaves: Callable[[list], Any], absent: tuple = ()) -> Any:
    """The tree that all of `values` are, with one value for the values at every leaf; None leaves a leaf out.

    `absent` stands for what one of them lacks: nothing, but [0] below "errors", for those that no text of a seed had.
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
