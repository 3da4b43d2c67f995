"""Files that are written whole or not at all, and folders that one process writes into at a time."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from latdiff.errors import UserError, first_line

LOCK = ".lock"  # in a folder that something is trained into


class StorageError(UserError):
    """What the disk refuses, in one sentence."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write; at the end of the block it is synced to the disk and takes the place of `path`.

    What is killed or fails meanwhile leaves `path` as it was. A link in either place is replaced, never followed. Of
    several processes that write one file at once, the last one's stays.

    Raises:
        StorageError: for a full disk, and for a folder that cannot be written into.
    """
    with plain_refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = unfinished(path)
        new_file(beside)
        try:
            yield beside
            sync(beside)
            os.replace(beside, path)
        except Exception:
            beside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all. Raises StorageError as `written_whole` does."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def unfinished(path: Path) -> Path:
    """Where this process writes what is to become a file; what processes that have died left there is deleted."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.unfinished*"):
        ours = re.fullmatch(r"(\.([1-9][0-9]{0,8}))?(\.new)?", left.name.removeprefix(f"{path.name}.unfinished"))
        if ours and not (ours[2] and _runs(int(ours[2]))):
            left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.unfinished.{os.getpid()}")


def _runs(process: int) -> bool:
    """Whether there is another process of a number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return process != os.getpid()


def new_file(path: Path) -> None:
    """Make an empty file in place of one that is left over, or of a link, which may lead anywhere."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def sync(file: Path) -> None:
    """Wait until what was written to a file is on the disk, and let it be read by whom the umask lets read new files.

    safetensors writes files for their owner alone.
    """
    new = file.with_name(f"{file.name}.new")
    new_file(new)
    file.chmod(new.stat().st_mode)
    new.unlink()
    with open(file, "rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def plain_refusal(path: Path) -> Iterator[None]:
    """Put into a sentence what the disk refuses while `path` is written."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        raise StorageError(f"{path} could not be written ({reason}); what was there before is whole. Free some space, "
                           "or name a folder that can be written into, and give the same command again") from error


@contextlib.contextmanager
def sole_writer(folder: Path, refusal: str = "") -> Iterator[None]:
    """Keep other processes from writing into a folder meanwhile; the lock of one that has died keeps nobody out.

    Folders that are made for it and stay empty are removed again.

    Args:
        folder: to write into.
        refusal: what to tell another process (default: that something is trained into it).

    Raises:
        StorageError: when another process holds the folder, and for one that cannot be written into.
    """
    from filelock import FileLock, Timeout

    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with plain_refusal(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)
        try:
            lock.acquire()
        except Timeout:
            raise StorageError(refusal or f"another process is training into {folder}; wait until it has ended, or set "
                                          "name= to train beside it") from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # the outermost block's
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for one in itertools.takewhile(lambda one: not any(one.iterdir()), made):
            one.rmdir()
