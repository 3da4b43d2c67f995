"""Texts in: the embedded storyworld, local files, or a data set of the hub.

    corpus = load_corpus(DataConfig(source="path/to/folder"), seed=0)
    texts, labels = load_labelled("reviews.jsonl", label_column="sentiment")

A source is looked for in this order: the word `storyworld`, an existing file or folder, a hub id
`owner/name` with an optional `@revision`. So nothing asks the hub for what is on the disk.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from latdiff import storyworld
from latdiff.config import DataConfig, UserError, nearest

STORIES = 60_000
LABELLED_STORIES = 400
MIN_PER_CLASS = 5
SPLITS = {"train": ("train",), "valid": ("valid", "validation", "dev")}
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.+))?")
MISSING = object()


class DataError(UserError):
    """Data that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Corpus:
    """Texts to train on, unseen texts to measure on, and how many rows were left out and why."""

    train: list[str]
    valid: list[str]
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The rows of one split with their numbers; `place` and `unit` let a message point at one."""

    place: str
    unit: str
    rows: list[tuple[int, dict]]

    def at(self, number: int) -> str:
        return f"{self.place}, {self.unit} {number}"


def load_corpus(data: DataConfig, seed: int) -> Corpus:
    """Read and clean the training and the unseen texts, in an order that depends on `seed` alone.

    White space becomes single spaces; blank texts and training texts that also are unseen ones are
    dropped and counted. Without unseen texts of its own, a source gives at most a tenth of itself.
    Raises DataError.
    """
    if data.source == "storyworld":
        train = _stories(data.train_size or STORIES, f"{seed}/train")
        valid = _stories(data.valid_size, f"{seed}/valid")
    else:
        split = _open(data.source, ("train", "valid"))
        train = _texts(split["train"], data.text_column)
        valid = _texts(split["valid"], data.text_column) if "valid" in split else None
    blank = train.count("") + (valid or []).count("")
    train = _shuffled(filter(None, train), f"{seed}/train order")
    if valid is None:
        held_out = max(1, min(data.valid_size, len(train) // 10))
        train, valid = train[held_out:], train[:held_out]
    else:
        valid = _shuffled(filter(None, valid), f"{seed}/valid order")
    unseen = set(valid)
    kept = [text for text in train if text not in unseen]
    if not kept:
        raise DataError(f"{data.source}: no training text is left beside the unseen ones; give more texts")
    dropped = {"blank": blank, "also unseen": len(train) - len(kept)}
    return Corpus(kept[: data.train_size or None], valid[: data.valid_size], dropped)


def load_labelled(
    source: str,
    text_column: str = "text",
    label_column: str = "label",
    limit: int | None = None,
    seed: int = 0,
    classes: bool = True,
) -> tuple[list[str], list[str]]:
    """Read texts and their labels: a file, a folder's or a hub data set's train split, or `storyworld`.

    Rows without a text or without that label are skipped. `limit` takes a random subset that `seed`
    fixes; storyworld writes 400 stories by default, none from the seed that wrote the corpus.
    Raises DataError, with `classes` also for fewer than two classes or a class of fewer than five texts.
    """
    if source == "storyworld":
        table = _labelled_stories(limit or LABELLED_STORIES, f"{seed}/labelled")
    else:
        table = _open(source, ("train",))["train"]
    pairs = list(_pairs(table, _texts(table, text_column), label_column))
    if limit and limit < len(pairs):
        pairs = random.Random(f"{seed}/labelled").sample(pairs, limit)
    if classes:
        _check_classes(table.place, label_column, Counter(label for _, label in pairs))
    if not pairs:
        raise DataError(f"{table.place}: no row has both a text and a {label_column!r}")
    texts, labels = zip(*pairs, strict=True)
    return list(texts), list(labels)


def load_texts(source: str, text_column: str = "text") -> list[str]:
    """Read texts in their order: a file, or a folder's or a hub data set's train split; blank ones are left out."""
    table = _open(source, ("train",))["train"]
    return [text for text in _texts(table, text_column) if text]


def _stream(name: str) -> int:
    # a named stream, so that no seed a user may type for one purpose meets another purpose's
    return random.Random(name).getrandbits(32)


def _stories(count: int, stream: str) -> list[str]:
    return [" ".join(story.text.split()) for story in storyworld.sample(count, _stream(stream))]


def _labelled_stories(count: int, stream: str) -> Table:
    stories = storyworld.sample(count, _stream(stream))
    rows = [{"text": story.text, **story.attributes, "slots": story.slots} for story in stories]
    return Table("storyworld", "story", list(enumerate(rows, 1)))


def _shuffled(texts: Iterable[str], stream: str) -> list[str]:
    texts = list(texts)
    random.Random(stream).shuffle(texts)
    return texts


# Where a source is and which of its splits there are


def _open(source: str, wanted: tuple[str, ...]) -> dict[str, Table]:
    """The wanted splits that the source has; `train` always."""
    path = Path(source).expanduser()
    if path.is_dir():
        return {split: _read(file) for split, file in _files(path).items() if split in wanted}
    if path.exists():
        return {"train": _read(path)}
    if HUB_ID.fullmatch(source) and not _format(path):
        return _from_hub(source, wanted)
    raise DataError(
        f"no data {source!r}: it is neither storyworld, nor a hub id such as owner/name, "
        f"nor a file or folder{_nearest_path(path)}"
    )


def _nearest_path(path: Path) -> str:
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    found = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    return f" ({missing.parent} has no {missing.name}{nearest(missing.name, [*found, 'storyworld'])})"


def _files(folder: Path) -> dict[str, Path]:
    there, found = sorted(folder.iterdir()), {}
    for split, names in SPLITS.items():
        files = [file for file in there if _format(file) and file.name.split(".")[0] in names]
        if len(files) > 1:
            both = ", ".join(file.name for file in files)
            raise DataError(f"{folder}: which is the {split} split, {both}? Leave only one of them there")
        if files:
            found[split] = files[0]
    if "train" not in found:
        names = ", ".join(file.name for file in there) or "nothing"
        there_is = f"there is {names}; {_known_formats()}"
        raise DataError(f"{folder}: has no train file such as train.jsonl ({there_is})")
    return found


def _from_hub(source: str, wanted: tuple[str, ...]) -> dict[str, Table]:
    import datasets  # slow to import, and needed for nothing else

    name, revision = HUB_ID.fullmatch(source).groups()
    try:
        loaded = datasets.load_dataset(name, revision=revision)
    except Exception as error:  # the hub's clients raise many kinds, and the way out is the same for all
        first_line = str(error).partition("\n")[0]
        unreachable = isinstance(error, ConnectionError)
        reason = "the hub cannot be reached" if unreachable else f"{type(error).__name__}: {first_line}"
        raise DataError(
            f"{source} is no file or folder here, so it was asked of the hub, but {reason}; put a folder "
            "with train.jsonl and valid.jsonl in its place, for a recipe with "
            'ARGS="data.source=path/to/folder data.text_column=text"'
        ) from None
    tables = {}
    for split in wanted:
        there = next((name for name in SPLITS[split] if name in loaded), None)
        if there:
            rows = list(enumerate(loaded[there].to_list(), 1))
            tables[split] = Table(f"{source}, split {there}", "row", rows)
    if "train" not in tables:
        raise DataError(f"{source}: has no split train (there is {', '.join(loaded)})")
    return tables


# From a file to numbered rows


def _read(path: Path) -> Table:
    """Read one file by its ending; raises DataError with the file's name and the line at fault."""
    reader = READERS.get(_format(path))
    if not reader:
        raise DataError(f"{path}: the format is not known ({_known_formats()})")
    try:
        rows = list(reader(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not rows:
        raise DataError(f"{path}: is empty; it should hold one text a row")
    return Table(str(path), "row" if _format(path) == ".parquet" else "line", rows)


def _format(path: Path) -> str:
    """`.jsonl` for a.jsonl and a.jsonl.gz; '' for what no reader knows."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return "" if ending not in READERS or name.endswith(".parquet.gz") else ending


def _known_formats() -> str:
    return f"known: {', '.join(READERS)}, each but parquet also with .gz"


def _content(path: Path) -> str:
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is not a whole gzip file: {error}") from None


def _read_txt(path: Path) -> Iterator[tuple[int, dict]]:
    text = _content(path).rstrip("\n")
    return ((number, {"text": line}) for number, line in enumerate(text.split("\n") if text else (), 1))


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    # not splitlines(): a JSON string may hold U+2028 and its like as they are
    for number, line in enumerate(_content(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"is not JSON: {error.msg} at column {error.colno}"
            raise DataError(f"{path}, line {number}: {problem}") from None
        if not isinstance(row, dict):
            problem = f'must be an object such as {{"text": "..."}}, is {line[:40]}'
            raise DataError(f"{path}, line {number}: {problem}")
        yield number, row


def _read_separated(path: Path, separator: str) -> Iterator[tuple[int, dict]]:
    # strict: a stray quote is an error here and not a text that swallows the lines after it
    reader = csv.reader(io.StringIO(_content(path), newline=""), delimiter=separator, strict=True)
    hint = "put a field that holds a separator, quote or line break in double quotes, its own quotes doubled"
    try:
        columns = next(reader, [])
        for fields in filter(None, reader):
            if len(fields) != len(columns):
                raise csv.Error(f"has {len(fields)} fields, the first line has {len(columns)}")
            yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; {hint}") from None


def _read_parquet(path: Path) -> Iterator[tuple[int, dict]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: is not a readable parquet file: {error}") from None


READERS: dict[str, Callable[[Path], Iterable[tuple[int, dict]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": lambda path: _read_separated(path, ","),
    ".tsv": lambda path: _read_separated(path, "\t"),
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


# From rows to texts and labels


def _texts(table: Table, column: str) -> list[str]:
    """One text a row with single spaces, '' for a blank one; raises DataError where the column is missing."""
    texts = []
    for number, row in table.rows:
        text = _reach(row, column)
        if text is MISSING:
            raise DataError(
                f"{table.at(number)}: no column {column!r}{_columns([row], column)}; "
                "set text_column to the one that holds the texts"
            )
        if text is not None and not isinstance(text, str):
            raise DataError(f"{table.at(number)}: {column} is {str(text)[:40]}, must be a text")
        texts.append(" ".join((text or "").split()))
    if not any(texts):
        raise DataError(f"{table.place}: no usable row, column {column!r} is blank in all {len(texts)}")
    return texts


def _pairs(table: Table, texts: list[str], column: str) -> Iterator[tuple[str, str]]:
    known = False
    for (number, row), text in zip(table.rows, texts, strict=True):
        label = _reach(row, column)
        if isinstance(label, (dict, list)):
            raise DataError(
                f"{table.at(number)}: {column} holds several values, a label is one{_columns([row], column)}"
            )
        known |= label is not MISSING
        if text and label not in (MISSING, None, ""):
            yield text, str(label)
    if not known:
        there = _columns((row for _, row in table.rows), column)
        raise DataError(f"{table.place}: no row has a column {column!r}{there}")


def _check_classes(place: str, column: str, counts: Counter) -> None:
    shown = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    if len(counts) < 2:
        found = f"only the class {next(iter(counts))!r}" if counts else "no label at all"
        raise DataError(f"{place}: {column} holds {found}; a head needs texts of at least two classes")
    if min(counts.values()) < MIN_PER_CLASS:
        raise DataError(
            f"{place}: {column} needs at least {MIN_PER_CLASS} texts of each class, but holds {shown}; "
            "add texts, raise the limit, or take the small classes out"
        )


def _reach(row: dict, column: str):
    """row["a.b"], or else row["a"]["b"], or else MISSING."""
    if column in row:
        return row[column]
    for key in column.split("."):
        if not isinstance(row, dict) or key not in row:
            return MISSING
        row = row[key]
    return row


def _columns(rows: Iterable[dict], wanted: str) -> str:
    """' (there is a, b.c; did you mean b.c?)' for messages about a column that is not there."""
    names = {name: None for row in rows for name in _flat(row)}  # a dict keeps the order
    return f" (there is {', '.join(names) or 'none'}{nearest(wanted, names)})"


def _flat(row: dict, prefix: str = "") -> Iterator[str]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
