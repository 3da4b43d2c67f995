"""The rows of the table of heads beside their rivals: who writes, and towards what."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.fudge import Fudge
from benchmarks.measured import Measured
from benchmarks.rivals import ClassModel, Writer, best_of
from latdiff.data.splits import Split
from latdiff.evaluation.report import row_line, write_json
from latdiff.heads.attribute import AttributeHead


def title(target: dict[str, str]) -> str:
    """"positive", or "positive+review" with two heads."""
    return "+".join(target.values())


def timed(make: Callable[[], list[str]]) -> tuple[list[str], float]:
    """Texts, and the seconds that each took."""
    began = time.monotonic()
    texts = make()
    return texts, (time.monotonic() - began) / max(1, len(texts))


class Table:
    """The rows of one document, which is written after each.

    Args:
        options: of the command line.
        pipe: the pipeline.
        always: guides that are on in all of its samples.
        starts: first words that every row goes on from, or none.
        measured: what measures a row.
        document: what is known before.
    """

    def __init__(
        self, options: argparse.Namespace, pipe, always: list, starts: list[Split], measured: Measured, document: dict
    ):
        self.options, self.pipe, self.always, self.measured = options, pipe, always, measured
        self.starts = starts
        self.others: dict[str, list[str]] = {}
        self.document: dict[str, Any] = document | {"rows": []}

    def begun(self, n: int) -> list[str]:
        """What n texts go on from, '' for nothing."""
        return [start.before for start in self.starts[:n]] or [""] * n

    def draw(self, n: int, guides: Sequence = (), each: int = 1, seed: int | None = None) -> list[str]:
        """n samples, or `each` times as many; those of one start in a row."""
        cond, count = (self.begun(n), each) if self.starts else (self.options.cond, n * each)
        generator = torch.Generator().manual_seed(self.options.seed if seed is None else seed)
        return self.pipe(cond, count, guides=[*self.always, *guides], generator=generator,
                         decode_options=self.options.decode, batch_size=64).texts

    def note(self, who: dict, target: dict[str, str], make: Callable[[], list[str]]) -> None:
        row = self.measured.row(who, target, make, [start.before for start in self.starts],
                                self.others.get(title(target), []))
        self.document["rows"].append(row)
        write_json(self.options.json, self.document)
        print(row_line({key: value for key, value in row.items() if key != "texts"}), flush=True)

    def samples(self, targets: list[dict[str, str]], heads: list[AttributeHead], real: dict[str, list[str]]) -> None:
        """Real texts, samples, steered samples and the best of several, for every target.

        Beyond the real texts of the table there are others by label, which MAUVE compares every row with.
        """
        options, largest, n = self.options, max(self.options.best_of, default=0), self.options.num_samples
        self.others = {label: texts[n : 2 * n] for label, texts in real.items()}
        plain, each = timed(partial(self.draw, n))
        pool, each_of_pool = timed(partial(self.draw, options.best, each=largest, seed=options.seed + 1)
                                   if largest else list)
        for target in targets:
            genuine = ([start.behind for start in self.starts] or real.get(title(target), []))[:n]
            if genuine:
                self.note({"who": "real texts"}, target, partial(list, genuine))
            self.note({"who": "unsteered", "seconds_before": each}, target, partial(list, plain))
            for times in options.times:
                guides = [head.toward(target[head.name], times * head.usual_scale("x0")) for head in heads]
                self.note({"who": "steered", "times": times}, target, partial(self.draw, n, guides))
            for k in options.best_of:
                guides = [head.toward(target[head.name]) for head in heads]
                self.note({"who": f"best of {k}", "seconds_before": k * each_of_pool}, target,
                          partial(best_of, self.pipe.codec, pool, largest, k, guides))

    def rivals(
        self, targets: list[dict[str, str]], prompts: dict[str, str], writer: Writer | None, fudge: Fudge | None,
        classes: ClassModel | None,
    ) -> None:
        """Language models that go on by themselves, are asked, are reweighted, or have learnt the classes."""
        options, begun = self.options, self.begun(self.options.num_samples)
        if writer and self.starts:
            plain, each = timed(partial(writer.goes_on, None, begun, options.seed))
        for target in targets:
            prompt = prompts.get(title(target))
            if writer and self.starts:
                self.note({"who": "language model", "seconds_before": each}, target, partial(list, plain))
            if writer and prompt:
                self.note({"who": "prompted", "prompt": prompt}, target,
                          partial(writer.goes_on, prompt, begun, options.seed))
            if writer and fudge:
                own = self.begun(options.fudge_samples)
                for times in options.fudge_times:
                    self.note({"who": "fudge", "times": times}, target, partial(
                        writer.steered, fudge, target, times, options.fudge_prompt, own, options.seed))
            if classes:
                self.note({"who": "class model"}, target,
                          partial(classes.goes_on, title(target), begun, options.seed))
