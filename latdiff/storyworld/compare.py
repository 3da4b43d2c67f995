"""Comparing texts with the grammar: validity, coverage of every slot, copies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .grammar import ATTRIBUTES, check_attributes, marginals
from .oracle import ERRORS, read


@dataclass(frozen=True)
class Comparison:
    """How a set of texts compares with the grammar; see `compare`."""

    n: int
    valid: float
    errors: dict[str, float]
    attributes: dict[str, dict[str, float]]
    slot_tv: dict[str, Any]
    distinct: float
    memorised: float | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and numbers, fit for JSON."""
        return asdict(self)


def compare(texts: Iterable[str], training: Iterable[str] | None = None,
            **attributes: str | int) -> Comparison:
    """Compare texts with the grammar.

    Arguments: texts, the texts to judge; training, texts that they may have been copied from;
    attributes, values that the texts were asked to have, as in `sample`.
    Returns a Comparison:
        n           number of texts
        valid       share of valid texts
        errors      kind of error -> share of texts with it (kinds that occur)
        attributes  attribute -> value -> share among the texts where it can be read
        slot_tv     "mean" and "floor" over slots and "by_slot": the total variation distance between the
                    values read in a slot and the grammar's exact marginal, the expectation of that distance
                    for as many draws from the grammar, and the number of texts where the slot can be read
                    (a slot that can be read nowhere has distance and floor 1)
        distinct    share of different texts
        memorised   share of texts found in `training`, None without it
    Raises ValueError for no texts, an unknown attribute or value.
    """
    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty; there must be at least one text to compare.")
    expected = marginals(**check_attributes(attributes))
    readings = [read(text) for text in texts]
    known = None if training is None else frozenset(training)
    kinds = Counter(kind for reading in readings for kind in reading.errors)
    return Comparison(
        n=len(texts),
        valid=sum(reading.valid for reading in readings) / len(texts),
        errors={kind: kinds[kind] / len(texts) for kind in ERRORS if kind in kinds},
        attributes={name: _shares(values, Counter(reading.attributes.get(name) for reading in readings))
                    for name, values in ATTRIBUTES.items()},
        slot_tv=_slot_distances(expected, [reading.slots for reading in readings]),
        distinct=len(set(texts)) / len(texts),
        memorised=None if known is None else sum(text in known for text in texts) / len(texts),
    )


def _shares(values: Iterable[str], counts: Mapping[str | None, int]) -> dict[str, float]:
    """Share of each value among those that were read; all zero if none was."""
    total = sum(count for value, count in counts.items() if value is not None)
    return {value: counts.get(value, 0) / total if total else 0.0 for value in values}


def _slot_distances(expected: Mapping[str, Mapping[str, float]],
                    slots: list[dict[str, str]]) -> dict[str, Any]:
    """Distance and floor of every slot, and their means."""
    by_slot = {}
    for slot, probabilities in expected.items():
        counts = Counter(row[slot] for row in slots if slot in row)
        n = counts.total()
        by_slot[slot] = {"tv": total_variation(counts, probabilities),
                         "floor": variation_floor(n, probabilities.values()), "n": n}
    return {"mean": math.fsum(row["tv"] for row in by_slot.values()) / len(by_slot),
            "floor": math.fsum(row["floor"] for row in by_slot.values()) / len(by_slot),
            "by_slot": by_slot}


def total_variation(counts: Mapping[str, int], probabilities: Mapping[str, float]) -> float:
    """Total variation distance between observed counts and a distribution; 1 without any count."""
    n = sum(counts.values())
    if n == 0:
        return 1.0
    values = probabilities.keys() | counts.keys()
    return math.fsum(abs(counts.get(value, 0) / n - probabilities.get(value, 0.0)) for value in values) / 2


def variation_floor(n: int, probabilities: Iterable[float]) -> float:
    """Exact expectation of the total variation distance for n independent draws; 1 for no draws."""
    if n == 0:
        return 1.0
    return math.fsum(_mean_deviation(n, p) for p in probabilities) / (2 * n)


def _mean_deviation(n: int, p: float) -> float:
    """E|X - np| of a binomial X: 2 v C(n, v) p^v (1 - p)^(n - v + 1) with v = floor(np) + 1 (De Moivre)."""
    if p <= 0 or p >= 1:
        return 0.0
    v = min(math.floor(n * p) + 1, n)
    log_choose = math.lgamma(n + 1) - math.lgamma(v + 1) - math.lgamma(n - v + 1)
    return 2 * v * math.exp(log_choose + v * math.log(p) + (n - v + 1) * math.log1p(-p))
