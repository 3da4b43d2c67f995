"""Does the model_index.json of a folder name only parts and classes that may be opened?

diffusers imports what it names, and a folder may come from anyone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from latdiff.checkpoints import SHIPPED, CheckpointError
from latdiff.errors import first_line, nearest, shown

LIBRARIES = ("latdiff", "diffusers", "transformers")
MOST_STEPS = 100_000  # of a noise schedule, or to sample in: far more than any has


def check_finished(folder: Path) -> None:
    """Raise CheckpointError for a folder that is none or holds no pipeline, with those that are beside it."""
    if (folder / "model_index.json").exists():
        return
    beside, along = ([p.parent.name for p in sorted(place.glob("*/model_index.json"))]
                     for place in (folder.parent, SHIPPED))
    raise CheckpointError(
        f"{folder} holds no finished pipeline (no model_index.json){nearest(folder.name, beside + along)}; finished"
        f" ones beside it: {', '.join(beside) or 'none'}; with latdiff come: {', '.join(along)}. Train one with "
        "`latdiff train-diffusion`."
    )


def check_index(folder: Path) -> dict[str, list]:
    """Parts that a pipeline's folder names, each with its library and class.

    Args:
        folder: that holds a model_index.json.

    Raises:
        CheckpointError: For what `named_parts` refuses, and for a noise schedule of absurdly many steps.
    """
    parts = named_parts(folder)
    if (folder / "scheduler").is_dir():
        check_schedule(folder / "scheduler")
    return parts


def named_parts(folder: Path) -> dict[str, list]:
    """As `check_index`, without a look at the parts.

    Args:
        folder: that holds a model_index.json.

    Raises:
        CheckpointError: For an index that is damaged, a part that is no name, a class of another library that the
            program has not itself imported, one that would look for code, and absurdly many steps to sample in.
    """
    index = folder / "model_index.json"
    named = _read(index)
    if not isinstance(named.get("_class_name"), str):
        raise CheckpointError(f"{index} names the class {shown(named.get('_class_name'))}, must be one of latdiff's, "
                              "which runs no code of a checkpoint")
    parts = {part: value for part, value in named.items() if isinstance(value, list) and value[:1] != [None]}
    for part, value in parts.items():
        if not part.isidentifier():
            raise CheckpointError(f"{index} names a part {shown(part)}, must be the name of a folder beside it; copy "
                                  "the checkpoint again, or take another")
        if len(value) != 2 or not all(isinstance(one, str) for one in value) or value[1].startswith(("Auto", "_")):
            raise CheckpointError(f"{index} says that {part} is {shown(value)}, must be a library and a class of "
                                  "it; copy the checkpoint again, or take another")
        library = value[0].partition(".")[0] if value[0].startswith("latdiff.") else value[0]
        if library not in LIBRARIES and library not in sys.modules:
            raise CheckpointError(f"{index} says that {part} is of {library}, which is none of {', '.join(LIBRARIES)}; "
                                  "latdiff imports no other: where it is your own, import it first")
    _check_steps(index, named, "num_inference_steps")
    return parts


def check_schedule(folder: Path) -> None:
    """Raise CheckpointError for a scheduler's folder that is damaged, or has absurdly many steps."""
    file = folder / "scheduler_config.json"
    _check_steps(file, _read(file), "num_train_timesteps")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; copy the folder again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {first_line(error)}; copy the folder again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} is cut short or damaged: it holds a {type(found).__name__}; copy the folder "
                              "again")
    return found


def _check_steps(file: Path, settings: dict[str, Any], name: str) -> None:
    steps = settings.get(name, 1)
    if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise CheckpointError(f"{file} has {name} {shown(steps)}, must be a whole number from 1 to {MOST_STEPS:,}; "
                              "copy the checkpoint again, or take another")
