"""Measure checkpoints on storyworld side by side: excess nats, and texts by steps; write every figure as JSON.

    python benchmarks/tokens.py checkpoints/masked:8,16,32,64,256 checkpoints/storyworld-ar --json tokens.json

A checkpoint is a pipeline, whose steps stand behind a colon, or a language model. Texts of several seeds are judged by
the oracle; how many nats a story the model needs beyond those that storyworld itself has is exact or a bound, or absent
for models without a likelihood. Rows that the JSON has already are not measured again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from diffusers import DiffusionPipeline

from latdiff.checkpoints import folder_of
from latdiff.config import load_recipe
from latdiff.data.corpus import load_corpus
from latdiff.errors import UserError, plain_errors, shown, whole_word
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.generators import Generator, LanguageModelGenerator, PipelineGenerator
from latdiff.evaluation.likelihood import likelihood
from latdiff.evaluation.report import machine, older_figures, write_json
from latdiff.evaluation.rows import unsteered
from latdiff.evaluation.scoring import Scorer
from latdiff.pipelines.files import load_for_commands
from latdiff.worlds import world

MOST_STEPS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT[:STEPS,...]")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--recipe", default="storyworld", help="whose texts are the real ones (default storyworld)")
    parser.add_argument("--num-samples", type=int, default=1000, help="texts of a seed (default 1000)")
    parser.add_argument("--seeds", type=int, default=5, help="of noise, from 0 (default 5)")
    parser.add_argument("--order", help="in which tokens are written (default: the pipeline's)")
    options = parser.parse_args()
    asked = [checkpoint_words(text) for text in options.checkpoints]
    document = older_figures(options.json) or {"likelihood": [], "unconditional": []}
    recipe = load_recipe(options.recipe)
    corpus, oracle = load_corpus(recipe.data, recipe.seed), world(recipe.data.source)
    scorer, seeds = Scorer(recipe, corpus), list(range(options.seeds))
    unseen = corpus.valid[: options.num_samples]
    for place, steps in asked:
        if place.name not in [row["checkpoint"] for row in document["likelihood"]]:
            generator = next(generators(place, steps[:1]))
            began = time.monotonic()
            found = likelihood(generator, unseen, oracle) | {"seconds": round(time.monotonic() - began, 1)}
            document["likelihood"].append({"checkpoint": place.name} | found)
            print(place.name, found, flush=True)
        for generator in generators(place, steps, **({"order": options.order} if options.order else {})):
            key = {"checkpoint": place.name} | generator.settings | ({"order": options.order} if options.order else {})
            if any(key.items() <= row.items() for row in document["unconditional"]):
                continue
            rows = [unsteered(generator, scorer, options.num_samples, seed) for seed in seeds]
            row = key | averaged(rows) | {"seeds": seeds}
            document["unconditional"].append(row)
            print(*(f"{name} {value}" for name, value in key.items()), said(row), flush=True)
            write_json(options.json, document | {"machine": machine("float32"), "n": options.num_samples})


def checkpoint_words(text: str) -> tuple[Path, list[int]]:
    """'masked:8,64' -> its folder, 8 and 64. Raises UserError for anything else."""
    name, _, listed = text.partition(":")
    steps = [whole_word(one, MOST_STEPS) or 0 for one in listed.split(",")] if listed else []
    place = folder_of(name)
    if 0 in steps or not place.is_dir():
        raise UserError(f"{shown(text, 200)} must be a checkpoint's folder and, behind a colon, steps from 1 to "
                        f"{MOST_STEPS:,}, such as checkpoints/masked:8,64")
    return place, steps


def generators(place: Path, steps: list[int], **settings) -> Iterator[Generator]:
    """A generator for each of the steps, or the one of a language model."""
    if not (place / "model_index.json").exists():
        yield LanguageModelGenerator(place)
        return
    pipe = load_for_commands(place, quiet=True, kind=DiffusionPipeline)
    asked: list[int | None] = [*steps] or [None]
    for count in asked:
        generator = PipelineGenerator(pipe, steps=count, **settings)
        generator.settings |= {} if count is None else {"steps": count}
        yield generator


def said(row: dict) -> str:
    """The figures of a row that matter most."""
    tv = row["slot_tv"]
    calls = f", calls {row['calls']:.1f}" if "calls" in row else ""
    return (f"valid {row['validity']:.3f}, slot TV {tv['mean']:.3f} (floor {tv['floor']:.3f}), distinct "
            f"{row['distinct']:.3f}{calls}, {row['texts_per_second']:.1f} texts a second")


if __name__ == "__main__":
    with plain_errors():
        main()
