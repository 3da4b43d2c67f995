"""Training and unseen texts with their labels or conditions, of a world such as storyworld or of a data source.

    corpus = load_corpus(DataConfig(source="path/to/folder"), seed=0)
    texts, labels = load_labelled("reviews.jsonl", label_column="sentiment")
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from latdiff.config import MIN_PER_CLASS, DataConfig
from latdiff.data.packed import PackedTexts
from latdiff.data.sources import MISSING, DataError, Sample, Table, columns, listed, open_source, reach
from latdiff.data.splits import LEFT, cut
from latdiff.data.tokens import letters_of, sentences
from latdiff.errors import shown
from latdiff.worlds import Oracle, world

WORLD_TRAINING, WORLD_TEXTS = 60_000, 400  # how many of a world to train on, and for all else
TEXT_COLUMN = "--text-column, in a recipe data.text_column, --labels or --judge HEAD=DATA:COLUMN:TEXT_COLUMN"
LABEL_COLUMN = "--label-column, in a recipe data.condition_column, --labels or --judge HEAD=DATA:COLUMN"
LACKING = {"none": "blank", "label": "without a text or a label", "text": "without a text or a source",
           "prefix": "of less than two sentences", "start": "blank"}


@dataclass(frozen=True)
class Corpus:
    """Training texts, unseen texts for evaluation, and how many rows were left out and why.

    With a condition, a class or a source text for each text, and the classes. `extra` texts train the backbone and the
    autoencoder, but not the denoiser.
    """

    train: PackedTexts
    valid: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    train_conditions: PackedTexts = field(default_factory=PackedTexts)
    valid_conditions: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    extra: PackedTexts = field(default_factory=PackedTexts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the training texts in their order, which what is cached of them is kept with."""
        found = hashlib.sha256()
        for place, text in enumerate(self.train):
            found.update((f"\0{text}" if place else text).encode(errors="surrogatepass"))
        return found.hexdigest()


@dataclass(frozen=True)
class Splits:
    """Pairs of a text and its condition, '' where there is none, and how many rows were left out and why."""

    train: list[tuple[str, str]]
    valid: list[tuple[str, str]]
    dropped: dict[str, int]


def load_corpus(data: DataConfig, seed: int, extra: bool = False) -> Corpus:
    """Read and clean the training and the unseen texts.

    White space becomes single spaces. Left out and counted are blank texts, texts without the condition that
    `data.condition` requires, and training texts with the same letters and digits as another one or as an unseen
    one, or with an unseen one's source text. A source without unseen texts has a tenth of its texts at most, or what
    `train_size` leaves, held out. With `train_size`, a hub data set is sampled and need not be read whole.

    Args:
        data: the recipe's section.
        seed: fixes the order of the texts.
        extra: whether to read `data.extra_sources`, without texts that are known already.

    Returns:
        The corpus.

    Raises:
        DataError: for a source that cannot be used.
    """
    oracle = world(data.source)
    splits = _world_splits(oracle, data, seed) if oracle else _own_splits(data, seed)
    train, valid = splits.train[: data.train_size or None], splits.valid[: data.valid_size]
    for split, name, beside in ((train, "training", " beside the unseen ones"), (valid, "unseen", "")):
        if not split:
            counts = ", ".join(f"{count:,} {why}" for why, count in splits.dropped.items())
            raise DataError(f"{data.source}: no {name} text is left{beside} (left out: {counts}); give more texts")
    more = PackedTexts(_extra(data, seed, train, valid) if extra else ())
    if data.condition == "none":
        texts = PackedTexts(text for text, _ in train)
        return Corpus(texts, [text for text, _ in valid], splits.dropped, extra=more)
    classes = []
    if data.condition == "label":
        classes = _classes(data, Counter(label for _, label in train), {label for _, label in valid})
        valid = [row for row in valid if row[1] in classes]
        if not valid:
            known = listed(classes)
            raise DataError(f"{data.source}: no unseen text has one of the training texts' classes, {known}")
    texts, conditions = (PackedTexts(row[side] for row in train) for side in (0, 1))
    unseen, unseen_conditions = ([row[side] for row in valid] for side in (0, 1))
    return Corpus(texts, unseen, splits.dropped, conditions, unseen_conditions, classes, more)


@dataclass(frozen=True)
class Labelled:
    """Texts, their labels, and how many rows of the source were left out and why."""

    texts: list[str]
    labels: list[str]
    dropped: dict[str, int]


