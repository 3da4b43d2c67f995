"""Train a recipe many times with a few settings changed, and write the figures of each training as a row of JSON.

    python benchmarks/sweep.py benchmarks/sweeps/denoiser.yaml --json sweep-denoiser.json [section.key=value ...]

A sweep is a YAML file: `base`, a recipe; `settings`, a list of section.key=value for all rows; `rows`, a name and
its own settings each. Settings on the command line go on top. `--trainings 3` trains every row with three seeds;
{seed} in a setting stands for the seed. Rows that the JSON has already are not run again, so an interrupted sweep
resumes; a row of the same name with other settings is refused. At the end the rows are printed as a table in Markdown,
with means and standard deviations over trainings.

A small model leaves a GPU idle: `--jobs 12` trains twelve at a time on it.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import re
import shutil
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from latdiff.recipes import train_autoencoder, train_denoiser

from latdiff.config import Recipe, RecipeError, load_recipe, sampler_words
from latdiff.data.corpus import load_corpus
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.judges import FluencyJudge, MauveJudge
from latdiff.evaluation.report import (
    machine,
    older_figures,
    row_line,
    training_figures,
    write_json,
    writer,
)
from latdiff.evaluation.rows import Evaluation
from latdiff.evaluation.scoring import Scorer
from latdiff.pipelines.files import load_for_commands

LONG = ("word_histogram", "samples", "distinct_ngrams", "independence")  # not for a table of many rows


@dataclass(frozen=True)
class Training:
    """One training of a row: the row's name in the table, the changed settings, and the recipe with them."""

    row: str
    settings: list[str]
    recipe: Recipe

    @property
    def seed(self) -> int:
        return self.recipe.seed


@dataclass(frozen=True)
class Measurement:
    """How every training is measured."""

    samplers: list[str]
    num_samples: int
    seeds: int
    fluency: str | None
    mauve: str | None


