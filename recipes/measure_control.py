"""Measure Diffusion-LM's control tasks by plug-in heads alone: words that a text must hold, and its length.

    python recipes/measure_control.py checkpoints/e2e --data path/to/e2e --targets control_target_attribute.jsonl \\
        --fluency checkpoints/e2e-ar --json docs/results/e2e-control.json

A target is a row whose text is `field : value`, and it is met where the value stands in the text as words (semantic
content: Li et al. 2022, section 5). There is a head for every field, fitted on which of its values stands in a text. A
length in words is met within two, by one head of numbers. Beside every success stand perplexity and diversity, and
those of unsteered texts.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

import torch

from latdiff import metrics
from latdiff.cards import row_line, write_json
from latdiff.cli import machine
from latdiff.config import MIN_PER_CLASS, UserError, plain_errors
from latdiff.data import load_texts
from latdiff.heads import AttributeHead, NumberHead
from latdiff.judges import FluencyJudge
from latdiff.pipeline import load_pipeline

LENGTHS = (10, 15, 20, 25, 30)  # words
NEITHER = "none of them"


def read_targets(path: str) -> dict[str, list[str]]:
    """Field -> values. Raises UserError for a row that is not `field : value`."""
    found: dict[str, list[str]] = {}
    for text in load_texts(path):
        field, colon, value = text.partition(" : ")
        if not colon:
            raise UserError(f"--targets {path}: {text!r} is not a target such as 'food : Italian'")
        # the targets are tokenised: a currency sign stands apart from its number
        found.setdefault(field, []).append(re.sub(r"£ (?=\d)", "£", value).replace(" - ", "-"))
    return found


def fit(pipe, field: str, values: list[str], texts: list[str]) -> AttributeHead | None:
    """A head of the values that stand in enough of the texts; None where there are not two labels."""
    labels = [next((value for value in values if metrics.holds(text, value)), NEITHER) for text in texts]
    enough = {label for label in set(labels) if labels.count(label) >= MIN_PER_CLASS}
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if label in enough]
    if len(enough) < 2:
        return None
    return AttributeHead.fit(pipe, [text for text, _ in rows], [label for _, label in rows], name=field)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="texts to fit the heads on")
    parser.add_argument("--targets", required=True, help="rows with a text such as 'food : Italian'")
    parser.add_argument("--fluency", required=True, help="a causal language model, folder or hub id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=6000, help="texts to fit the heads on (default 6000)")
    parser.add_argument("--num-samples", type=int, default=50, help="texts a target (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    options = parser.parse_args()
    pipe = load_pipeline(options.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    targets, fluency = read_targets(options.targets), FluencyJudge(options.fluency)
    texts = load_texts(options.data)
    texts = random.Random(options.seed).sample(texts, min(options.texts, len(texts)))
    texts = [text for text, fits in zip(texts, pipe.codec.fits(texts), strict=True) if fits]
    began, n = time.monotonic(), options.num_samples
    document = {"checkpoint": options.checkpoint.name, "seed": options.seed, "machine": machine(),
                "texts": len(texts), "fluency": fluency.path, "rows": []}  # fmt: skip

    def note(title: dict, guides: list, met) -> None:
        written = pipe(num_samples=n, guides=guides, generator=torch.Generator().manual_seed(options.seed)).texts
        row = title | {
            "n": n, "success": sum(bool(met(text)) for text in written) / n,
            "perplexity": fluency.perplexity(written)["tokens"], "diversity": metrics.diversity(written),
            "distinct": metrics.distinct(written), "samples": written[:3],
        }  # fmt: skip
        document["rows"].append(row)
        document["minutes"] = round((time.monotonic() - began) / 60, 2)
        write_json(options.json, document)
        print(row_line(row))

    note({"task": "unsteered"}, [], lambda text: True)
    for field, values in targets.items():
        head = fit(pipe, field, values, texts)
        for value in values:
            known = head is not None and value in head.labels
            title = {"task": "content", "field": field, "target": value, "fitted": known}
            note(title, [head.toward(value)] if known else [], lambda text, value=value: metrics.holds(text, value))
    words = NumberHead.fit(pipe, texts, [len(text.split()) for text in texts], name="words")
    for length in LENGTHS:
        title = {"task": "length", "target": length}
        note(title, [words.toward(length)], lambda text, length=length: abs(len(text.split()) - length) <= 2)
    tasks = {task: [row for row in document["rows"] if row["task"] == task] for task in ("content", "length")}
    tasks["content with a head"] = [row for row in tasks["content"] if row["fitted"]]
    document["means"] = {task: {key: metrics.mean_of(rows, key) for key in ("success", "perplexity", "diversity")}
                         for task, rows in tasks.items() if rows}  # fmt: skip
    write_json(options.json, document)
    print(document["means"])


if __name__ == "__main__":
    with plain_errors():
        main()
