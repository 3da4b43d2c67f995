"""Measure Diffusion-LM's control tasks by plug-in heads alone: words that a text must hold, and its length.

    python benchmarks/control.py checkpoints/e2e-mini --data path/to/e2e \\
        --targets control_target_attribute.jsonl --fluency checkpoints/e2e-mini-ar --json e2e-control.json

A target is a row whose text is `field : value`, and it is met if the text contains the value as words (semantic
content: Li et al. 2022, section 5). There is a head for every field, with its values as labels of the texts that
contain them, fitted on at most --texts texts per value. A length in words is met within two, with a head of numbers;
--pilots corrects its bias. With --candidates K every text is the best of K: the one that the head of its value finds
likeliest when it is encoded again, or, for lengths, the one whose length, as a few networks predict from the latents,
is nearest to the target. Only the figures use the words. With --keep SHARE the texts, unsteered ones too, whose latents
lie farthest from the encoded text are left out. Perplexity and diversity are reported with every success, and for
unsteered texts.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from latdiff.config import MIN_PER_CLASS, sampler_words
from latdiff.data.corpus import load_texts
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.modes import MODES
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation import metrics
from latdiff.evaluation.generators import BestOf, PipelineGenerator
from latdiff.evaluation.judges import FluencyJudge
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.fitting import fit_head
from latdiff.heads.number import NumberHead
from latdiff.pipelines.files import load_for_commands

LENGTHS = (10, 15, 20, 25, 30)  # words
NEITHER = "none of them"


def read_targets(path: str) -> dict[str, list[str]]:
    """Field -> values. Raises UserError for a row that is not `field : value`."""
    found: dict[str, list[str]] = {}
    for text in load_texts(path):
        field, colon, value = text.partition(" : ")
        if not colon:
            raise UserError(f"--targets {path}: {text!r} is not a target such as 'food : Italian'")
        # the targets are tokenised: a space follows a currency sign
        found.setdefault(field, []).append(re.sub(r"£ (?=\d)", "£", value).replace(" - ", "-"))
    return found


def fit(pipe, field: str, values: list[str], texts: list[str], most: int) -> AttributeHead | None:
    """A head of the values that enough of the texts contain, of `most` texts each; None without two labels."""
    found: dict[str, list[str]] = {}
    for text in texts:
        label = next((value for value in values if metrics.holds(text, value)), NEITHER)
        found.setdefault(label, []).append(text)
    rows = [(text, label) for label, of in found.items() if len(of) >= MIN_PER_CLASS for text in of[:most]]
    if len({label for _, label in rows}) < 2:
        return None
    return fit_head(pipe.codec, [text for text, _ in rows], [label for _, label in rows], name=field)


def near(text: str, length: int) -> bool:
    return abs(len(text.split()) - length) <= 2


def aimed(length: float, pilots: int, write: Callable[[float, int], list[str]]) -> float:
    """The length to ask for: what `write(aim, pilot)` misses in the median of each pilot is added to the aim."""
    aim = length
    for pilot in range(1, pilots + 1):
        aim += length - statistics.median(len(text.split()) for text in write(aim, pilot))
    return aim


def networks(latents: Tensor, numbers: list[int], seed: int) -> list[TransformedTargetRegressor]:
    """Five small networks that predict a number from latents [N, L, D]: more exact than ridge, but worse as guides."""
    inputs = latents.flatten(1).numpy()

    def one(seed: int) -> TransformedTargetRegressor:
        network = MLPRegressor(hidden_layer_sizes=(256, 128), alpha=0.01, batch_size=min(256, len(numbers) // 2),
                               max_iter=100, early_stopping=True, validation_fraction=0.05, n_iter_no_change=4,
                               random_state=seed)
        return TransformedTargetRegressor(network, transformer=StandardScaler()).fit(inputs, numbers)

    return [one(5 * seed + index) for index in range(5)]


def nearness(networks: list[TransformedTargetRegressor], latents: Tensor, number: float) -> Tensor:
    """Minus the mean squared distance of the networks' predictions from a number, [N] for latents [N, L, D]."""
    readings = np.stack([network.predict(latents.flatten(1).cpu().numpy()) for network in networks])
    return torch.from_numpy(-np.square(readings - number).mean(0))