def load_sweep(path: Path, more: list[str], trainings: int = 1) -> list[Training]:
    """All trainings of a sweep file. Raises RecipeError with the problems of all rows."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        base, settings, rows = given["base"], given.get("settings", []), dict(given["rows"].items())
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path} is no sweep, which has a base and rows: {error}") from None
    found, problems = [], []
    for name, own in rows.items():
        folder = f"{path.stem}-{re.sub(r'[^a-z0-9.]+', '-', str(name).lower()).strip('-')}"
        changed = [*settings, *(own or []), *more]
        try:
            first = load_recipe(base, [*_seeded(changed, 0), f"name={folder}"]).seed
            for seed in range(first, first + trainings):
                overrides = [*_seeded(changed, seed), f"seed={seed}", f"name={folder}-{seed}"]
                found.append(Training(str(name), changed, load_recipe(base, overrides)))
        except RecipeError as error:
            problems.append(f"row {name!r}: {error}")
    names = [one.recipe.name for one in found]
    twice = sorted({name.rpartition("-")[0] for name in names if names.count(name) > 1})
    problems += [f"{name}: the folder of two rows; give them names that differ in letters" for name in twice]
    if problems:
        raise RecipeError("\n".join([f"{path}: {len(problems)} of {len(rows)} rows cannot be run", *problems]))
    return found


def _seeded(settings: list[str], seed: int) -> list[str]:
    return [setting.replace("{seed}", str(seed)) for setting in settings]


def left_to_run(trainings: list[Training], done: list[dict]) -> list[Training]:
    """Trainings that a document lacks. Raises UserError for a row of the same name that was run with other settings."""
    settings = {row["row"]: row["settings"] for row in done}
    for one in trainings:
        if settings.get(one.row, one.settings) != one.settings:
            raise UserError(f"row {one.row!r} was run with {settings[one.row]}, and is now {one.settings}; give it "
                            "another name, or write to another file")
    there = {(row["row"], row["seed"]) for row in done}
    return [one for one in trainings if (one.row, one.seed) not in there]


def run(one: Training, how: Measurement, quiet: bool) -> dict:
    """Train and measure; the latents, the largest part of the folder, are deleted afterwards."""
    judges = FluencyJudge(how.fluency) if how.fluency else None, MauveJudge(how.mauve) if how.mauve else None
    train_denoiser.main(one.recipe, quiet)  # after the judges: a wrong name costs no training
    pipe = load_for_commands(one.recipe.folder, quiet)
    scorer = Scorer(one.recipe, load_corpus(one.recipe.data, one.recipe.seed), None, *judges)
    samplers = [sampler_words(text) for text in how.samplers]
    of_seeds = [Evaluation(pipe, scorer, how.num_samples, seed) for seed in range(how.seeds)]
    measured = averaged([{"unconditional": [each.unconditional(*s) for s in samplers]} for each in of_seeds])
    shutil.rmtree(one.recipe.folder / "train", ignore_errors=True)
    for row in (*measured["unconditional"], *measured.get("sd", {}).get("unconditional", [])):
        for key in LONG:
            row.pop(key, None)
    return {"row": one.row, "seed": one.seed, "settings": one.settings} | training_figures(one.recipe.folder) | measured


def run_all(left: list[Training], how: Measurement, jobs: int, quiet: bool) -> Iterator[dict]:
    """Figures of every training as it finishes; with several jobs, in parallel processes that share the cores.

    Raises UserError, once the others have finished, for parallel trainings that fail.
    """
    if jobs == 1:
        yield from (run(one, how, quiet) for one in left)
        return
    for one in left:  # before two of them find that it is missing
        train_autoencoder.build_missing_backbone(one.recipe, quiet)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,))
    failed = []
    with pool:
        going = {pool.submit(run, one, how, True): one for one in left}
        for future in as_completed(going):
            if future.exception() is None:
                yield future.result()
            else:
                failed.append(f"{going[future].recipe.name}: {future.exception()}")
    if failed:
        raise UserError("\n".join([f"{len(failed)} of {len(left)} trainings failed", *failed]))


def begun(path: Path, asked: dict) -> dict:
    """The document to resume, or a new one. Raises UserError for one of another sweep or measured otherwise."""
    document = older_figures(path)
    if not document:
        return asked | {"machine": machine(), "rows": []}
    if document.get("sweep") != asked["sweep"] or not all("seed" in row for row in document.get("rows", [])):
        raise UserError(f"{path} has no rows of {asked['sweep']} with a seed each; name another file")
    differ = [key for key, value in asked.items() if document.get(key) != value]
    changed = [f"{key} was {document.get(key)!r}, is {asked[key]!r}" for key in differ]
    if changed:
        raise UserError(f"{path} has rows that were measured otherwise ({'; '.join(changed)}); name another file")
    return document


def table(document: dict) -> str:
    """The rows in Markdown: reconstruction, then for every sampler the figures that the first row has."""
    figures = {"validity": "valid", "tv": "TV in floors", "mauve": "MAUVE", "perplexity": "perplexity",
               "distinct": "distinct", "round_trip": "round trip"}
    first = document["rows"][0]["unconditional"]
    shown = [key for key in figures if key in _cells(first[0])]
    names = [f"{writer(row)}: {figures[key]}" for row in first for key in shown]
    lines = [["", "exact", "at .5 sd", *names]]
    lines.append(["---"] * len(lines[0]))
    for name in dict.fromkeys(row["row"] for row in document["rows"]):
        trainings = [row for row in document["rows"] if row["row"] == name]
        back = [row["reconstruction"] for row in trainings]
        columns = [[one["exact_match"] for one in back], [one["under_noise"]["0.5"] for one in back]]
        for place, key in itertools.product(range(len(first)), shown):
            columns.append([_cells(row["unconditional"][place]).get(key) for row in trainings])
        lines.append([name, *map(_cell, columns)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: dict) -> dict:
    tv = row.get("slot_tv")
    return row | ({"tv": tv["mean"] / tv["floor"]} if tv else {})


def _cell(of_trainings: list[float | None]) -> str:
    """Mean and, of several, standard deviation; a figure that a training lacks (no text, no token) is left out."""
    there = [value for value in of_trainings if value is not None]
    if not there:
        return "-"
    return f"{statistics.fmean(there):.3f}" + (f" ± {statistics.stdev(there):.3f}" if len(there) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="a file such as benchmarks/sweeps/denoiser.yaml")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="on top of every row's")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--trainings", type=int, default=1, help="of every row, a seed each (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    parser.add_argument("--samplers", nargs="+", default=["ddpm:25", "tcd:25"], help="NAME:STEPS ...")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1, help="of the noise, from 0 (default 1)")
    parser.add_argument("--fluency", help="a causal language model for perplexity, folder or hub id")
    parser.add_argument("--mauve", help="a model for MAUVE, folder or hub id")
    parser.add_argument("--quiet", action="store_true", help="no progress bar; there is none with several jobs")
    options = parser.parse_intermixed_args()
    for flag in ("trainings", "jobs", "seeds", "num_samples"):
        if getattr(options, flag) < 1:
            raise UserError(f"--{flag.replace('_', '-')} is {getattr(options, flag)}, must be 1 or more")
    trainings = load_sweep(options.sweep, options.settings, options.trainings)
    for text in options.samplers:
        sampler_words(text)
    how = Measurement(options.samplers, options.num_samples, options.seeds, options.fluency, options.mauve)
    document = begun(options.json, {"sweep": options.sweep.stem} | asdict(how))
    left = left_to_run(trainings, document["rows"])
    print(f"{len(left)} of {len(trainings)} trainings are to be run", flush=True)
    order = {(one.row, one.seed): place for place, one in enumerate(trainings)}
    for number, found in enumerate(run_all(left, how, options.jobs, options.quiet), start=1):
        rows = [*document["rows"], found]
        document["rows"] = sorted(rows, key=lambda row: order.get((row["row"], row["seed"]), -1))
        write_json(options.json, document)
        print(f"{number} of {len(left)}, {found['row']}, seed {found['seed']}", flush=True)
        for row in found["unconditional"]:
            print(row_line({key: value for key, value in row.items() if not isinstance(value, dict)}), flush=True)
    print(table(document))


if __name__ == "__main__":
    with plain_errors():
        main()
