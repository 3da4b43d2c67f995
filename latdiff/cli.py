"""The `latdiff` command: thin; every subcommand hands over to the library and prints what comes back."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import re
import textwrap
import time
from pathlib import Path

from latdiff.config import DEFAULT_C, DEFAULT_SCALE, SCHEDULERS, UserError, load_recipe, plain_errors


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; a UserError is printed as a sentence with exit status 1."""
    options = parser().parse_args(arguments)
    with plain_errors():
        options.run(options)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="latdiff", description="Latent text diffusion: sample, steer, measure.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    sample = _command(commands, "sample", run_sample, "write texts, steered by guides or not")
    sample.add_argument("--num-samples", type=int, default=8, help="how many texts (default 8)")
    sample.add_argument("--guide", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                        help=f"steer by a fitted head; may be repeated (default scale {DEFAULT_SCALE:g})")  # fmt: skip
    sample.add_argument("--steps", type=int, help="denoiser calls a text (default: the checkpoint's)")
    sample.add_argument("--scheduler", help=f"one of {', '.join(SCHEDULERS)} (default: the checkpoint's)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed gives the same texts (default 0)")
    sample.add_argument("--compare", action="store_true", help="print unsteered texts of the same seed beside them")
    sample.add_argument("--json", action="store_true", help="one JSON object a text")

    fit = _command(commands, "fit-head", run_fit_head, "fit a head on labelled texts")
    fit.add_argument("--data", required=True, help="labelled .jsonl, .csv, .tsv or .parquet, or storyworld")
    fit.add_argument("--name", required=True, help="what to call the attribute")
    fit.add_argument("--text-column", default="text", help="column of the texts (default text)")
    fit.add_argument("--label-column", default="label", help="column of the labels; dots reach into nested columns")
    fit.add_argument("--limit", type=int, help="use at most so many texts (storyworld: 400)")
    fit.add_argument("--regularisation", type=float, default=DEFAULT_C,
                     help=f"scikit-learn's C, inverse strength (default {DEFAULT_C:g})")  # fmt: skip

    evaluate = _command(commands, "evaluate", run_evaluate, "measure a checkpoint and write every figure as JSON")
    evaluate.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    evaluate.add_argument("--num-samples", type=int, default=1000, help="texts a figure (default 1000)")
    evaluate.add_argument("--scale", type=float, default=DEFAULT_SCALE, help="scale of every guide")
    evaluate.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    evaluate.add_argument("--samplers", nargs="+", metavar="NAME:STEPS",
                          help="unconditional rows (default: the checkpoint's own, and renoise:25)")  # fmt: skip

    check = commands.add_parser("check-config", help="read a recipe, print it whole or every problem in it")
    check.add_argument("recipe")
    check.add_argument("settings", nargs="*", metavar="section.key=value")
    check.set_defaults(run=run_check_config)
    return top


def run_sample(options: argparse.Namespace) -> None:
    heads_wanted = [_guide_words(text) for text in options.guide]
    pipe = _load(options)
    import torch

    from latdiff.guidance import AttributeHead
    from latdiff.pipeline import make_scheduler

    folder = Path(options.checkpoint) / "heads"
    guides = [AttributeHead.load(folder / name).toward(label, scale) for name, label, scale in heads_wanted]
    if options.scheduler:
        pipe.scheduler = make_scheduler(options.scheduler, pipe.scheduler.config.trained_betas)

    def draw(guides):
        return pipe(num_samples=options.num_samples, guides=guides, num_inference_steps=options.steps,
                    generator=torch.Generator().manual_seed(options.seed))  # fmt: skip

    out = draw(guides)
    plain = draw([]).texts if options.compare else [None] * len(out.texts)
    for index, (text, unsteered) in enumerate(zip(out.texts, plain, strict=True)):
        steering = {
            guide.head.name: {"target": guide.label, "scale": guide.scale,
                              "prob": round(out.scores[f"{guide.head.name}={guide.label}"][index], 4)}
            for guide in guides
        }  # fmt: skip
        if options.json:
            row = {"text": text, "seed": options.seed, "index": index, "guides": steering}
            row |= {"unsteered": unsteered} if options.compare else {}
            print(json.dumps(row, ensure_ascii=False))
        elif options.compare:
            print(side_by_side(unsteered, text), end="\n\n")
        else:
            print(text)


