"""Are the files of a published checkpoint those that were published? Their SHA-256, as `sha256sum -c` reads it too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

FILE = "checksums.txt"
WRITTEN_LATER = ("README.md", "metrics.json")  # by every evaluation


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file that a finished checkpoint keeps as it is."""
    lines = [f"{_sum_of(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def changed_files(folder: Path) -> list[str] | None:
    """Problems with files that are not as published, a sentence each; None where no checksums are recorded.

    Files that came later, such as heads, are not looked at. No path is opened that the checksums alone name.
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return [f"{FILE} cannot be read ({error}); copy the folder again"]
    there, problems = set(_names(folder)), []
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not match:
            problems.append(f"{FILE}, line {number}: is no checksum and name of a file; copy the folder again")
        elif match[2] not in there:
            problems.append(f"{match[2]} was published, but is missing; copy the folder again")
        elif _sum_of(folder / match[2]) != match[1]:
            problems.append(f"{match[2]} is not the file that was published; copy the folder again")
    return problems


def _names(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in (FILE, *WRITTEN_LATER) and file.suffix != ".png":
            yield name


def _sum_of(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
