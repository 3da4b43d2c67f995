"""Files of texts that tests write themselves, and what latdiff.data.corpus makes of them."""

import csv
import io
import json

from latdiff.config import DataConfig
from latdiff.data.corpus import load_corpus

TEXTS = [f"Text number {number}." for number in range(40)]


def corpus(source, seed=0, **settings):
    return load_corpus(DataConfig(source=str(source), **settings), seed, extra="extra_sources" in settings)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_jsonl(path, texts):
    return jsonl(path, [{"text": text} for text in texts])


def separated(texts, separator):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([["id", "text"], *enumerate(texts)])
    return buffer.getvalue().encode()


def encoded(texts, ending):
    if ending == ".jsonl":
        return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if ending == ".txt":
        return "\n".join(texts).encode()
    return separated(texts, "," if ending == ".csv" else "\t")