def load_labelled(
    source: str,
    text_column: str = "text",
    label_column: str = "label",
    limit: int | None = None,
    seed: int = 0,
    classes: bool = True,
) -> tuple[list[str], list[str]]:
    """Read texts and their labels; rows without either are skipped, `read_labelled` counts them.

    Args:
        source: a file, a folder or a hub id, whose train split is read, or "storyworld".
        text_column: column of the texts.
        label_column: column of the labels.
        limit: size of a random subset; None for all texts, of storyworld for 400.
        seed: fixes the subset.
        classes: whether the labels are classes: at least two, of at least five texts each.

    Returns:
        Texts and their labels.

    Raises:
        DataError: for a source or labels that cannot be used.
    """
    read = read_labelled(source, text_column, label_column, limit, seed, classes)
    return read.texts, read.labels


def read_labelled(
    source: str, text_column: str = "text", label_column: str = "label", limit: int | None = None, seed: int = 0,
    classes: bool = True,
) -> Labelled:
    """As `load_labelled`, with a count of the rows "without a text" and "without a label", before the limit."""
    table = _training_table(source, limit, f"{seed}/labelled")
    found = _texts(table, text_column)
    pairs = [(text, label) for _, text, label in _labelled(table, found, label_column)]
    with_text = sum(map(bool, found))
    dropped = {"without a text": len(found) - with_text, "without a label": with_text - len(pairs)}
    if limit and limit < len(pairs):
        pairs = random.Random(f"{seed}/labelled").sample(pairs, limit)
    if classes:
        _check_kinds(table, label_column)
        more = ", or fit a head of numbers with --number" if are_measures([label for _, label in pairs]) else ""
        _check_classes(table.place, label_column, Counter(label for _, label in pairs), more)
    if not pairs:
        raise DataError(f"{table.place}: no row has both a text and a {label_column!r}")
    return Labelled([text for text, _ in pairs], [label for _, label in pairs], dropped)


