"""Rows of a file, a folder or a data set of the hub; a DataError says in one sentence why there are none.

A source is an existing file or folder, an example that comes with latdiff, or else a hub id `owner/name` with an
optional `:config` and `@revision`, so the hub is never queried for what is on disk.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import random
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from latdiff.bars import without_bars
from latdiff.data.contents import MOST_TIMES, SMALL, DataError, lines_of, refuse_pointer, text_of
from latdiff.errors import first_line, nearest, shortened, shown
from latdiff.offline import not_waiting_for_the_hub
from latdiff.worlds import WORLDS

EXAMPLES = Path(str(resources.files("latdiff.recipes"))) / "examples"  # data that come with latdiff
VALID = ("valid", "validation", "dev")  # one split goes by any of these names
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([^:/@]+))?(?:@(.+))?")
SHUFFLE_BUFFER = 10_000  # rows of a hub data set held at once, where it is not read whole
PIECES_AT_ONCE = 100  # that fill the buffer: files, or of parquet groups of rows
MANY_PIECES = 20  # from so many on, the beginnings of those drawn will do for a sample of the whole
MOST_READ = 200_000  # rows of fewer pieces, which are read to their ends
MOST_ROWS = 10  # of a parquet file, in a byte of it; one row takes hundreds of bytes of memory
MANY_ROWS = 1_000_000  # that it may have at any rate
ALIKE = 0.7  # of names of files, whose endings are alike anyway, before one is taken for another that is misspelt
MISSING = object()
MOST_NAMES = 20  # of files, columns or classes in a message
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


@dataclass(frozen=True)
class Sample:
    """Sizes and seed of a random sample from a hub data set that may be larger than memory."""

    train: int
    valid: int
    seed: int

    def draw(self, stream, place: str, unseen: bool, alone: bool) -> list[dict]:
        """Rows of one streamed split, from all over it, for many a split is sorted by its labels.

        Args:
            stream: the split, as `datasets` streams it.
            place: what a message calls it.
            unseen: whether it holds the unseen texts.
            alone: whether it is the only split, so that unseen texts are held out of it.

        Warns:
            UserWarning: where it has few pieces and is too long to be read to the end.
        """
        count = self.valid if unseen else self.train + (self.valid if alone else 0)
        pieces = stream.reshard()
        rows = iter(pieces.shuffle(seed=self.seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=PIECES_AT_ONCE))
        if pieces.num_shards >= MANY_PIECES:
            return list(itertools.islice(rows, count))
        drawn = _drawn(itertools.islice(rows, MOST_READ), count, self.seed)
        if next(rows, None) is not None:
            warnings.warn(f"{place} has too few files to draw from all over it, and the sample is of its first "
                          f"{MOST_READ:,} rows; where its rows are sorted, take the hub's own copy in parquet, "
                          "owner/name@refs/convert/parquet, or all of it with data.train_size=0", stacklevel=2)
        return drawn


def _drawn(rows: Iterable[dict], count: int, seed: int) -> list[dict]:
    """So many rows, or as many as there are, each as likely as any other."""
    rng, kept = random.Random(seed), []
    for number, row in enumerate(rows):
        if number < count:
            kept.append(row)
        elif (place := rng.randrange(number + 1)) < count:
            kept[place] = row
    return kept


@dataclass(frozen=True)
class Table:
    """Numbered rows of one split; `place` and `unit` name them in messages."""

    place: str
    unit: str
    rows: list[tuple[int, dict]]

    def at(self, number: int) -> str:
        """Where a row is, e.g. "train.jsonl, line 3"."""
        return f"{self.place}, {self.unit} {number}"


# Where a source is and which of its splits there are


def open_source(source: str, wanted: tuple[str, ...], sample: Sample | None = None) -> dict[str, Table]:
    """Read the splits of a source.

    Args:
        source: a file, a folder, the name of an example such as companions.csv, or a hub id.
        wanted: names of splits; the first is required.
        sample: how much of a hub data set to read; all of it by default. Files are read whole.

    Returns:
        Name of each split that there is -> its rows.

    Raises:
        DataError: for a source that cannot be read or lacks the first split.
    """
    path = _place(source)
    if path.is_dir():
        return {split: _read(file) for split, file in _files(path, wanted).items()}
    if path.exists():
        return {wanted[0]: _read(path)}
    if (hub := HUB_ID.fullmatch(source)) and not _format(path):
        return _from_hub(hub, wanted, sample)
    raise DataError(
        f"no data {shown(source, 200)}: it is neither {', nor '.join(WORLDS)}, nor a hub id such as owner/name or "
        f"owner/name:config, nor a file or folder{_nearest_path(path)}"
    )


def _place(source: str) -> Path:
    """The path of a source, here or else among the examples; raises DataError where nothing may be looked for."""
    try:
        path, example = Path(source).expanduser(), EXAMPLES / source
        return example if not path.exists() and example.parent == EXAMPLES and example.is_file() else path
    except (OSError, RuntimeError, ValueError) as error:  # ~ with a NUL behind it
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"no data {shown(source, 200)}: it cannot be looked for: {reason}") from None


def _nearest_path(path: Path) -> str:
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    try:
        found = [entry.name for entry in missing.parent.iterdir()]
    except OSError:  # no folder, or one that may not be read
        found = []
    meant = nearest(missing.name, [*found, *WORLDS], cutoff=ALIKE)
    return f" ({missing.parent} has no {shortened(missing.name)}{meant})"


def _names(split: str) -> tuple[str, ...]:
    return VALID if split in VALID else (split,)


def _files(folder: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    found = {}
    for split in wanted:
        files = [file for file in there if _format(file) and file.name.split(".")[0] in _names(split)]
        if len(files) > 1:
            both = ", ".join(file.name for file in files)
            raise DataError(f"{folder}: which is the {split} split, {both}? Leave only one of them there")
        if files:
            found[split] = files[0]
    if wanted[0] not in found:
        names = listed([file.name for file in there]) or "nothing"
        there_is = f"there is {names}; {_known_formats()}"
        raise DataError(f"{folder}: has no {wanted[0]} file such as {wanted[0]}.jsonl ({there_is})")
    return found


def _from_hub(hub: re.Match[str], wanted: tuple[str, ...], sample: Sample | None) -> dict[str, Table]:
    import datasets  # slow to import
    from huggingface_hub.utils import are_progress_bars_disabled

    source, name, config, revision = hub.group(0, 1, 2, 3)
    silent = without_bars(are_progress_bars_disabled(), ("datasets.utils.tqdm",))
    with _hub_problems(hub), not_waiting_for_the_hub(), silent:
        loaded = datasets.load_dataset(name, config, revision=revision, streaming=sample is not None)
    there = {split: next((name for name in _names(split) if name in loaded), None) for split in wanted}
    there = {split: name for split, name in there.items() if name}
    if wanted[0] not in there:
        raise DataError(f"{source}: has no split {wanted[0]} (there is {', '.join(loaded)})")
    unit, tables = "sampled row" if sample else "row", {}
    for split, name in there.items():
        place = f"{source}, split {name}"
        with _hub_problems(hub):  # a stream asks the hub only as it is read
            rows = loaded[name].to_list() if not sample else sample.draw(
                loaded[name], place, unseen=split != wanted[0], alone=len(there) == 1)
        rows = _with_class_names(rows, loaded[name].features or {})
        tables[split] = Table(place, unit, list(enumerate(rows, 1)))
    return tables


def _with_class_names(rows: list[dict], features: dict) -> list[dict]:
    """Rows with class indices replaced by the names of the classes, and -1 by None."""
    names = {column: kind.names for column, kind in features.items() if getattr(kind, "names", None)}
    for row in rows:
        for column, known in names.items():
            number = row[column]
            row[column] = known[number] if number is not None and number >= 0 else None
    return rows


@contextlib.contextmanager
def _hub_problems(hub: re.Match[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's clients raise many kinds, and the way out is the same for nearly all
        raise DataError(_way_out(hub, error)) from None


def _way_out(hub: re.Match[str], error: Exception) -> str:
    source, name, revision = hub.group(0, 1, 3)
    configs = re.search(r"available[^[]*\[('.+')\]", str(error), re.IGNORECASE)
    if isinstance(error, ValueError) and configs:
        names = re.findall(r"'(.+?)'", configs[1])
        example = f"{name}:{names[0]}" + (f"@{revision}" if revision else "")
        shown = textwrap.shorten(", ".join(names), 200, placeholder=" ...")
        return f"{source}: name the configuration (there is {shown}), as in {example}"
    unreachable = isinstance(error, ConnectionError)
    first_line = str(error).partition("\n")[0]
    reason = "the hub cannot be reached" if unreachable else f"{type(error).__name__}: {first_line}"
    return (
        f"{source} is no file or folder here, and the hub was queried for it, but {reason}; put a folder "
        "with train.jsonl and valid.jsonl in its place, for a recipe with "
        'ARGS="data.source=path/to/folder data.text_column=text"'
    )


# From a file to numbered rows


def _read(path: Path) -> Table:
    """Read one file by its ending; raises DataError with the file's name and the line at fault."""
    reader = READERS.get(_format(path))
    if not reader:
        raise DataError(f"{path}: the format is not known ({_known_formats()})")
    if not (path.is_file() or path.is_dir()):  # a pipe, which would be waited for
        raise DataError(f"{path}: is no file; save what it gives in one")
    try:
        rows = list(reader(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return Table(str(path), "row" if _format(path) == ".parquet" else "line", rows)


def _format(path: Path) -> str:
    """`.jsonl` for a.jsonl and a.jsonl.gz; '' for an unknown format."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return "" if ending not in READERS or name.endswith(".parquet.gz") else ending


def _known_formats() -> str:
    return f"known: {', '.join(READERS)}, each but parquet also with .gz"


def _read_txt(path: Path) -> Iterator[tuple[int, dict]]:
    text = "\n".join(lines_of(text_of(path))).rstrip("\n")
    return ((number, {"text": line}) for number, line in enumerate(text.split("\n") if text else (), 1))


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    # not splitlines(): a JSON string may contain U+2028 and the like unescaped
    for number, line in enumerate(lines_of(text_of(path)), 1):
        if not line.strip():
            continue
        try:
            row = JSON.decode(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: is not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise DataError(f"{path}, line {number}: is nested too deeply; leave the nested column out") from None
        except ColumnTwice as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        except ValueError:  # from int()
            problem = "holds a number of too many digits; write it as a text"
            raise DataError(f"{path}, line {number}: {problem}") from None
        if not isinstance(row, dict):
            problem = f'must be an object such as {{"text": "..."}}, is {line[:40]}'
            raise DataError(f"{path}, line {number}: {problem}")
        yield number, row


class ColumnTwice(ValueError):
    """A key that an object of JSON has twice, in words that go on from the line's number."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which no key may be lost."""
    row = dict(pairs)
    if len(row) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ColumnTwice(f"has the column {shown(key)} twice; rename or drop one")
    return row


JSON = json.JSONDecoder(object_pairs_hook=_once)


def _read_separated(path: Path, separator: str) -> Iterator[tuple[int, dict]]:
    text = text_of(path)
    # strict: a stray quote is an error, and does not join the lines after it
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    longest = csv.field_size_limit(max(len(text), 1))  # texts may be longer than the 131,072 characters of its default
    try:
        columns = next(reader, [])
        twice = [column for column, count in Counter(columns).items() if count > 1]
        if twice:
            raise DataError(f"{path}, line 1: two columns are named {shown(twice[0])}; rename or drop one")
        for fields in filter(None, reader):
            if len(fields) != len(columns):
                raise csv.Error(f"has {len(fields)} fields, the first line has {len(columns)}")
            yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        first = re.split(r"[\r\n]", text[:10_000], maxsplit=1)[0]
        hint = "put a field that holds a separator, quote or line break in double quotes, its own quotes doubled"
        hint = (separator not in first and _other_separator(first)) or hint
        raise DataError(f"{path}, line {reader.line_num}: {error}; {hint}") from None
    finally:
        csv.field_size_limit(longest)


def _other_separator(first: str) -> str:
    """What to do about a first line of names with another separator between them, as ; in half of Europe; or ''."""
    for other, name in SEPARATORS.items():
        names = [part.strip('"') for part in first.split(other)]
        if len(names) > 1 and all(part and part == part.strip() for part in names):
            return (f"the first line has {name} between {shown(names[0])} and {shown(names[1])}, where a .csv file has "
                    "commas and a .tsv file tabs: save or name it as one of these")
    return ""


def _read_parquet(path: Path) -> Iterator[tuple[int, dict]]:
    import pyarrow.parquet

    with path.open("rb") as file:
        refuse_pointer(path, file.read(200))
    try:
        parquet = pyarrow.parquet.ParquetFile(path)
        _refuse_growth(path, parquet.metadata)
        table = parquet.read()
    except DataError:
        raise
    except pyarrow.ArrowMemoryError:
        table = None  # one request was refused, before any of it was in use
    except Exception as error:
        raise DataError(f"{path}: is not a readable parquet file: {first_line(error)}") from None
    if table is None:
        raise DataError(f"{path}: asks for more memory at once than there is; it is damaged, or too large to be read "
                        "whole: copy it again, or save its rows as several files in a folder")
    twice = [column for column, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two columns are named {shown(twice[0])}; rename or drop one")
    try:
        return enumerate(table.to_pylist(), 1)
    except MemoryError:
        raise
    except Exception as error:  # Python's types cannot hold all that pyarrow's do
        raise DataError(f"{path}: is not a readable parquet file: {first_line(error)}") from None


def _refuse_growth(path: Path, metadata) -> None:
    """Raise DataError for a parquet file whose metadata says that it grows far beyond its size as it is read."""
    size = path.stat().st_size
    content = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if content > max(SMALL, MOST_TIMES * size):
        raise DataError(f"{path}: grows to more than {MOST_TIMES} times its size when it is read, as no texts do; save "
                        "its rows without compression if it is what you mean")
    if metadata.num_rows > max(MANY_ROWS, MOST_ROWS * size):
        raise DataError(f"{path}: has {metadata.num_rows:,} rows in {size:,} bytes, more than {MOST_ROWS} a byte, as "
                        "no texts do; drop the rows that say the same, or save them as .jsonl if you mean them")


READERS: dict[str, Callable[[Path], Iterable[tuple[int, dict]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": lambda path: _read_separated(path, ","),
    ".tsv": lambda path: _read_separated(path, "\t"),
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


# Columns


def reach(row: dict, column: str):
    """The value of a column: row["a.b"], or else row["a"]["b"], or else MISSING."""
    if column in row:
        return row[column]
    for key in column.split("."):
        if not isinstance(row, dict) or key not in row:
            return MISSING
        row = row[key]
    return row


def columns(rows: Iterable[dict], wanted: str) -> str:
    """The columns that there are, for an error message: ' (there is a, b.c; did you mean b.c?)'."""
    flat = itertools.chain.from_iterable(map(_flat, rows))
    names = dict.fromkeys(itertools.islice(flat, 100_000))  # a dict keeps the order
    apart = _other_separator(next(iter(names))) if len(names) == 1 else ""
    hint = f"; {apart}" if apart else nearest(wanted, itertools.islice(names, 1_000))
    return f" (there is {listed(names) or 'none'}{hint})"


def listed(names: Collection[str]) -> str:
    """Names with commas between them, those after the first twenty only counted."""
    more = [f"and {len(names) - MOST_NAMES:,} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*(shortened(name) for name in itertools.islice(names, MOST_NAMES)), *more])


def _flat(row: dict, prefix: str = "", depth: int = 8) -> Iterator[str]:
    """Names of columns, with dots for those of nested ones, not too deep."""
    for key, value in row.items():
        if isinstance(value, dict) and depth:
            yield from _flat(value, f"{prefix}{key}.", depth - 1)
        else:
            yield f"{prefix}{key}"