class Measuring:
    """Steers towards every target and scores the texts, in one document that is written after every row.

    Args:
        options: of the command line.  pipe: with the sampler to use.  steps: of it.
        document: what is known before; rows, minutes and what all rows of a task come to are added.
    """

    def __init__(self, options: argparse.Namespace, pipe, steps: int, fluency: FluencyJudge, document: dict):
        self.options, self.pipe, self.steps, self.fluency = options, pipe, steps, fluency
        self.document = document | {"rows": []}
        self.began = time.monotonic()
        self.written: dict[str, list[str]] = {}

    def content(self, targets: dict[str, list[str]], texts: list[str]) -> None:
        """A row for every value of every field; texts are for the heads."""
        for field, values in targets.items():
            head = fit(self.pipe, field, values, texts, self.options.texts)
            for value in values:
                guides = [self.steer(head, value)] if head is not None and head.knows(value) else []
                title = {"task": "content", "field": field, "target": value, "fitted": bool(guides)}
                choose = partial(BestOf.toward, guides=guides) if guides else None
                self.note(title, guides, partial(metrics.holds, value=value), choose=choose)

    def lengths(self, texts: list[str]) -> None:
        """A row for every length; texts are for the head of numbers, and the networks that choose among candidates."""
        numbers = [len(text.split()) for text in texts]
        words = fit_head(self.pipe.codec, texts, numbers, NumberHead("words"))
        print(row_line(words.report))
        latents = self.pipe.codec.encode(texts).cpu() if self.options.candidates > 1 else None
        readers = [] if latents is None else networks(latents, numbers, self.options.seed)

        def pilot(aim: float, number: int) -> list[str]:
            return self.write([self.steer(words, aim)], self.options.num_samples, self.options.seed + number)

        for length in LENGTHS:
            aim = aimed(length, self.options.pilots, pilot)
            self.note({"task": "length", "target": length, "aim": aim}, [self.steer(words, aim)],
                      partial(near, length=length),
                      choose=partial(BestOf.by, score=partial(nearness, readers, number=length)))

    def steer(self, head: AttributeHead | NumberHead, target: Any) -> Guide:
        return head.toward(target, self.options.times * head.usual_scale(self.options.mode), self.options.mode)

    def write(self, guides: list[Guide], n: int, seed: int) -> list[str]:
        writer = PipelineGenerator(self.pipe, steps=self.steps, guides=guides, keep=self.options.keep)
        return writer.generate(None, n, seed)

    def note(
        self, title: dict, guides: list[Guide], met: Callable[[str], bool], n: int | None = None,
        choose: Callable[[BestOf], list[str]] | None = None,
    ) -> None:
        """A row of n texts, each chosen from the candidates where there is a way to `choose`."""
        n, k = n or self.options.num_samples, self.options.candidates if choose else 1
        texts = self.write(guides, n * k, self.options.seed)
        if choose and k > 1:
            texts = choose(BestOf(texts, self.pipe.codec, k))
        self.written.setdefault(title["task"], []).extend(texts)
        row = title | figures(texts, self.fluency, self.options.num_samples)
        row |= {"success": sum(bool(met(text)) for text in texts) / n, "samples": texts[:3]}
        self.document["rows"].append(row)
        self.save()
        print(row_line(row))

    def totals(self) -> None:
        """What the rows of every task come to."""
        for task, texts in self.written.items():
            rows = [row for row in self.document["rows"] if row["task"] == task]
            of_all = figures(texts, self.fluency, self.options.num_samples)
            self.document[task] = {"success": metrics.mean_of(rows, "success")} | of_all
            print(task, row_line(self.document[task]))
        of_heads = [row for row in self.document["rows"] if row.get("fitted")]
        if of_heads:
            self.document["content"]["success_with_a_head"] = metrics.mean_of(of_heads, "success")
        self.save()

    def save(self) -> None:
        self.document["minutes"] = round((time.monotonic() - self.began) / 60, 2)
        write_json(self.options.json, self.document)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="texts to fit the heads on")
    parser.add_argument("--targets", help="rows with a text such as 'food : Italian'; without them, lengths alone")
    parser.add_argument("--fluency", required=True, help="a causal language model, folder or hub id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=200, help="texts per value to fit the heads on (default 200)")
    parser.add_argument("--times", type=float, default=1.0, help="the usual scale of heads times this (default 1)")
    parser.add_argument("--mode", choices=[mode for mode in MODES if mode != "noisy"], default="x0",
                        help="where the gradient is taken: guidance.py (default x0)")
    parser.add_argument("--pilots", type=int, default=0,
                        help="runs at other noise that estimate the bias of lengths (default 0)")
    parser.add_argument("--candidates", type=int, default=1,
                        help="texts to sample for each one that the heads choose (default 1)")
    parser.add_argument("--keep", type=float, default=1.0,
                        help="sample more texts and keep this share, the nearest to the encoded text (default 1: all)")
    parser.add_argument("--sampler", metavar="NAME:STEPS", help="default: the checkpoint's own")
    parser.add_argument("--num-samples", type=int, default=50, help="texts per target (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    for flag, value, least in (("--candidates", options.candidates, 1), ("--pilots", options.pilots, 0)):
        if value < least:
            raise UserError(f"{flag} is {value}, must be {least} or more")
    if not 0 < options.keep <= 1:
        raise UserError(f"--keep is {options.keep}, must be above 0 and at most 1")
    sampler = sampler_words(options.sampler, "--sampler") if options.sampler else None  # checked before anything loads
    pipe = load_for_commands(options.checkpoint, quiet=True)
    steps = pipe.config.num_inference_steps
    if sampler:
        name, steps = sampler
        pipe.scheduler = make_scheduler(name, pipe.scheduler.config.trained_betas)
    targets, fluency = read_targets(options.targets) if options.targets else {}, FluencyJudge(options.fluency)
    texts = load_texts(options.data)
    random.Random(options.seed).shuffle(texts)
    texts = [text for text, fits in zip(texts, pipe.codec.fits(texts), strict=True) if fits]
    measuring = Measuring(options, pipe, steps, fluency, {
        "checkpoint": options.checkpoint.name, "seed": options.seed, "machine": machine(pipe.config.dtype),
        "texts": options.texts,
        "times": options.times, "mode": options.mode, "pilots": options.pilots, "candidates": options.candidates,
        "keep": options.keep, "scheduler": type(pipe.scheduler).__name__, "steps": steps,
        "decoding": pipe.decoding, "fluency": fluency.path,
    })
    measuring.note({"task": "unsteered"}, [], lambda text: True, 20 * options.num_samples)
    measuring.content(targets, texts)
    measuring.lengths(texts)
    measuring.totals()


def figures(texts: list[str], fluency: FluencyJudge, size: int) -> dict:
    """Figures beside success. Diversity falls with the number of texts, so it is a mean over groups of `size`."""
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    return {"n": len(texts), "perplexity": fluency.perplexity(texts)["tokens"], "distinct": metrics.distinct(texts),
            "diversity": sum(map(metrics.diversity, groups)) / len(groups)}


if __name__ == "__main__":
    with plain_errors():
        main()