def are_measures(labels: list[str]) -> bool:
    """Whether labels are all numbers, and most of them not whole: measured, and not the names of classes."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    whole = sum(number.is_integer() for number in numbers)
    return all(map(math.isfinite, numbers)) and whole < len(numbers) / 2


def load_texts(source: str, text_column: str = "text", limit: int | None = None, seed: int = 0) -> list[str]:
    """Read texts in their order, without blank ones.

    Args:
        source: a file, a folder or a hub id, whose train split is read, or "storyworld".
        text_column: column of the texts.
        limit: how many of them, the first; None for all texts, of storyworld for 400.
        seed: fixes those of storyworld.

    Returns:
        The texts.

    Raises:
        DataError: for a source that cannot be used.
    """
    table = _training_table(source, limit, f"{seed}/texts")
    return [text for text in _texts(table, text_column) if text][:limit]


def _training_table(source: str, limit: int | None, stream: str) -> Table:
    """The train split of a source, or texts of a world, as many as the limit."""
    oracle = world(source)
    if oracle:
        return _world_table(oracle, source, limit or WORLD_TEXTS, stream)
    return open_source(source, ("train",))["train"]


def _world_splits(oracle: Oracle, data: DataConfig, seed: int) -> Splits:
    sizes = {"train": data.train_size or WORLD_TRAINING, "valid": data.valid_size}
    rows = {split: _rows(_world_table(oracle, data.source, size, f"{seed}/{split}"), data)
            for split, size in sizes.items()}
    # repeats stay as the grammar sampled them, and its spelling has no variants
    train, valid = (_shuffled(filter(any, rows[split]), f"{seed}/{split} order") for split in rows)
    unseen = {text for text, _ in valid}
    kept = [row for row in train if row[0] not in unseen]
    blank = sum(not any(row) for split in rows.values() for row in split)
    return Splits(kept, valid, {LACKING[data.condition]: blank, "also unseen": len(train) - len(kept)})


def _own_splits(data: DataConfig, seed: int) -> Splits:
    sample = Sample(data.train_size, data.valid_size, _stream(f"{seed}/hub rows")) if data.train_size else None
    split = open_source(data.source, tuple(map(str, data.splits)), sample)
    read = [_rows(table, data) for table in split.values()]
    given, *unseen_ones = ([row for row in rows if row[0]] for rows in read)
    distinct = _distinct(given)
    train = _by_source(_shuffled(distinct.items(), f"{seed}/train order"), data)
    if unseen_ones:
        marked = [(_mark(row[0]), row) for row in unseen_ones[0]]
        valid = _by_source(_shuffled(marked, f"{seed}/valid order"), data)
    else:
        held_out = _held_out(len(train), data)
        train, valid = train[held_out:], train[:held_out]
    unseen = {mark for mark, _ in valid}
    sources = {_mark(condition) for _, (_, condition) in valid} if data.condition == "text" else ()
    kept = [row for mark, row in train if mark not in unseen and (not sources or _mark(row[1]) not in sources)]
    dropped = {
        LACKING[data.condition]: sum(not text for rows in read for text, _ in rows),
        "repeated": len(given) - len(distinct), "also unseen": len(train) - len(kept),
    }
    return Splits(kept, [row for _, row in valid], dropped)


def _extra(data: DataConfig, seed: int, train: list[tuple[str, str]], valid: list[tuple[str, str]]) -> list[str]:
    """Distinct texts of the extra sources without training texts, unseen texts and their sources."""
    known = {_mark(text) for rows in (train, valid) for text, _ in rows}
    known |= {_mark(condition) for _, condition in valid if data.condition == "text"}
    texts = [text for source in map(str, data.extra_sources)
             for text in load_texts(source, data.text_column, WORLD_TRAINING if world(source) else None, seed)]
    return [text for mark, (text, _) in _distinct([(text, "") for text in texts]).items() if mark not in known]


def _rows(table: Table, data: DataConfig) -> list[tuple[str, str]]:
    """Text and condition of every row; ('', '') where either is missing."""
    table = _one_a_row(table, data.text_column)
    texts = _texts(table, data.text_column)
    if data.condition == "none":
        return [(text, "") for text in texts]
    if data.condition == "prefix":  # the first sentence is the condition, the rest the text
        parts = [sentences(text) for text in texts]
        return [("".join(part[1:]), part[0].strip()) if len(part) > 1 else ("", "") for part in parts]
    if data.condition == "start":
        return [_started(text) for text in texts]
    if data.condition == "label":
        _check_kinds(table, data.condition_column)
    conditions = {number: condition for number, _, condition in _labelled(table, texts, data.condition_column)}
    return [(text, conditions[number]) if number in conditions else ("", "")
            for (number, _), text in zip(table.rows, texts, strict=True)]


def _started(text: str) -> tuple[str, str]:
    """The rest of a text and its first words, of any number; every other text stays whole, with '' for its start."""
    rng, words = random.Random(f"start/{text}"), text.split()
    if len(words) <= LEFT or rng.random() < 0.5:
        return text, ""
    split = cut(text, rng.randint(1, len(words) - LEFT))
    return split.behind, split.before


def _classes(data: DataConfig, counts: Counter, unseen: set[str]) -> list[str]:
    """The recipe's classes, or those of the training texts. Raises DataError for classes that cannot be learnt."""
    _check_classes(data.source, data.condition_column, counts)
    if not data.classes:
        return sorted(counts)
    known = [str(label) for label in data.classes]
    other = sorted({*counts, *unseen} - set(known))
    if other:
        raise DataError(
            f"{data.source}: column {data.condition_column!r} has {', '.join(map(shown, other[:5]))}, which "
            f"data.classes does not list ({listed(known)}); list them, or leave data.classes out"
        )
    return known


