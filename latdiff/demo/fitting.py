"""A head from examples that somebody pastes or uploads, and how far it can be trusted."""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latdiff.data.corpus import LABEL_COLUMN, TEXT_COLUMN, read_labelled
from latdiff.demo.requests import MOST_NAME, MOST_PASTED, head_name, text_of
from latdiff.demo.shelf import Shelf
from latdiff.errors import UserError, shortened, shown
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.fitting import fit_head
from latdiff.heads.guessing import may_be_chance

MOST_BYTES = 2_000_000  # of a file
MOST_EXAMPLES = 2_000  # that are read; of more, as many are drawn
MOST_LABELS = 12
MOST_HEADS = 6  # of one visitor
ON_THE_PAGE = {TEXT_COLUMN: "the box Column of the texts", LABEL_COLUMN: "the box Column of the labels",
               "with --number": "with `latdiff fit-head --number`"}  # for flags of commands in messages
ENDINGS = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Fitted:
    """A head of a visitor's own.

    Attributes:
        checkpoint: whose latents it reads.
        head: fitted.
        counts: how many texts of each label it was fitted on.
        left_out: how many rows were left out, by reason.
        seconds: that fitting took.
    """

    checkpoint: str
    head: AttributeHead
    counts: dict[str, int] = field(hash=False)
    left_out: dict[str, int] = field(hash=False)
    seconds: float

    @property
    def chance(self) -> bool:
        """Whether what it gets right may be chance."""
        return may_be_chance(self.head.report)


def heads_of(own: tuple[Fitted, ...], checkpoint: str) -> dict[str, AttributeHead]:
    """A visitor's heads of one checkpoint, by name."""
    return {one.head.name: one.head for one in own if one.checkpoint == checkpoint}


def fit(shelf: Shelf, own: tuple[Fitted, ...], checkpoint: Any, name: Any, pasted: Any, file: Any = None,
        text_column: Any = "text", label_column: Any = "label") -> Fitted:
    """Fit a head of labels on examples.

    Args:
        shelf: the checkpoints.
        own: the visitor's heads, of which one of the same name is replaced by whoever called.
        checkpoint: a name on the shelf.
        name: of the attribute.
        pasted: the examples as CSV, TSV or JSONL.
        file: the path of a file of them, in place of `pasted`.
        text_column: of the texts.
        label_column: of the labels.

    Returns:
        The head, with what was left out.

    Raises:
        UserError: For examples that cannot be read or fitted, or are too many.
    """
    began = time.monotonic()
    given = text_of("checkpoint", checkpoint, 300)
    columns = [text_of(which, column, 200).strip() or usual for which, column, usual in (
        ("column of the texts", text_column, "text"), ("column of the labels", label_column, "label"))]
    content, ending = _content(text_of("examples", pasted, MOST_PASTED), file)
    named = text_of("name of the attribute", name, 10 * MOST_NAME).strip()
    others = [one for one in own if (one.checkpoint, one.head.name) != (given, named)]
    if len(others) >= MOST_HEADS:
        raise UserError(f"there are {len(others)} heads of yours already, which is as many as the page keeps; give "
                        "this one the name of a head that it may replace, or load the page again")
    with shelf.use(given) as opened:
        called = head_name(name, opened.heads)
        read = _read(content, ending, *columns)
        given_labels = sorted(set(read.labels))
        if len(given_labels) > MOST_LABELS:
            raise UserError(f"the column {columns[1]!r} has {len(given_labels):,} different labels, must have at most "
                            f"{MOST_LABELS} here ({shortened(', '.join(given_labels), 120)})")
        codec = opened.pipe.codec
        fits = codec.fits(read.texts)
        texts, labels = (list(itertools.compress(column, fits)) for column in (read.texts, read.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the page itself says where a head is at chance
            head = fit_head(codec, texts, labels, name=called)
    counts = {label: labels.count(label) for label in given_labels}
    left_out = {"too long": fits.count(False), **read.dropped}
    return Fitted(given, head, counts, {why: count for why, count in left_out.items() if count},
                  time.monotonic() - began)


def _content(pasted: str, file: Any) -> tuple[bytes, str]:
    """The examples and the ending that tells their format; a file goes before what was pasted."""
    if file is None:
        if not pasted.strip():
            raise UserError("there are no examples; paste some, upload a file, or click an example")
        lines = pasted.lstrip("\r\n ")  # no tab: a column without a name, as pandas' index is, ends in one
        first = lines.partition("\n")[0]
        ending = ".tsv" if "\t" in first and "," not in first else ".csv"
        if first.lstrip().startswith("{"):
            ending = ".jsonl"
        return (lines if ending == ".tsv" else lines.lstrip()).encode("utf-8", "surrogatepass"), ending
    path = Path(file) if isinstance(file, str) else None
    if path is None or not path.is_file():
        raise UserError(f"the file is {shown(file)}, must be one that was uploaded")
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"the file is {shown(path.name)}, must end in {', '.join(ENDINGS)}")
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{shortened(path.name)} has more than {MOST_BYTES:,} bytes; upload a part of it, for a few "
                        "hundred examples will do")
    return content, path.suffix.lower()


def _read(content: bytes, ending: str, text_column: str, label_column: str):
    """As latdiff reads any data, from a copy of its own; messages name boxes of the page, not that folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / f"examples{ending}"
        place.write_bytes(content)
        try:
            return read_labelled(str(place), text_column, label_column, MOST_EXAMPLES)
        except UserError as error:
            said = str(error).replace(f"{folder}/", "")
            for flag, box in ON_THE_PAGE.items():
                said = said.replace(flag, box)
            raise UserError(said) from None


def replaced(own: tuple[Fitted, ...], new: Fitted) -> tuple[Fitted, ...]:
    """A visitor's heads with a new one, in place of that of the same name."""
    return (*(one for one in own if (one.checkpoint, one.head.name) != (new.checkpoint, new.head.name)), new)
