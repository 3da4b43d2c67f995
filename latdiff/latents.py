"""The latents of a training set on the disk: written shard by shard and read batch by batch, never held as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latdiff.processes import everywhere, processes, wait_for_everyone
from latdiff.storage import StorageError, write_text, written_whole

LATENTS = Path("train/latents")  # below the folder of a run
INDEX = "index.json"  # of a folder of shards, written last
ROWS = 8192  # of a shard, which are encoded at once and lost by a kill
PART = 1024  # rows that are read at once where all are
OPEN = 64  # files that are held open at once: some systems allow 256 a process


class Shards:
    """Rows of tensors in files; what is read of them is not kept.

    They are read and not mapped: the pages of a mapped file are the process's own memory once they were looked at, and
    in time that is all of them.

    Args:
        folder: of the files.
        rows_a_shard: how many rows each of them holds, but for the last.
        shape: of a row.
        dtype: of it.
        begins: the byte of each file where its first row begins.
    """

    def __init__(self, folder: Path, rows_a_shard: int, shape: tuple[int, ...], dtype: torch.dtype, begins: list[int]):
        self.folder, self.rows_a_shard, self.shape, self.dtype, self.begins = folder, rows_a_shard, shape, dtype, begins
        self._files: dict[int, FileIO] = {}

    def read(self, rows: Sequence[int]) -> Tensor:
        """Rows [B, ...]. Raises StorageError where a file has become shorter than it was."""
        found = torch.empty(len(rows), *self.shape, dtype=self.dtype)
        for row, place in zip(rows, found.flatten(1).view(torch.uint8).numpy(), strict=True):
            number, within = divmod(row, self.rows_a_shard)
            file = self._opened(number)
            file.seek(self.begins[number] + within * place.nbytes)
            if file.readinto(place) != place.nbytes:
                raise StorageError(f"{file.name} was cut short while it was read; delete {self.folder} and give the "
                                   "same command again, which then encodes the texts again")
        return found

    def _opened(self, number: int) -> FileIO:
        if number not in self._files:
            if len(self._files) == OPEN:
                self._files.pop(next(iter(self._files))).close()
            self._files[number] = FileIO(_file(self.folder, number))
        return self._files[number]

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()


@dataclass(frozen=True)
class Latents:
    """N latents on the disk: `latents[rows]` reads B rows of them, [B, L, D].

    Attributes:
        shards: that they lie in.
        kept: the N rows of the shards.
        then: what is done with rows that were read.
    """

    shards: Shards
    kept: Sequence[int]
    then: Callable[[Tensor], Tensor] = lambda rows: rows

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """Those of B rows, [B, L, D]. Raises StorageError where a file has become shorter than it was."""
        return self.then(self.shards.read([self.kept[row] for row in rows]))

    def only(self, rows: Sequence[int]) -> Latents:
        """Some of them, in the order of `rows`."""
        return replace(self, kept=torch.tensor([self.kept[row] for row in rows], dtype=torch.long).numpy())

    def through(self, then: Callable[[Tensor], Tensor]) -> Latents:
        """The same, and `then` is done with every batch [B, L, D] that is read."""
        return replace(self, then=then)

    def parts(self) -> Iterator[Tensor]:
        """All of them in their order, some rows at a time."""
        return (self[range(first, min(first + PART, len(self)))] for first in range(0, len(self), PART))


def write_latents(
    folder: Path, codec: str, texts: str, rows: int, encode: Callable[[range], Tensor],
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> Latents:
    """Encode N texts shard by shard; shards that are there already, of the same codec and texts, stay.

    Of several processes, on storage that they share, each writes its part of the shards, and all get all of them.

    Args:
        folder: of the shards.
        codec: a digest of what makes latents.
        texts: a digest of the texts.
        rows: N.
        encode: rows of texts to their latents [B, L, D], or vectors [B, E].
        progress: wraps the numbers of the shards that are left, as tqdm does.

    Raises:
        StorageError: For a full disk, and for a folder that cannot be written into; the shards before stay.
    """
    found, state, made_of = open_latents(folder, codec, texts), processes(), _made_of(codec, texts, rows, ROWS)
    if everywhere(found is not None and len(found) == rows) and found is not None:
        return found  # nothing is written before all have seen what there was
    numbers = range(state.process_index, _shards(rows, ROWS), state.num_processes)
    for number in progress([one for one in numbers if _begin(folder, one, made_of) is None]):
        latents = encode(range(number * ROWS, min(rows, (number + 1) * ROWS)))
        with written_whole(_file(folder, number)) as beside:
            save_file({"latents": latents.cpu().contiguous()}, beside, metadata=made_of | {"shard": str(number)})
    wait_for_everyone()
    if state.is_main_process:
        with safe_open(_file(folder, 0), framework="pt") as file:
            first = file.get_slice("latents")[:1]
        index = made_of | {"shape": list(first.shape[1:]), "dtype": str(first.dtype).removeprefix("torch.")}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
        for number in count(_shards(rows, ROWS)):  # of a larger training set
            try:
                _file(folder, number).unlink()
            except FileNotFoundError:
                break
    wait_for_everyone()
    written = open_latents(folder, codec, texts)
    if written is None:
        raise StorageError(f"{folder} was changed while it was written; give the same command again. Several processes "
                           "need storage that all of them see")
    return written


def open_latents(folder: Path, codec: str, texts: str) -> Latents | None:
    """The latents of a folder; None where there are none, for those of another codec or texts, or a torn shard."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        rows, rows_a_shard = int(index["rows"]), max(1, int(index["rows_a_shard"]))
        row = torch.empty(index["shape"], dtype=getattr(torch, index["dtype"]), device="meta")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
    made_of = _made_of(codec, texts, rows, rows_a_shard)
    if not made_of.items() <= index.items():
        return None
    begins: list[int] = []
    for number in range(_shards(rows, rows_a_shard)):
        begin = _begin(folder, number, made_of, row)
        if begin is None:
            return None
        begins.append(begin)
    return Latents(Shards(folder, rows_a_shard, tuple(row.shape), row.dtype, begins), range(rows))


