"""What do the weight files of a folder hold, by their headers alone, and can a configuration be of those weights?

Nothing here allocates what a configuration asks for: a folder may come from anyone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from latdiff.errors import shown

COUNTS_PARTS = re.compile(r"(layers?|blocks?|depth)$")  # each part holds a weight or more
SIZES = re.compile(r"(^num_\w+|size|dim|width|heads|experts|d_model|d_ff|d_kv|n_embd|n_inner)$")
FREE = re.compile(r"theta|_ids?$|position|seed|base$|length|distance|window|_tokens$")  # of which nothing is built
LARGE = 10**8  # no other setting of a real model is larger than this, and than the count of its weights


class WeightsError(ValueError):
    """Files of weights that cannot be used: a reason, which the caller says of the folder."""


class Held(NamedTuple):
    """A weight in a file.

    Attributes:
        shape: of the weight.
        dtype: as safetensors names it, such as F32.
    """

    shape: tuple[int, ...]
    dtype: str


def held_in(folder: Path) -> dict[str, Held]:
    """All weights in the safetensors files of a folder, by name; no weight is read.

    Raises:
        WeightsError: Where there is no such file, and for one that is cut short or damaged.
    """
    files, found = sorted(folder.glob("*.safetensors")), {}
    for index in folder.glob("*.safetensors.index.json"):
        _refuse_elsewhere(index)
    if not files:
        raise WeightsError("there are no weights in safetensors, and only those are read, for a pickle can run code; "
                           "copy the folder again, or save the model again with save_pretrained")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, for it is no dict
                    part = opened.get_slice(name)
                    found[name] = Held(tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file.name} cannot be read ({error}); copy the folder again") from error
    return found


def count(held: Mapping[str, Held]) -> int:
    """How many numbers the weights are."""
    return sum(math.prod(weight.shape) for weight in held.values())


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of a folder as it stands in its config.json. Raises WeightsError where that is damaged."""
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"config.json cannot be read ({error}); copy the folder again") from error
    if not isinstance(given, dict):
        raise WeightsError(f"config.json holds a {type(given).__name__}, must hold settings; copy the folder again")
    return given


def refuse_sizes(config: Mapping[str, Any], held: Mapping[str, Held]) -> None:
    """Raise WeightsError for a whole number in a configuration that the weights in the files are too few for.

    Args:
        config: as `config_of` reads it.
        held: as `held_in` finds them.
    """
    weights = count(held)
    for name, value in _numbers(config):
        if COUNTS_PARTS.search(name) and value > len(held):
            raise WeightsError(f"config.json has {name} {value:,}, but its files hold {len(held):,} weights, less than "
                               "one for each; copy the folder again, or take another checkpoint")
        if value > weights and (SIZES.search(name) or (value > LARGE and not FREE.search(name))):
            raise WeightsError(f"config.json has {name} {value:,}, but its files hold but {weights:,} numbers; "
                               "copy the folder again, or take another checkpoint")


def refuse_others(wanted: Mapping[str, tuple[int, ...]], held: Mapping[str, Held]) -> None:
    """Raise WeightsError unless files hold the weights that are wanted, of those shapes, and no others.

    Args:
        wanted: the shape of each, by name.
        held: as `held_in` finds them.
    """
    lacking, more = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
    if lacking:
        raise WeightsError(f"lacks {len(lacking)} of its weights, the first is {lacking[0]}; copy it again")
    if more:
        raise WeightsError(f"holds {len(more)} weights that its config.json has no place for, the first is {more[0]}; "
                           "copy the folder again")
    for name, shape in wanted.items():
        if held[name].shape != tuple(shape):
            raise WeightsError(f"has a weight {name} of shape {list(held[name].shape)}, but its config.json asks for "
                               f"{list(shape)}; copy the folder again")


def _refuse_elsewhere(index: Path) -> None:
    """Raise WeightsError where the index of a model in several files names one that does not lie beside it."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index.name} cannot be read ({error}); copy the folder again") from error
    beside = {file.name for file in index.parent.glob("*.safetensors")}
    elsewhere = sorted(map(str, named - beside))
    if elsewhere:
        raise WeightsError(f"{index.name} names {shown(elsewhere[0], 200)}, which is no file of weights beside it; "
                           "copy the folder again")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers in a configuration, each with the name that it, or the list that it stands in, goes by."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _numbers(one, str(key))
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, name)
    elif isinstance(value, Integral) and not isinstance(value, bool):
        yield name, int(value)
