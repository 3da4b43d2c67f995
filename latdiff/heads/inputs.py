"""What heads are given: labels and numbers become arrays, texts fingerprints; what no head can use is refused."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from latdiff.data.tokens import letters_of
from latdiff.errors import UserError, first_line, shown
from latdiff.heads.defaults import FEATURES


class HeadError(UserError):
    """A head that cannot be fitted, loaded or used, in one sentence."""


def check_name(name: object) -> None:
    """Raise HeadError for a name that no folder of a head can have, such as a path; it may come from anyone."""
    if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[^/\\]{1,60}", name) or not name.isprintable():
        raise HeadError(f"a head's name is {shown(name)}, must be of 1 to 60 letters that can be shown, without a "
                        "slash and with no dot in front, for its folder is called so")


def checked_labels(name: str, labels: Iterable[Any] | None, per_class: int = 1) -> np.ndarray:
    """Labels [N] as an array of texts, numbers or booleans, whichever they are.

    Args:
        name: the head's, for messages.
        labels: a list, array, tensor or series of N scalars.
        per_class: how many texts each class needs.

    Raises:
        HeadError: for a missing label (None, NaN, pandas' NA), one that is no scalar, labels of several types,
            fewer than two classes, or a class of too few texts.
    """
    values = values_of(name, labels)
    missing = [index for index, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise HeadError(
            f"head {name!r}: {len(missing)} of {len(values)} labels are missing, the first at index {missing[0]} "
            f"({shown(values[missing[0]])}); leave those texts out"
        )
    for index, value in enumerate(values):
        if not isinstance(value, (str, bool, int, float)):
            raise HeadError(
                f"head {name!r}: the label at index {index} is {shown(value)} of type {type(value).__name__}, "
                "must be a text, a number or a boolean"
            )
    kinds = sorted({"boolean" if isinstance(v, bool) else "text" if isinstance(v, str) else "number" for v in values})
    if len(kinds) > 1:
        raise HeadError(f"head {name!r}: labels are of several types ({', '.join(kinds)}); give labels of one type")
    found = np.array(values)
    for index, (value, kept) in enumerate(zip(values, found.tolist(), strict=True)):
        if value != kept or found.dtype == object:  # a NUL at its end, or too many digits
            raise HeadError(f"head {name!r}: the label at index {index} is {shown(value)}, which cannot be kept as it "
                            "is; give words, or numbers below 2**63")
    _check_classes(name, found, per_class)
    return found


def numbers_of(name: str, values: Iterable[Any] | None) -> np.ndarray:
    """Numbers [N] in float64. Raises HeadError for one that is missing, not finite or no number."""
    numbers = []
    for index, value in enumerate(values_of(name, values)):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise HeadError(f"head {name!r}: every value must be a number, the one at index {index} is {shown(value)} "
                            f"({first_line(error)})") from None
        if not math.isfinite(numbers[-1]):
            raise HeadError(f"head {name!r}: every value must be finite, the one at index {index} is {numbers[-1]}")
    return np.array(numbers)


def values_of(name: str, values: Iterable[Any] | None) -> list:
    """Python's own scalars, out of numpy, torch, pandas or a list that mixes them."""
    if values is None:
        raise HeadError(f"head {name!r}: fitting requires y to be passed, but the target y is None")
    values = np.asarray(values) if hasattr(values, "__array__") and not hasattr(values, "tolist") else values
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise HeadError(f"head {name!r}: y is {shown(values)}, must be a list with a label or number for each text")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    listed = listed if isinstance(listed, list) else [listed]  # of an array without dimensions
    return [value.item() if getattr(value, "ndim", None) == 0 else value for value in listed]


def check_features(name: str, features: str) -> None:
    """Raises HeadError for a name that is not among FEATURES."""
    if features not in FEATURES:
        raise HeadError(f"head {name!r}: features is {shown(features)}, must be one of {', '.join(FEATURES)}")


def fingerprints(texts: list[str]) -> Tensor:
    """64 bits [N] that tell texts apart by their letters and digits."""
    letters = (letters_of(text).encode("utf-8", "surrogatepass") for text in texts)
    digests = (hashlib.blake2b(one, digest_size=8).digest() for one in letters)
    return torch.tensor([int.from_bytes(digest, signed=True) for digest in digests], dtype=torch.int64)


def _is_missing(value: Any) -> bool:
    if value is None or isinstance(value, float):
        return value is None or math.isnan(value)
    return type(value).__name__ in ("NAType", "NaTType")  # pandas', which need not be installed


def _check_classes(name: str, labels: np.ndarray, per_class: int) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        found = repr(classes.tolist()[0]) if len(classes) else "none at all"
        raise HeadError(f"head {name!r}: all labels are of one class ({found}); a head needs two or more")
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise HeadError(f"head {name!r}: {str(error).split('. ')[0]}; fit a NumberHead to numbers") from None
    if min(counts) < per_class:
        by_class = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise HeadError(f"head {name!r}: every class needs {per_class} texts or more, found {by_class}")
