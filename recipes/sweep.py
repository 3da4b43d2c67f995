"""Train a recipe many times, a few settings changed each time, and write what came of each as a row of JSON.

    python recipes/sweep.py recipes/sweeps/denoiser.yaml --json docs/results/sweep-denoiser.json [section.key=value ...]

A sweep is a YAML file: `base`, a recipe; `settings`, a list of section.key=value for all rows; `rows`, a name and
its own settings each. Settings on the command line go on top. Rows that the JSON has already are not run again, so a
sweep that was stopped goes on; what differs in anything but its name from what was run is refused. It ends with the
rows as a table in Markdown.
"""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import train_denoiser
import yaml

from latdiff.cards import averaged, machine, older_figures, row_line, training_figures, write_json, writer
from latdiff.config import Recipe, RecipeError, UserError, load_recipe, plain_errors, sampler_words
from latdiff.data import load_corpus
from latdiff.evaluation import Evaluation
from latdiff.judges import CrowdJudge, FluencyJudge
from latdiff.pipeline import load_for_commands
from latdiff.scoring import Scorer

LONG = ("word_histogram", "samples", "distinct_ngrams", "independence")  # not for a table of many rows


@dataclass(frozen=True)
class Row:
    """One training: its name in the table, what is changed, and the recipe that comes of it."""

    name: str
    settings: list[str]
    recipe: Recipe


def load_sweep(path: Path, more: list[str]) -> list[Row]:
    """The rows of a sweep file. Raises RecipeError for all that is wrong with any of them, before one is trained."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        base, settings, rows = given["base"], given.get("settings", []), dict(given["rows"].items())
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path} is no sweep, which has a base and rows: {error}") from None
    found, problems = [], []
    for name, own in rows.items():
        folder = f"{path.stem}-{re.sub(r'[^a-z0-9.]+', '-', str(name).lower()).strip('-')}"
        try:
            changed = [*settings, *(own or [])]
            found.append(Row(str(name), [*changed, *more], load_recipe(base, [*changed, *more, f"name={folder}"])))
        except RecipeError as error:
            problems.append(f"row {name!r}: {error}")
    twice = {row.recipe.name for row in found if [other.recipe.name for other in found].count(row.recipe.name) > 1}
    problems += [f"{name}: the folder of two rows; give them names that differ in letters" for name in sorted(twice)]
    if problems:
        raise RecipeError("\n".join([f"{path}: {len(problems)} of {len(rows)} rows cannot be run", *problems]))
    return found


def left_to_run(rows: list[Row], done: list[dict]) -> list[Row]:
    """Rows that a document lacks. Raises UserError for one of the same name that was run with other settings."""
    settings = {row["row"]: row["settings"] for row in done}
    for row in rows:
        if settings.get(row.name, row.settings) != row.settings:
            raise UserError(f"row {row.name!r} was run with {settings[row.name]}, and is now {row.settings}; give it "
                            "another name, or write to another file")  # fmt: skip
    return [row for row in rows if row.name not in settings]


def run(row: Row, samplers: list[tuple[str, int]], judges: tuple, num_samples: int, seeds: int, quiet: bool) -> dict:
    """Train a row and measure it; of its folder the latents, the largest part, are deleted afterwards."""
    train_denoiser.main(row.recipe, quiet)
    pipe = load_for_commands(row.recipe.folder, quiet)
    scorer = Scorer(row.recipe, load_corpus(row.recipe.data, row.recipe.seed), None, *judges)
    of_seeds = [Evaluation(pipe, scorer, num_samples, seed) for seed in range(seeds)]
    measured = averaged([{"unconditional": [one.unconditional(*s) for s in samplers]} for one in of_seeds])
    shutil.rmtree(row.recipe.folder / "train", ignore_errors=True)
    for told in (*measured["unconditional"], *measured.get("sd", {}).get("unconditional", [])):
        for key in LONG:
            told.pop(key, None)
    return {"row": row.name, "settings": row.settings} | training_figures(row.recipe.folder) | measured


def begun(path: Path, asked: dict) -> dict:
    """The document to go on with, or a new one. Raises UserError for one of other rows or measured otherwise."""
    document = older_figures(path)
    if not document:
        return asked | {"machine": machine(), "rows": []}
    if document.get("sweep") != asked["sweep"]:
        raise UserError(f"{path} holds no rows of {asked['sweep']}; name another file")
    differ = [key for key, value in asked.items() if document.get(key) != value]
    changed = [f"{key} was {document.get(key)!r}, is {asked[key]!r}" for key in differ]
    if changed:
        raise UserError(f"{path} holds rows that were measured otherwise ({'; '.join(changed)}); name another file")
    return document


def table(document: dict) -> str:
    """The rows in Markdown: reconstruction, then of every sampler the figures that the first row has."""
    figures = {"validity": "valid", "tv": "TV in floors", "mauve": "MAUVE", "perplexity": "perplexity",
               "distinct": "distinct"}  # fmt: skip
    first = document["rows"][0]["unconditional"]
    shown = [key for key in figures if key in _cells(first[0])]
    names = [f"{writer(row)}: {figures[key]}" for row in first for key in shown]
    lines = [["", "exact, at .5 sd", *names]]
    for row in document["rows"]:
        back = row["reconstruction"]
        cells = [_cells(told).get(key) for told in row["unconditional"] for key in shown]
        exact = f"{back['exact_match']:.3f}, {back['under_noise']['0.5']:.3f}"
        lines.append([row["row"], exact, *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: dict) -> dict:
    tv = row.get("slot_tv")
    return row | ({"tv": tv["mean"] / tv["floor"]} if tv else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="a file such as recipes/sweeps/denoiser.yaml")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="on top of every row's")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samplers", nargs="+", default=["ddpm:25", "renoise:25"], help="NAME:STEPS ...")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1, help="of the noise, from 0 (default 1)")
    parser.add_argument("--fluency", help="a causal language model for perplexity, folder or hub id")
    parser.add_argument("--mauve", help="a model for MAUVE, folder or hub id")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_intermixed_args()
    rows, samplers = load_sweep(options.sweep, options.settings), [sampler_words(text) for text in options.samplers]
    how = {key: getattr(options, key) for key in ("samplers", "num_samples", "seeds", "fluency", "mauve")}
    document = begun(options.json, {"sweep": options.sweep.stem} | how)
    left = left_to_run(rows, document["rows"])
    fluency = FluencyJudge(options.fluency) if options.fluency else None
    judges = fluency, CrowdJudge(options.mauve) if options.mauve else None
    for number, row in enumerate(left, start=1):
        print(f"row {number} of {len(left)}, {row.name}: {' '.join(row.settings)}", flush=True)
        document["rows"].append(run(row, samplers, judges, options.num_samples, options.seeds, options.quiet))
        write_json(options.json, document)
        for told in document["rows"][-1]["unconditional"]:
            print(row_line({key: value for key, value in told.items() if not isinstance(value, dict)}), flush=True)
    print(table(document))


if __name__ == "__main__":
    with plain_errors():
        main()
