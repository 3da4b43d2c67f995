"""Which pipelines come with latdiff or lie here, what steers them, and what else they need?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latdiff.checkpoints import SHIPPED, folder_size
from latdiff.config.yaml_text import MOST, parsed
from latdiff.errors import printable, shortened
from latdiff.fetch import MODELS, is_here

HERE = Path("checkpoints")


@dataclass(frozen=True)
class Listed:
    """A pipeline as a list shows it.

    Attributes:
        name: what commands take: `storyworld`, `checkpoints/mine`.
        megabytes: of its folder, without what training keeps in it.
        kind: the name of its class.
        condition: what it is conditioned on: none, label, text, prefix, start, or "" where its recipe does not say.
        heads: labels by the name of their head; of a head of numbers, none.
        missing: models that it reads with, of latdiff.fetch, which are not here.
    """

    name: str
    megabytes: float
    kind: str
    condition: str
    heads: dict[str, list[str]]
    missing: list[str]


def pipelines_in(folder: Path, prefix: str = "") -> list[Listed]:
    """The finished pipelines in a folder, by name; unreadable details of one are left out, and nothing is loaded.

    Names and labels, which may come from anyone, are shortened and can be printed.
    """
    folders = sorted(index.parent for index in folder.glob("*/model_index.json"))
    return [_listed(one, f"{prefix}{one.name}") for one in folders]


def pipelines_along() -> list[Listed]:
    """Those that come with latdiff, which commands and `open_checkpoint` take by their name."""
    return pipelines_in(SHIPPED)


def pipelines_here() -> list[Listed]:
    """Those in the folder checkpoints of the working directory."""
    return pipelines_in(HERE, f"{HERE}/")


def models_here() -> dict[str, bool]:
    """Whether each model of `latdiff fetch` has been fetched."""
    return {name: is_here(name) for name in MODELS}


def _listed(folder: Path, name: str) -> Listed:
    codec, fetched = _settings(folder / "codec" / "config.json"), models_here()
    named = {str(codec.get(part)) for part in ("language_model", "encoder")}
    return Listed(
        name=printable(name), megabytes=folder_size(folder) / 1e6,
        kind=_shown(_settings(folder / "model_index.json").get("_class_name", "unknown")), condition=_condition(folder),
        heads=dict(_heads(folder)), missing=[model for model, here in fetched.items() if model in named and not here],
    )


def _heads(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for config in sorted(folder.glob("heads/*/config.json")):
        labels = _settings(config).get("labels", [])
        yield printable(config.parent.name), [_shown(label) for label in labels] if isinstance(labels, list) else []


def _condition(folder: Path) -> str:
    try:
        return str(parsed(_text(folder / "recipe.yaml"))["data"].get("condition", "none"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _settings(file: Path) -> dict[str, Any]:
    """What a JSON file says, nothing where it cannot be read."""
    try:
        return {} | json.loads(_text(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _text(file: Path) -> str:
    """The text of a file. Raises ValueError for what is none, as a pipe, and for one too long to hold settings."""
    if not file.is_file() or file.stat().st_size > MOST:
        raise ValueError(f"{file} is no file of settings")
    return file.read_text(encoding="utf-8")


def _shown(value: Any) -> str:
    return printable(shortened(str(value)))
