"""Where a checkpoint lies, a folder or a snapshot of one on the Hugging Face hub, and of which class it is."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from latdiff.errors import UserError, first_line, shortened, shown, written
from latdiff.storage import plain_refusal, sync

CONFIGURATIONS = ("config.json", "model_index.json")
SHIPPED = Path(str(resources.files("latdiff.pretrained")))  # pipelines that come with latdiff, such as english


class CheckpointError(UserError):
    """A checkpoint that cannot be used, in one sentence."""


def folder_of(checkpoint: str | Path) -> Path:
    """The folder or file of a checkpoint, fetched from the hub where it is the id of one.

    Args:
        checkpoint: A path, in which ~ is the home folder, the name of one that comes with latdiff, or a hub id
            owner/name. What lies here comes first, and names below checkpoints/ are never ids.

    Returns:
        The path, which need not exist where it is no hub id.

    Raises:
        UserError: For a hub id that cannot be fetched.
    """
    path = shipped(checkpoint)
    if path.exists() or not may_be_id(checkpoint):
        return path
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(checkpoint)))
    except GatedRepoError as error:
        raise UserError(f"{checkpoint} is no folder here, and on the hub it is gated: ask for access at "
                        f"{constants.ENDPOINT}/{checkpoint}, and log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:  # the hub does not tell which of the two
        raise UserError(f"{checkpoint} is no folder here, and the hub has no such model, or it is private; look for a "
                        "typing mistake, or log in with `hf auth login`") from error
    except Exception as error:  # the hub raises more kinds of its own, and those of its client
        raise UserError(
            f"{checkpoint} is no folder here, and could not be fetched from the hub ({first_line(error)}); give the "
            "path of a checkpoint, or the id of one that can be reached"
        ) from error


def name_of(checkpoint: str | Path) -> str:
    """What a checkpoint is called: the last name of its path, as of a folder or a hub id; of `.`, the folder's own."""
    return Path(os.path.abspath(Path(checkpoint).expanduser())).name


def may_be_id(checkpoint: str | Path) -> bool:
    """Whether it reads like a hub id owner/name, of which names below checkpoints/ are none."""
    name = str(checkpoint)
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None and not name.startswith("checkpoints/")


def shipped(path: str | Path) -> Path:
    """A path with ~ as the home folder, or where a checkpoint or head lies that comes with latdiff, as english does.

    What lies here comes first.
    """
    try:
        here, there = Path(path).expanduser(), SHIPPED / str(path)
        str(path).encode()  # as the readers of weights do
        comes_along = any((there / name).is_file() for name in ("model_index.json", "config.json"))
        return there if comes_along and not here.exists() else here
    except UnicodeEncodeError:
        raise CheckpointError(f"{written(str(path))} is no name in UTF-8, which files of weights are opened by; rename "
                              "the folder") from None
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, no right to enter, the home of nobody
        raise CheckpointError(f"{shown(str(path))} cannot be looked for: {first_line(error)}") from None


def settings_of(file: Path) -> dict[str, Any]:
    """What a file of JSON, such as a configuration, sets. Raises CheckpointError where it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, and no settings")
        return found
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; copy the folder again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {first_line(error)}; copy the folder again") from error


def class_of(file: Path) -> type[Any]:
    """The public class of latdiff that a saved configuration names.

    Args:
        file: A `config.json` or `model_index.json`, with the class under `_class_name`.

    Raises:
        CheckpointError: Where it cannot be read, or names a class that latdiff does not have.
    """
    settings = settings_of(file)
    if "_class_name" not in settings:
        raise CheckpointError(f"{file} is cut short or damaged: it has no _class_name; copy the folder again")
    name = settings["_class_name"]
    found = getattr(importlib.import_module("latdiff"), name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
        raise CheckpointError(f"{file} names the class {shortened(str(name))}, which this latdiff cannot open; a "
                              "newer one may")
    return found


def save_whole(folder: Path, marker: str, *saves: Callable[[Path], Any]) -> None:
    """Save into a folder so that what is killed meanwhile leaves it as it was, or with files but without the marker.

    All is written beside, synced to the disk, and then moved into the folder file by file, the marker last.

    Args:
        folder: where the files are to lie; others in it stay.
        marker: the file of them, below the folder, that tells a finished one.
        saves: each writes files into the folder that it is given.

    Raises:
        CheckpointError: for a place in the folder that a link has elsewhere.
        StorageError: for a full disk, and for a folder that cannot be written into.
    """
    beside = folder / ".unfinished"
    with plain_refusal(folder):
        if beside.is_symlink():
            beside.unlink()
        shutil.rmtree(beside, ignore_errors=True)
        for save in saves:
            save(beside)
        files = sorted((file for file in beside.rglob("*") if file.is_file()), key=lambda file: file == beside / marker)
        for file in files:
            sync(file)
        _move(files, beside, folder)


def _move(files: list[Path], beside: Path, folder: Path) -> None:
    """Move files from below one folder to the same places below another, and delete the former."""
    places = {file: folder / file.relative_to(beside) for file in files}
    for parent in {place.parent for place in places.values()}:
        refuse_outside(parent, folder)
    for file, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    shutil.rmtree(beside)


def folder_size(folder: Path) -> int:
    """How many bytes a checkpoint's files hold, without what training keeps beside them."""
    files = (file for file in folder.rglob("*") if "train" not in file.relative_to(folder).parts[:1])
    return sum(file.stat().st_size for file in files if file.is_file())


def without_paths(folder: Path) -> None:
    """Leave out of all configurations below a folder where on this machine a model was loaded from."""
    for name in CONFIGURATIONS:
        for file in folder.rglob(name):
            file.write_text(without_path(file), encoding="utf-8")


def without_path(file: Path) -> str:
    """The text of a configuration, without where a model was loaded from. Raises CheckpointError for a damaged one."""
    config = settings_of(file)
    return f"{json.dumps(config, indent=2)}\n" if config.pop("_name_or_path", None) else file.read_text("utf-8")


def links_out(folder: Path) -> Iterator[Path]:
    """The links in a checkpoint's folder that lead out of it, but for those by which the hub caches files."""
    root = Path(os.path.realpath(folder))
    own = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() and not any(Path(os.path.realpath(file)).is_relative_to(place) for place in own):
            yield file


def refuse_outside(place: Path, folder: Path) -> None:
    """Raise CheckpointError for a place below a folder that a link has elsewhere, where nothing should be written."""
    found = Path(os.path.realpath(place))
    if not found.is_relative_to(os.path.realpath(folder)):
        raise CheckpointError(f"{place} would be written to {found}, for a link in {folder} leads out of it; put a "
                              "folder in the place of the link, or name another folder to write to")
