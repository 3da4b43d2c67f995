"""How does what sampling needs of a checkpoint come into a folder of its own, whole or not at all?"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from latdiff.checkpoints import CONFIGURATIONS, CheckpointError, links_out, settings_of, without_path
from latdiff.config.reading import read_settings
from latdiff.errors import first_line
from latdiff.storage import plain_refusal, sync

PUBLISHED = ("model_index.json", "heads", "recipe.yaml", "metrics.json", "metrics.jsonl", "versions.json", "README.md",
             "checksums.txt")  # beside the parts
PICTURES = "metrics-*.png"
WORDS = ("text_column", "condition_column", "classes", "splits", "judged_as_good")  # settings that are no paths


def publish(folder: Path, output: Path, *more: Callable[[Path], Any]) -> None:
    """Copy what sampling needs of a finished pipeline, with matrices in half precision.

    Vectors, such as biases and the statistics of the whitening, stay in float32, and so do weights that float16 cannot
    hold. What is opened from the copy computes in float32 as before. Of paths in the recipe and in the figures, which
    would lead nowhere elsewhere, the last names stay.

    The copy is made beside the output and then takes its name: what fails or is stopped leaves nothing there.

    Args:
        folder: of a pipeline.
        output: a folder that does not exist.
        *more: each writes further files into the copy, whose path it is given, such as a card.

    Raises:
        CheckpointError: Where there is no finished pipeline, a file of it is damaged, the output exists or lies in the
            folder, or a link leads out of the folder or to a folder.
        RecipeError: For a recipe that is damaged.
        StorageError: For a full disk, and for a place that cannot be written into.
    """
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} holds no finished pipeline (no model_index.json); train it to the end")
    if os.path.lexists(output):
        raise CheckpointError(f"{output} exists; name a folder that does not, or delete it")
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):
        raise CheckpointError(f"{output} would lie in {folder} itself; name a folder outside of it")
    _refuse_links(folder)
    files = list(_files(folder))
    with plain_refusal(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".publishing-") as beside:
            copy = Path(beside, output.name)
            for file in files:
                target = copy / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(file, target, at_top=file.parent == folder)
            for write in more:
                write(copy)
            for file in [file for file in copy.rglob("*") if file.is_file()]:
                sync(file)
            os.rename(copy, output)


def _files(folder: Path) -> Iterator[Path]:
    """The files of a pipeline, without whatever is no part of it, such as a file of texts."""
    index = settings_of(folder / "model_index.json")
    kept = {name for name, part in index.items() if isinstance(part, list)} | {*PUBLISHED}
    for file in sorted(folder.rglob("*")):
        top = file.relative_to(folder).parts[0]
        if top not in kept and not fnmatch.fnmatch(top, PICTURES):
            continue
        if file.is_file() and os.access(file, os.R_OK):
            yield file
        elif file.is_symlink() or not file.is_dir() or not os.access(file, os.R_OK | os.X_OK):
            what = f"a link to {os.readlink(file)}" if file.is_symlink() else "no file that may be read"
            raise CheckpointError(f"{file} is {what}, and cannot be published; put a copy of what is meant in its "
                                  "place, or delete it")


def _refuse_links(folder: Path) -> None:
    """Raise CheckpointError for a link to what lies elsewhere, which a copy would hold."""
    for file in links_out(folder):
        raise CheckpointError(f"{file} is a link to {os.path.realpath(file)}, outside the checkpoint, and would be "
                              "published; put a copy in its place, or delete it")


def _write(file: Path, target: Path, at_top: bool) -> None:
    """Write what is published of a file of a pipeline."""
    if file.suffix == ".safetensors":
        _write_halved(file, target)
    elif file.name in CONFIGURATIONS or (at_top and file.name in ("recipe.yaml", "metrics.json")):
        try:
            target.write_text(_for_others(file), encoding="utf-8")
        except (RecursionError, UnicodeEncodeError) as error:
            raise CheckpointError(f"{file} is damaged: {first_line(error)}; copy the folder again") from None
    else:
        shutil.copyfile(file, target)


def _for_others(file: Path) -> str:
    """The text of a configuration, recipe or document of figures, without paths of this machine."""
    if file.name == "recipe.yaml":
        return str(yaml.safe_dump(_with_names(read_settings(file, saved=True), WORDS), sort_keys=False))
    if file.name == "metrics.json":
        figures = settings_of(file)
        rows = [key for key, value in figures.items() if isinstance(value, list)]  # of what was said, and asked for
        return json.dumps(_with_names(figures, rows), indent=2) + "\n"
    return without_path(file)


def _write_halved(file: Path, target: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        tensors, most = load_file(file), torch.finfo(torch.float16).max
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {first_line(error)}; copy the folder again") from error
    large = {name for name, one in tensors.items()
             if one.dtype == torch.float32 and one.dim() > 1 and one.numel() and one.abs().max() < most}
    save_file({name: one.half() if name in large else one for name, one in tensors.items()}, target,
              metadata={"format": "pt"})


def _with_names(value: Any, words: Collection[str]) -> Any:
    """The value with the last name of every path from the root or from a home folder in it.

    What stands under `words` is no path, whatever it begins with, and stays.
    """
    if isinstance(value, dict):
        return {key: one if key in words else _with_names(one, words) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_names(one, words) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
