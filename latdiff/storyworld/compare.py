"""Comparing texts with the grammar: validity, coverage of every slot, copies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, TypeVar

from .grammar import ATTRIBUTES, check_attributes, marginals, slot_values
from .lexicon import FEELINGS
from .oracle import ERRORS, read

T = TypeVar("T")
OF_TOPIC = ("place", "object", "adjective", "goal_verb")  # slots whose values depend on the topic


@dataclass(frozen=True)
class Comparison:
    """How a set of texts compares with the grammar; see `compare`."""

    n: int
    valid: float
    errors: dict[str, float]
    attributes: dict[str, dict[str, float]]
    slot_tv: dict[str, Any]
    coherence: dict[str, Any]
    independence: dict[str, Any]
    distinct: float
    memorised: float | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and numbers, fit for JSON."""
        return asdict(self)


def compare(texts: Iterable[str], training: Iterable[str] | None = None,
            **attributes: str | int) -> Comparison:
    """Compare texts with the grammar.

    Args:
        texts: one or more.
        training: texts that they may have been copied from.
        **attributes: values that the texts should have, as in `sample`.

    Returns:
        n           number of texts
        valid       share of valid texts
        errors      kind of error -> share of texts with it (kinds that occur)
        attributes  attribute -> value -> share among the texts where it can be read
        slot_tv     "mean" and "floor" over slots and "by_slot": the total variation distance between the
                    values read in a slot and the grammar's exact marginal, the expectation of that distance
                    for as many samples of the grammar, and the number of texts where the slot can be read
                    (a slot that can be read nowhere has distance and floor 1)
        coherence   "mean" and "by_pair": of slots that the grammar ties together, such as an outcome and its
                    feeling, the share of texts whose two values go together, among those where both can be read
                    (a pair that can be read nowhere has share 0); a valid text has all of them right
        independence  "mean" and "floor" over pairs of attributes: the total variation distance between the pairs
                    of values read and the grammar's, where attributes are independent, and its expectation for as
                    many samples
        distinct    share of different texts
        memorised   share of texts found in `training`, None without it

    Raises:
        ValueError: for no texts, or an unknown attribute or value.
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
        coherence=_coherence([reading.slots for reading in readings]),
        independence=_independence([reading.attributes for reading in readings], check_attributes(attributes)),
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


def _tied(slots: Mapping[str, str]) -> dict[str, bool]:
    """Pair of slots that the grammar ties together -> whether their values go together, where both were read."""
    found = {}
    complication, outcome = slots.get("complication"), slots.get("outcome")
    if complication and outcome:
        found["complication and outcome"] = outcome.startswith(complication + " ")
    if outcome and "feeling" in slots:
        found["outcome and feeling"] = slots["feeling"] in FEELINGS[outcome.split()[-2]]
    for slot in OF_TOPIC:
        if complication and slot in slots:
            allowed = slot_values(slot, {"topic": complication.split()[0]}, {})
            found[f"complication and {slot}"] = slots[slot] in allowed
    return found


def _coherence(slots: list[dict[str, str]]) -> dict[str, Any]:
    """Share of texts with each tied pair right, and the mean over pairs."""
    names = ["complication and outcome", "outcome and feeling", *(f"complication and {slot}" for slot in OF_TOPIC)]
    read_in = [_tied(row) for row in slots]
    by_pair = {}
    for name in names:
        right = [row[name] for row in read_in if name in row]
        by_pair[name] = {"share": sum(right) / len(right) if right else 0.0, "n": len(right)}
    return {"mean": math.fsum(row["share"] for row in by_pair.values()) / len(by_pair), "by_pair": by_pair}


def _independence(attributes: list[dict[str, str]], fixed: Mapping[str, str]) -> dict[str, float]:
    """Mean distance of the pairs of free attributes from the grammar's, and its floor."""
    distances, floors = [], []
    for a, b in combinations([name for name in ATTRIBUTES if name not in fixed], 2):
        values = [(x, y) for x in ATTRIBUTES[a] for y in ATTRIBUTES[b]]
        counts = Counter((row[a], row[b]) for row in attributes if a in row and b in row)
        distances.append(total_variation(counts, dict.fromkeys(values, 1 / len(values))))
        floors.append(variation_floor(counts.total(), [1 / len(values)] * len(values)))
    pairs = max(1, len(distances))
    return {"mean": math.fsum(distances) / pairs, "floor": math.fsum(floors) / pairs}


def total_variation(counts: Mapping[T, int], probabilities: Mapping[T, float]) -> float:
    """Total variation distance between observed counts and a distribution; 1 without any count."""
    n = sum(counts.values())
    if n == 0:
        return 1.0
    values = probabilities.keys() | counts.keys()
    return math.fsum(abs(counts.get(value, 0) / n - probabilities.get(value, 0.0)) for value in values) / 2


def variation_floor(n: int, probabilities: Iterable[float]) -> float:
    """Exact expectation of the total variation distance for n independent samples; 1 for none."""
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