def run_fit_head(options: argparse.Namespace) -> None:
    from latdiff.data import load_labelled

    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise UserError(f"--name is {options.name!r}, must be a word of letters, digits, '_', '-' and '.'")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit is {options.limit}, must be 1 or more")
    if not 0 < options.regularisation < math.inf:
        raise UserError(f"--regularisation is {options.regularisation}, must be a number above 0")
    texts, labels = load_labelled(options.data, options.text_column, options.label_column, options.limit)
    pipe = _load(options)
    from latdiff.guidance import AttributeHead

    fits = pipe.codec.fits(texts)
    texts, labels = list(itertools.compress(texts, fits)), list(itertools.compress(labels, fits))
    began = time.monotonic()
    head = AttributeHead.fit(pipe, texts, labels, name=options.name, C=options.regularisation)
    folder = Path(options.checkpoint) / "heads" / options.name
    head.save(folder)
    print(f"{options.name}: {len(texts)} texts ({fits.count(False)} too long, left out), "
          f"labels {', '.join(head.labels)}, cross-validated accuracy "
          f"{head.accuracy_:.3f}, fitted in {time.monotonic() - began:.1f} s -> {folder}")  # fmt: skip


def run_evaluate(options: argparse.Namespace) -> None:
    pipe = _load(options)
    from latdiff.data import load_corpus
    from latdiff.evaluation import Evaluation, reconstruction, summary, write_card, write_json
    from latdiff.guidance import AttributeHead

    folder = Path(options.checkpoint)
    recipe = load_recipe(str(folder / "recipe.yaml"))
    heads = [AttributeHead.load(path.parent) for path in sorted(folder.glob("heads/*/config.json"))]
    samplers = options.samplers or [f"{recipe.sampling.scheduler}:{pipe.config.num_inference_steps}", "renoise:25"]
    samplers = [_sampler_words(text) for text in samplers]
    corpus = load_corpus(recipe.data, recipe.seed)
    evaluation = Evaluation(pipe, recipe, corpus, options.num_samples, options.seed)
    began = time.monotonic()
    document = {"checkpoint": folder.name, "seed": options.seed, "machine": machine()}
    if options.json.exists():  # what training measured stays
        try:
            document = json.loads(options.json.read_text(encoding="utf-8")) | document
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"--json {options.json} exists but holds no figures ({error}); name another file") from None
    document["reconstruction"] = (document.get("reconstruction") or {}) | reconstruction(
        pipe.codec, corpus.valid[: options.num_samples], options.seed
    )
    document["unconditional"] = [evaluation.unconditional(name, steps) for name, steps in samplers]
    document["guided"] = [row for head in heads for row in evaluation.guided(head, options.scale)]
    pairs = itertools.combinations(heads, 2)
    document["composed"] = [row for pair in pairs for row in evaluation.composed(list(pair), options.scale)]
    document["evaluation_minutes"] = round((time.monotonic() - began) / 60, 2)
    write_json(options.json, document)
    if options.json.resolve() == (folder / "metrics.json").resolve():
        write_card(folder)
    print(summary(document), f"-> {options.json}", sep="\n")


def run_check_config(options: argparse.Namespace) -> None:
    import yaml

    print(yaml.safe_dump(load_recipe(options.recipe, options.settings).as_dict(), sort_keys=False), end="")


def machine() -> str:
    """The processor, its cores and the GPU, for beside a figure."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def side_by_side(left: str, right: str, width: int = 52) -> str:
    """Two texts in two columns: unsteered and steered."""
    columns = itertools.zip_longest(textwrap.wrap(left, width), textwrap.wrap(right, width), fillvalue="")
    return "\n".join(f"{a:{width}}  |  {b}" for a, b in columns)


def _command(commands, name: str, run, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.add_argument("checkpoint", help="a folder such as checkpoints/storyworld")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=run)
    return command


def _load(options: argparse.Namespace):
    """The pipeline, on the GPU where there is one."""
    import torch
    from diffusers.utils import logging

    from latdiff.pipeline import load_pipeline

    logging.disable_progress_bar()
    pipe = load_pipeline(options.checkpoint)
    pipe.set_progress_bar_config(disable=options.quiet, leave=False)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def _guide_words(text: str) -> tuple[str, str, float]:
    """'sentiment=positive:14' -> ('sentiment', 'positive', 14.0)."""
    name, equals, rest = text.partition("=")
    label, _, scale = rest.rpartition(":") if ":" in rest else (rest, "", str(DEFAULT_SCALE))
    try:
        if not (name and equals and label):
            raise ValueError
        if not math.isfinite(float(scale)):
            raise ValueError
        return name, label, float(scale)
    except ValueError:
        raise UserError(
            f"--guide is {text!r}, must be HEAD=LABEL or HEAD=LABEL:SCALE, e.g. sentiment=positive:14"
        ) from None


def _sampler_words(text: str) -> tuple[str, int]:
    """'ddpm:50' -> ('ddpm', 50)."""
    name, _, steps = text.partition(":")
    if name not in SCHEDULERS or not steps.isdigit() or int(steps) < 1:
        raise UserError(f"--samplers has {text!r}, must be NAME:STEPS with a name of {', '.join(SCHEDULERS)}")
    return name, int(steps)
