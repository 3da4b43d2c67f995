"""Put together the texts of the recipe english: short ones of five kinds, from public data sets in one folder.

    python -m latdiff.recipes.english_texts path/to/sets data/english

Reads yelp_shen/{test,valid}, paradetox/train, ag_news/{train,test}, caption_styles/train, multi30k_captions/train and
tatoeba/train below the first folder, as .jsonl or .jsonl.gz with a column `text`, and writes to the second one
train.jsonl and valid.jsonl with the columns text and kind (review, comment, headline, caption, remark), and for each
attribute (sentiment, toxicity, topic, kind) ATTRIBUTE-head.jsonl and ATTRIBUTE-judge.jsonl with text and label: the
first of training texts, for heads, the second of texts that the training does not see, for judges and for comparison
with real texts. headlines.csv, with text and label, has all headlines but those of headlines-labelled.jsonl: a corpus
of one kind, for the recipe english-own.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from latdiff.data.tokens import letters_of
from latdiff.errors import UserError, plain_errors


class Kind(NamedTuple):
    """Where the texts of a kind come from."""

    files: tuple[str, ...]
    longest: int  # words
    most: int  # training texts
    attribute: str = ""  # that its labels are of
    unseen: str = ""  # file of texts that are held out; '': a fifth of the others, at most HELD_OUT


KINDS = {
    "review": Kind(("yelp_shen/test",), 20, 24_000, "sentiment", "yelp_shen/valid"),
    "comment": Kind(("paradetox/train",), 24, 14_000, "toxicity"),
    "headline": Kind(("ag_news/train", "ag_news/test"), 20, 16_000, "topic"),
    "caption": Kind(("caption_styles/train", "multi30k_captions/train"), 20, 10_000),
    "remark": Kind(("tatoeba/train",), 20, 12_000),
}
LEAST, HELD_OUT, OF_JUDGES = 3, 4000, 40_000  # words; texts of each kind; at most, where they have a file of their own
OF_HEADS, UNSEEN = 2000, 200  # labelled texts of each kind, for heads and to judge kinds; of each kind in valid
OF_HEADLINES = 1000  # headlines of headlines-labelled.jsonl, at most
LATIN = re.compile("[\u0020-\u024f\u2010-\u2044]+")  # and typographic punctuation
AGENCY = re.compile(r"\s*\((AP|AFP|Reuters|SPACE\.com|washingtonpost\.com|TechWeb)\)\s*$")


def read(folder: Path, name: str) -> list[dict]:
    """Rows of NAME.jsonl or NAME.jsonl.gz; raises UserError where there is neither."""
    plain, packed = folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"
    if not plain.exists() and not packed.exists():
        raise UserError(f"{folder} holds neither {name}.jsonl nor {name}.jsonl.gz; see docs/english.md for the sets")
    with open(plain, encoding="utf-8") if plain.exists() else gzip.open(packed, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rows_of(folder: Path, files: Sequence[str], kind: str, seed: int) -> list[dict]:
    """Distinct texts of a kind with their labels, '' where there is none, in an order of the seed's.

    Texts that are rewritten from one another stay together, so that hardly any is held out of its fellows.
    """
    found: dict[str, dict] = {}
    for name in files:
        rows = read(folder, name)
        if name.startswith("multi30k"):  # many captions of few pictures
            rows = rows[: KINDS[kind].most]
        for row in rows:
            text = AGENCY.sub("", row.get("title") or "") if kind == "headline" else row["text"]
            if LEAST <= len(text.split()) <= KINDS[kind].longest and "_num_" not in text and LATIN.fullmatch(text):
                found.setdefault(text.lower(), {"text": text, "kind": kind, "label": row.get("label", ""),
                                                "group": row.get("pair", text)})
    groups = sorted({row["group"] for row in found.values()})
    random.Random(f"{seed}/{kind}").shuffle(groups)
    place = {group: index for index, group in enumerate(groups)}
    return sorted(found.values(), key=lambda row: place[row["group"]])


def parted(folder: Path, kind: str, seed: int) -> tuple[list[dict], list[dict]]:
    """The texts of a kind to train on, and those that are held out."""
    files, _, most, _, unseen = KINDS[kind]
    rows = rows_of(folder, files, kind, seed)
    if unseen:
        seen = {letters_of(row["text"]) for row in rows}
        others = [row for row in rows_of(folder, [unseen], kind, seed) if letters_of(row["text"]) not in seen]
        return rows[:most], others[:OF_JUDGES]
    held = min(HELD_OUT, len(rows) // 5)
    return rows[held : held + most], rows[:held]


def write(path: Path, rows: Iterable[dict], *columns: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({column: row[column] for column in columns}, ensure_ascii=False) + "\n")


def write_headlines(folder: Path, output: Path, seed: int) -> None:
    """Write headlines.csv, and headlines-labelled.jsonl of those that it is without."""
    rows = rows_of(folder, KINDS["headline"].files, "headline", seed)
    held = min(OF_HEADLINES, len(rows) // 5)
    write(output / "headlines-labelled.jsonl", rows[:held], "text", "label")
    known = {letters_of(row["text"]) for row in rows[:held]}
    with open(output / "headlines.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("text", "label"), extrasaction="ignore")
        table.writeheader()
        table.writerows(row for row in rows[held:] if letters_of(row["text"]) not in known)


def put_together(folder: Path, output: Path, seed: int = 0) -> dict[str, int]:
    """Write the files; returns the number of training texts of each kind."""
    train: list[dict] = []
    valid: list[dict] = []
    judged: list[dict] = []
    output.mkdir(parents=True, exist_ok=True)
    for kind, (_, _, _, attribute, _) in KINDS.items():
        seen, unseen = parted(folder, kind, seed)
        train, valid = train + seen, valid + unseen[:UNSEEN]
        judged += [row | {"label": kind} for row in unseen[:OF_HEADS]]
        if attribute:
            labelled = [row for row in seen if row["label"]]
            write(output / f"{attribute}-head.jsonl", labelled[:OF_HEADS], "text", "label")
            write(output / f"{attribute}-judge.jsonl", (row for row in unseen if row["label"]), "text", "label")
    for name, rows in (("train", train), ("valid", valid)):
        random.Random(seed).shuffle(rows)
        write(output / f"{name}.jsonl", rows, "text", "kind")
    kinds = [row | {"label": row["kind"]} for row in train[:OF_HEADS]]
    write(output / "kind-head.jsonl", kinds, "text", "label")
    random.Random(seed).shuffle(judged)
    write(output / "kind-judge.jsonl", judged, "text", "label")
    write_headlines(folder, output, seed)
    return {kind: sum(row["kind"] == kind for row in train) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the data sets")
    parser.add_argument("output", type=Path, help="folder of the recipe's texts")
    parser.add_argument("--seed", type=int, default=0, help="of the order, and of what is held out (default 0)")
    options = parser.parse_args()
    for kind, count in put_together(options.folder, options.output, options.seed).items():
        print(f"{count:,} texts of the kind {kind} -> {options.output}")


if __name__ == "__main__":
    with plain_errors():
        main()