def statistics(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance [L, D], in float64, of latents that come in parts [B, L, D] (Chan et al. 1983)."""
    seen, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        rows, total = part.double(), seen + len(part)
        own = rows.mean(0)
        apart = own - mean.to(own)
        squares = squares.to(own) + (rows - own).square().sum(0) + apart.square() * (seen * len(part) / total)
        mean, seen = mean.to(own) + apart * (len(part) / total), total
    return mean, squares / (seen - 1)


def _made_of(codec: str, texts: str, rows: int, rows_a_shard: int) -> dict[str, str]:
    """What the index and every shard say of all shards."""
    return {"codec_digest": codec, "texts_digest": texts, "rows": str(rows), "rows_a_shard": str(rows_a_shard)}


def _shards(rows: int, rows_a_shard: int) -> int:
    return max(1, -(-rows // rows_a_shard))


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"


def _begin(folder: Path, number: int, made_of: dict[str, str], like: Tensor | None = None) -> int | None:
    """The byte where the rows of a shard begin; None where it is not whole, of something else, or of other rows."""
    path = _file(folder, number)
    try:
        with safe_open(path, framework="pt") as file:  # which refuses a file with bytes missing
            if file.metadata() != made_of | {"shard": str(number)} or list(file.keys()) != ["latents"]:
                return None
            rows = file.get_slice("latents")
            first = rows[:1]
            if like is not None and (first.shape[1:] != like.shape or first.dtype != like.dtype):
                return None
            return path.stat().st_size - rows.get_shape()[0] * first.nbytes  # they are all that is behind the header
    except (OSError, SafetensorError):
        return None
