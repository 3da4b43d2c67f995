"""Measure editing on texts that people rewrote, with judges other than the guide, and write every figure as JSON.

    python benchmarks/editing.py checkpoints/yelp --head sentiment --data rewrites.jsonl \\
        --judge other.jsonl --fluency checkpoints/yelp-ar --json docs/lab/results/yelp-editing.json

A row of DATA holds `source`, a human rewrite of it as `text`, and the rewrite's `label`, which the source is
steered to. Every mode, strength and scale is a row, after the unchanged sources, the human rewrites, and the sources
through the autoencoder alone. BLEU against the sources measures how much is kept.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from latdiff.data.corpus import load_labelled
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation import metrics
from latdiff.evaluation.judges import FluencyJudge, LabelJudge, SeenTexts
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.inputs import HeadError
from latdiff.pipelines.files import load_for_commands

MODES = ("x0", "denoiser")
STRENGTHS = (0.35, 0.5, 0.65, 0.8)
SCALES = (1.0, 2.0, 4.0)  # times the usual one of a sample


@dataclass(frozen=True)
class Rewrites:
    """Sources, their target labels and their human rewrites."""

    sources: list[str]
    targets: list[str]
    references: list[str]


def load_rewrites(data: str, fits) -> tuple[Rewrites, int]:
    """The rows whose source `fits(texts)`, and how many do not. Raises UserError for rows that lack a column."""
    sources, references = load_labelled(data, "source", "text", classes=False)
    again, targets = load_labelled(data, "source", "label", classes=False)
    if sources != again:
        raise UserError(f"--data {data}: every row needs source, text and label; some lack one of them")
    fitting = fits(sources)
    kept = (list(itertools.compress(column, fitting)) for column in (sources, targets, references))
    return Rewrites(*kept), fitting.count(False)


def compared(texts: list[str], rewrites: Rewrites, judge: LabelJudge, fluency: FluencyJudge) -> dict:
    """One row about one set of rewrites."""
    hits = [found == wanted for found, wanted in zip(judge.predict(texts), rewrites.targets, strict=True)]
    return {
        "success": sum(hits) / len(hits),
        "bleu": metrics.bleu(texts, [[one] for one in rewrites.references]),
        "bleu_of_sources": metrics.bleu(texts, [[one] for one in rewrites.sources]),
        "unchanged": metrics.exact_match(texts, rewrites.sources),
        "perplexity": fluency.perplexity(texts)["tokens"],
        "samples": texts[:8] + texts[-8:],
    }


def edited(pipe, head, rewrites: Rewrites, strength: float, scale: float, mode: str, seed: int) -> list[str]:
    """Every source steered to its target, label by label."""
    texts = list(rewrites.sources)
    for label in sorted(set(rewrites.targets)):
        rows = [i for i, target in enumerate(rewrites.targets) if target == label]
        guides, generator = [head.toward(label, scale, mode)], torch.Generator().manual_seed(seed)
        out = pipe.edit([texts[i] for i in rows], guides, strength, generator=generator)
        for i, text in zip(rows, out.texts, strict=True):
            texts[i] = text
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--head", required=True, help="fitted by `latdiff fit-head`")
    parser.add_argument("--data", required=True, help="rows of source, text and label")
    parser.add_argument("--judge", required=True, help="labelled texts that the head has not seen")
    parser.add_argument("--fluency", required=True, help="a causal language model, folder or hub id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    options = parser.parse_args()
    pipe = load_for_commands(options.checkpoint, quiet=True)
    head, fluency = load_head(options.checkpoint / "heads" / options.head), FluencyJudge(options.fluency)
    rewrites, too_long = load_rewrites(options.data, pipe.codec.fits)
    labels = list(map(str, head.classes_)) if isinstance(head, AttributeHead) else []
    other = sorted(set(rewrites.targets) - set(labels)) if labels else ["any label"]
    if other:
        raise HeadError(f"head {head.name!r} cannot steer to {', '.join(other)}, which --data {options.data} asks for")
    judged = SeenTexts("the rewrites", labels, rewrites.sources + rewrites.references)
    judge = LabelJudge.apart_from([head, judged], *load_labelled(options.judge))

    began = time.monotonic()
    document = {
        "checkpoint": options.checkpoint.name, "seed": options.seed, "machine": machine(pipe.config.dtype),
        "judge": judge.describe(),
        "n": len(rewrites.sources), "too_long": too_long, "head": head.report, "decoding": pipe.decoding,
        "rows": [], "sources": rewrites.sources[:8] + rewrites.sources[-8:],
    }

    def note(title: dict, texts: list[str]) -> None:
        row = title | compared(texts, rewrites, judge, fluency)
        document["rows"].append(row)
        document["minutes"] = round((time.monotonic() - began) / 60, 2)
        write_json(options.json, document)
        print(row_line(row))

    note({"who": "the sources as they are"}, rewrites.sources)
    note({"who": "people"}, rewrites.references)
    back = pipe.codec.decode(pipe.codec.encode(rewrites.sources), preset=pipe.decoding)
    note({"who": "the autoencoder alone"}, back)
    for mode, times, strength in itertools.product(MODES, SCALES, STRENGTHS):
        scale = times * head.usual_scale(mode)
        title = {"who": "latdiff", "mode": mode, "scale": scale, "strength": strength}
        note(title, edited(pipe, head, rewrites, strength, scale, mode, options.seed))


if __name__ == "__main__":
    with plain_errors():
        main()