def _held_out(count: int, data: DataConfig) -> int:
    """Number of the training split's texts to hold out, where the source has no unseen texts."""
    spare = count - data.train_size if data.train_size else 0  # not trained on in any case
    return min(data.valid_size, max(1, count // 10, spare))


def _by_source(marked: list[tuple[bytes, tuple[str, str]]], data: DataConfig) -> list[tuple[bytes, tuple[str, str]]]:
    """Rows with their marks, grouped by source text, so that a split divides one group at most."""
    if data.condition != "text":
        return marked
    together: dict[bytes, list] = {}
    for mark, row in marked:
        together.setdefault(_mark(row[1]), []).append((mark, row))
    return [one for rows in together.values() for one in rows]


def _distinct(rows: list[tuple[str, str]]) -> dict[bytes, tuple[str, str]]:
    """The first row of each group of duplicates, by the mark that they share."""
    first: dict[bytes, tuple[str, str]] = {}
    for row in rows:
        first.setdefault(_mark(row[0]), row)
    return first


def _mark(text: str) -> bytes:
    """A digest of the letters that duplicates share, which are longer."""
    return hashlib.blake2b(letters_of(text).encode(errors="surrogatepass"), digest_size=16).digest()


def _stream(name: str) -> int:
    # named streams, so that equal seeds of different purposes give different numbers
    return random.Random(name).getrandbits(32)


def _world_table(oracle: Oracle, source: str, count: int, stream: str) -> Table:
    sampled = oracle.sample(count, _stream(stream))
    rows = [{"text": one.text, **one.attributes, "slots": one.slots} for one in sampled]
    return Table(source, "text", list(enumerate(rows, 1)))


def _shuffled(items: Iterable, stream: str) -> list:
    items = list(items)
    random.Random(stream).shuffle(items)
    return items


# From rows to texts and labels


def _one_a_row(table: Table, column: str) -> Table:
    """A row per text of a column with lists of texts, such as ASSET's simplifications of one sentence."""
    rows = []
    for number, row in table.rows:
        held = reach(row, column)
        rows += [(number, row | {column: text}) for text in held] if isinstance(held, list) else [(number, row)]
    return Table(table.place, table.unit, rows)


def _texts(table: Table, column: str) -> list[str]:
    """The text of each row with single spaces, '' for a blank one.

    Raises DataError for a table without rows, where the column is missing, and if every text is blank.
    """
    if not table.rows:
        raise DataError(f"{table.place}: is empty; it should have one text per row")
    texts = []
    for number, row in table.rows:
        text = _none_for_nan(reach(row, column))
        if text is MISSING:
            raise DataError(
                f"{table.at(number)}: no column {column!r}{columns([row], column)}; "
                f"name that of the texts: {TEXT_COLUMN}"
            )
        if text is not None and not isinstance(text, str):
            raise DataError(f"{table.at(number)}: {column} is {shown(text)}, must be a text")
        _check_whole(table.at(number), column, text or "")
        single = " ".join((text or "").split())
        texts.append(text if single == text else single)  # one string, not a second one that is equal
    if not any(texts):
        there = columns((row for _, row in table.rows), "")
        raise DataError(
            f"{table.place}: no usable row, column {column!r} is blank in all {len(texts)}{there}; "
            f"give texts, or name their column: {TEXT_COLUMN}"
        )
    return texts


def _labelled(table: Table, texts: list[str], column: str) -> Iterator[tuple[int, str, str]]:
    """Number, text and label of the rows that have both. Raises DataError for a column that cannot be used."""
    known = False
    for (number, row), text in zip(table.rows, texts, strict=True):
        label = _none_for_nan(reach(row, column))
        if isinstance(label, (dict, list)):
            raise DataError(
                f"{table.at(number)}: {column} has several values, must have a single one{columns([row], column)}"
            )
        if isinstance(label, bytes):
            raise DataError(f"{table.at(number)}: {column} is {shown(label)}, must be a text or a number")
        known |= label is not MISSING
        label = "" if label in (MISSING, None) else _class_of(label)
        _check_whole(table.at(number), column, label)
        if text and label:
            yield number, text, label
    if not known:
        there = columns((row for _, row in table.rows), column)
        raise DataError(f"{table.place}: no row has a column {column!r}{there}; name that of the labels: "
                        f"{LABEL_COLUMN}")


def _class_of(label: object) -> str:
    """A label as the name of a class, with single spaces."""
    return " ".join(str(label).split())


def _check_kinds(table: Table, column: str) -> None:
    """Raise DataError for a class that is a text in one row and a number or truth value in another, as JSON can be."""
    first: dict[str, tuple[int, object]] = {}
    for number, row in table.rows:
        label = _none_for_nan(reach(row, column))
        if not isinstance(label, (str, bool, int, float)):
            continue
        before, other = first.setdefault(_class_of(label), (number, label))
        if isinstance(label, str) != isinstance(other, str):
            raise DataError(f"{table.at(before)}: {column} is {shown(other)}, but {table.unit} {number} has "
                            f"{shown(label)}, and both would be one class; write it in all rows alike")


def _none_for_nan(value):
    """A cell, with None in place of NaN, which pandas writes where a value is missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_whole(place: str, column: str, text: str) -> None:
    """Raise DataError for half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {column} holds {text[error.start]!a}, half of a surrogate pair, which is half a "
                        "character; drop it, or export the texts again") from None


def _check_classes(place: str, column: str, counts: Counter, more: str = "") -> None:
    found_of = listed([f"{label} {count}" for label, count in counts.most_common()])
    if len(counts) < 2:
        found = f"only the class {shown(next(iter(counts)))}" if counts else "no label at all"
        raise DataError(f"{place}: {column} has {found}; texts of at least two classes are needed")
    if min(counts.values()) < MIN_PER_CLASS:
        raise DataError(
            f"{place}: {column} needs at least {MIN_PER_CLASS} texts of each class, but has {found_of}; "
            f"add texts, raise the limit, or take the small classes out{more}"
        )


