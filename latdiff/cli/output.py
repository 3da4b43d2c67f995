"""How do texts come into a file: in chunks, by one process or several, and on from there after a kill?

Each chunk is written whole into NAME.parts, beside the file, by the process whose turn it is; in the end the main one
joins them. A part's name has a digest of what it was drawn with, for a process that lives on alone may write some more.
NAME.settings.json says what all are drawn with, and how large the file is in the end; it stays beside the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from latdiff.errors import UserError, shown
from latdiff.processes import agreed
from latdiff.storage import sole_writer, write_text, written_whole

if TYPE_CHECKING:  # loads torch
    from accelerate import PartialState

ENDINGS = (".jsonl", ".txt")
PART = re.compile(r"[0-9]{7,}-[0-9a-f]{8}\.(jsonl|txt)")


class OutputError(UserError):
    """A file of texts that cannot be written or gone on with, in one sentence."""


def check_ending(path: Path) -> None:
    """Raise OutputError for a file of another kind, and for a folder."""
    if path.suffix not in ENDINGS or path.is_dir():
        raise OutputError(f"--output is {path}, must be a file that ends in .jsonl, an object for each text, or .txt, "
                          "a text a line")


class TextsFile:
    """A file of texts, chunk by chunk.

    Args:
        path: of the file.
        settings: what changes its texts, fit for JSON, and under "checkpoint" a name, which alone may be another one
            when the file is gone on with.
        state: the processes that write it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], state: PartialState):
        self.path = path.resolve() if path.is_symlink() else path  # the parts of a large file lie on its disk
        self.settings, self.state = json.loads(json.dumps(settings)), state
        self.parts = self.path.with_name(f"{self.path.name}.parts")
        self.beside = self.path.with_name(f"{self.path.name}.settings.json")
        drawn_with = {key: value for key, value in self.settings.items() if key != "checkpoint"}
        self.digest = hashlib.sha256(json.dumps(drawn_with, sort_keys=True).encode()).hexdigest()[:8]

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other commands from writing the file meanwhile.

        Yields:
            Whether it is finished already.

        Raises:
            OutputError: For a file that was begun with other settings, that another command wrote, or that has changed.
            StorageError: Where another process writes it, and for a folder that cannot be written into.
        """
        refusal = f"another process is writing {self.path}; wait until it has ended, or name another file"
        with sole_writer(self.parts, refusal) if self.state.is_main_process else contextlib.nullcontext():
            if self.state.is_main_process:
                self._begin()
            self.state.wait_for_everyone()
            try:
                yield agreed(self._size() is not None)
            finally:
                if self.state.is_main_process:
                    self._clean()
        if self.state.is_main_process and self.path.exists():
            with contextlib.suppress(OSError):  # where another command has begun meanwhile
                self.parts.rmdir()

    def write(self, chunks: Sequence[range], lines: Callable[[range], list[str]], quiet: bool = False) -> None:
        """Write what is missing.

        Args:
            chunks: the places of the texts of each.
            lines: what stands in the file of the texts at some places.
            quiet: no bar.

        Raises:
            OutputError: Where the processes do not share a disk, or do not read the same checkpoint.
            StorageError: For a full disk; what is finished is kept.
        """
        self._refuse_changes()
        own = range(self.state.process_index, len(chunks), self.state.num_processes)
        done = sum(int(part.stem.partition("-")[0]) in own for part in self._drawn() if self.digest in part.name)
        with _bar(len(own), done, self.state, quiet) as bar:
            for number in own:
                if not self._part(number).exists():
                    whole = (re.sub(r"[\r\n]+", " ", line) for line in lines(chunks[number]))
                    write_text(self._part(number), "".join(f"{line}\n" for line in whole))
                    bar.update()
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._join(chunks)

    def _begin(self) -> None:
        there = self.path if self.path.exists() else self.parts if any(self._drawn()) else None
        if there and self.beside.exists():
            self._refuse_changes()
            if there == self.path and self._size() is None:
                raise OutputError(f"{there} was changed, or put there by hand: it is not as this command has finished "
                                  "it. Move it away to go on, or name another file")
        elif there:
            raise OutputError(f"{there} exists, and {self.beside.name} does not, which would say what its texts were "
                              "drawn with; name another file, or delete it")
        else:
            write_text(self.beside, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")

    def _size(self) -> int | None:
        """Bytes of the file where it is finished, and as it was then."""
        try:
            size = self.path.stat().st_size
            return size if json.loads(self.beside.read_text(encoding="utf-8")).get("bytes") == size else None
        except FileNotFoundError:
            return None

    def _refuse_changes(self) -> None:
        try:
            before = {} | json.loads(self.beside.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise OutputError(f"{self.beside} was written by the main process, but is not there for process "
                              f"{self.state.process_index}; name a file on a disk that all of them share") from None
        except (ValueError, TypeError) as error:
            raise OutputError(f"{self.beside} is damaged ({error}); delete it and {self.parts.name}, or name another "
                              "file") from None
        changes = [f"{key} was {shown(before.get(key))}, is {shown(value)}" for key, value in self.settings.items()
                   if key != "checkpoint" and before.get(key) != value]
        if changes:
            raise OutputError(f"{self.path} was begun with other settings ({'; '.join(changes)}). Put them back to go "
                              "on, name another file, or delete this one with "
                              f"{self.beside.name} and {self.parts.name}")

    def _join(self, chunks: Sequence[range]) -> None:
        with written_whole(self.path) as unfinished:
            with open(unfinished, "wb") as whole:
                for number, chunk in enumerate(chunks):
                    whole.write(self._content(number, len(chunk)))
            finished = self.settings | {"bytes": unfinished.stat().st_size}  # first: a kill here joins once more
            write_text(self.beside, json.dumps(finished, indent=2, ensure_ascii=False) + "\n")

    def _content(self, number: int, count: int) -> bytes:
        part = self._part(number)
        try:
            content = part.read_bytes()
        except FileNotFoundError:
            raise OutputError(f"{part} is missing, which another process has written; name a file on a disk that all "
                              "of them share") from None
        found = content.count(b"\n")
        if found != count:
            raise OutputError(f"{part} has {found:,} lines, must have {count:,}: it was changed. Delete it, and the "
                              "same command draws it again")
        return content

    def _clean(self) -> None:
        """Drop the parts of a finished file, and the settings of one of which nothing is drawn and no process draws."""
        if self._size() is not None:
            for part in self._drawn():
                part.unlink()
        elif self.state.num_processes == 1 and not self.path.exists() and not any(self._drawn()):
            self.beside.unlink(missing_ok=True)

    def _drawn(self) -> Iterator[Path]:
        """Parts, also of other settings."""
        return (file for file in self.parts.glob("*") if PART.fullmatch(file.name))

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:07}-{self.digest}{self.path.suffix}"


def digest_of_files(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of some files of a folder, and of all below its folders of some names, with where they lie."""
    found = hashlib.sha256()
    for name in sorted(names):
        place = folder / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                with open(file, "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
                found.update(f"{file.relative_to(folder).as_posix()} {digest}\n".encode())
    return found.hexdigest()


def _bar(total: int, done: int, state: PartialState, quiet: bool) -> tqdm:
    """Chunks of the main process, whose share is as large as any; a line a minute when the output is no terminal."""
    every = {"mininterval": 2} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    title = "sampling" if state.num_processes == 1 else f"sampling, process 1 of {state.num_processes}"
    return tqdm(total=total, initial=done, desc=title, disable=quiet or not state.is_main_process, dynamic_ncols=True,
                unit="chunk", **every)
