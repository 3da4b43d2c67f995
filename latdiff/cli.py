"""The `latdiff` command: thin; every subcommand hands over to the library and prints what comes back."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import textwrap
import time
from pathlib import Path

from latdiff.config import DECODING, SCHEDULERS, load_recipe
from latdiff.diffusion.modes import MODES
from latdiff.errors import UserError, plain_errors
from latdiff.heads.defaults import DEFAULT_ALPHA, DEFAULT_C, FEATURES
from latdiff.pipelines.defaults import DEFAULT_STRENGTH


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; a UserError is printed as a sentence with exit status 1."""
    options = parser().parse_args(arguments)
    with plain_errors():
        options.run(options)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="latdiff", description="Latent text diffusion: sample, steer, measure.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    for add in (_add_sample, _add_edit, _add_fit_head, _add_evaluate, _add_check_config):
        add(commands)
    return top


def _add_sample(commands) -> None:
    command = _command(commands, "sample", run_sample, "write texts, steered by guides or not")
    command.add_argument("--num-samples", type=int,
                         help="how many texts (default 8), or of each of several --cond (default 1)")
    command.add_argument("--cond", action="append", default=[], metavar="TEXT",
                         help="what a conditional model is told: a class or a source text; may be repeated, for a text "
                         "each")
    command.add_argument("--guidance-scale", type=float, default=1.0,
                         help="classifier-free guidance towards --cond (default 1: none)")
    command.add_argument("--candidates", type=int, default=1,
                         help="draw so many and keep the one that agrees best with the others (default 1)")
    _keep_option(command)
    _guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser calls a text (default: the checkpoint's)")
    command.add_argument("--scheduler", help=f"one of {', '.join(SCHEDULERS)} (default: the checkpoint's)")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same texts (default 0)")
    _decode_option(command)
    command.add_argument("--compare", action="store_true", help="print unsteered texts of the same seed beside them")
    command.add_argument("--json", action="store_true", help="one JSON object a text")


def _add_edit(commands) -> None:
    command = _command(commands, "edit", run_edit, "change texts towards guides and keep the rest")
    command.add_argument("--text", action="append", default=[], help="a text to edit; may be repeated")
    command.add_argument("--data", help="or a file of them: .txt, .jsonl, .csv, .tsv or .parquet")
    command.add_argument("--text-column", default="text", help="column of the texts (default text)")
    command.add_argument("--limit", type=int, help="edit at most so many texts of the file")
    command.add_argument("--strength", type=float, default=DEFAULT_STRENGTH,
                         help=f"above 0, little changes, to 1, nothing is kept ({DEFAULT_STRENGTH:g})")
    _guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser calls from pure noise (default: the checkpoint's)")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same texts (default 0)")
    _decode_option(command)
    command.add_argument("--json", action="store_true", help="one JSON object a text")


def _add_fit_head(commands) -> None:
    command = _command(commands, "fit-head", run_fit_head, "fit a head on labelled texts")
    command.add_argument("--data", required=True, help="labelled .jsonl, .csv, .tsv or .parquet, or storyworld")
    command.add_argument("--name", required=True, help="what to call the attribute")
    command.add_argument("--text-column", default="text", help="column of the texts (default text)")
    command.add_argument("--label-column", default="label", help="column of the labels; dots reach into nested columns")
    command.add_argument("--limit", type=int, help="use at most so many texts (storyworld: 400)")
    command.add_argument("--number", action="store_true", help="the labels are numbers: fit a ridge regression")
    command.add_argument("--regularisation", default=None, metavar="C",
                         help=f"scikit-learn's C, inverse strength (default {DEFAULT_C:g}), or cv to choose it by "
                         "cross-validation; with --number its alpha, strength "
                         f"(default {DEFAULT_ALPHA:g})")
    command.add_argument("--features", choices=FEATURES, default="flat", help="of the latents (default flat)")
    command.add_argument("--noise-aware", action="store_true", help="also fit on noised latents, for --mode noisy")


def _add_evaluate(commands) -> None:
    command = _command(commands, "evaluate", run_evaluate, "measure a checkpoint, a language model or a file of texts; "
                       "write every figure as JSON, and pictures beside it",
                       "a folder such as checkpoints/storyworld or checkpoints/storyworld-ar, or a file of texts")
    command.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    command.add_argument("--num-samples", type=int, default=1000, help="texts a figure (default 1000)")
    command.add_argument("--scale", type=float, help="scale of every guide (default: what is usual for the mode)")
    command.add_argument("--sweep-scale", nargs="*", type=float, metavar="SCALE",
                         help="also draw control against fluency into control-HEAD.png, for every mode of every head "
                         "(default scales: 1/4 to 4 times the usual one)")
    command.add_argument("--guidance-scale", nargs="+", type=float, metavar="SCALE",
                         help="of classifier-free guidance, for a conditional model (default 1 2)")
    command.add_argument("--judge", action="append", default=[], metavar="HEAD=DATA[:COLUMN]",
                         help="labelled texts other than the head's, for a classifier of another kind that says "
                         "whether steering by HEAD worked; or HEAD is the column of the classes that the model is "
                         "told; may be repeated (default column: label)")
    command.add_argument("--fluency", metavar="MODEL", help="a causal language model, folder or hub id, whose "
                         "perplexity of the texts is measured; recipes/train_ar.py trains one, where there are classes "
                         "with train_ar.condition_dropout=1")
    command.add_argument("--mauve", metavar="MODEL", help="a language model or text encoder, folder or hub id, by "
                         "whose states MAUVE compares samples with unseen texts")
    command.add_argument("--bert-score", metavar="MODEL", help="a text encoder, folder or hub id, by whose states "
                         "BERTScore compares what a text-conditional model writes with its references")
    _decode_option(command)
    _keep_option(command)
    command.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    command.add_argument("--seeds", type=int, default=5, metavar="N",
                         help="measure so many times, with this seed and those after it, for means and standard "
                         "deviations (default 5)")
    command.add_argument("--recipe", help="of a rival: whose corpus to hold its texts against (default: the "
                         "recipe.yaml beside it)")
    command.add_argument("--top-p", type=float, metavar="P",
                         help="of a language model: nucleus sampling (default 1: ancestral sampling)")
    command.add_argument("--text-column", help="of a file: the column of the texts (default text)")
    command.add_argument("--rerank", metavar="CHECKPOINT:K", help="of a language model: also take the best of K of its "
                         "texts, for every label of the heads of a pipeline's folder")
    command.add_argument("--samplers", nargs="+", metavar="NAME:STEPS",
                         help="unconditional rows (default: the checkpoint's own, and renoise:25)")


def _add_check_config(commands) -> None:
    command = commands.add_parser("check-config", help="read a recipe, print it whole or every problem in it")
    command.add_argument("recipe")
    command.add_argument("settings", nargs="*", metavar="section.key=value")
    command.set_defaults(run=run_check_config)


def run_sample(options: argparse.Namespace) -> None:
    wanted = _guide_words_of(options)
    import torch

    from latdiff.diffusion.sampling import make_scheduler
    from latdiff.pipelines.files import load_for_commands

    pipe = load_for_commands(options.checkpoint, options.quiet)

    guides = _guides(options, wanted)
    several = len(options.cond) > 1
    cond = options.cond if several else next(iter(options.cond), None)
    count = options.num_samples if options.num_samples is not None else 1 if several else 8
    keep = 1.0 if options.keep is None else options.keep
    if options.scheduler:
        pipe.scheduler = make_scheduler(options.scheduler, pipe.scheduler.config.trained_betas)

    def draw(guides):
        return pipe(cond, count, guides, num_inference_steps=options.steps,
                    guidance_scale=options.guidance_scale, candidates=options.candidates, keep=keep,
                    generator=torch.Generator().manual_seed(options.seed), decode_options=options.decode)

    out = draw(guides)
    plain = draw([]).texts if options.compare else [None] * len(out.texts)
    for index, (text, unsteered) in enumerate(zip(out.texts, plain, strict=True)):
        steering = _steering(guides, out.scores, index)
        if options.json:
            row = {"text": text, "cut": out.cut[index], "seed": options.seed, "index": index, "guides": steering}
            row |= {"cond": cond if isinstance(cond, str) else cond[index // count]} if cond else {}
            row |= {"unsteered": unsteered} if options.compare else {}
            print(json.dumps(row, ensure_ascii=False))
        elif options.compare:
            print(side_by_side(unsteered, text), end="\n\n")
        else:
            print(text)


def run_edit(options: argparse.Namespace) -> None:
    wanted = _guide_words_of(options)
    if bool(options.text) == bool(options.data):
        raise UserError("edit needs texts: give --text once or more, or --data FILE")
    if not wanted:
        raise UserError("edit needs a direction: give --guide HEAD=LABEL once or more")
    _check_limit(options)
    import torch

    from latdiff.data.corpus import load_texts
    from latdiff.pipelines.files import load_for_commands

    texts = options.text or load_texts(options.data, options.text_column)[: options.limit]
    pipe = load_for_commands(options.checkpoint, options.quiet)
    guides = _guides(options, wanted)
    out = pipe.edit(texts, guides, strength=options.strength, num_inference_steps=options.steps,
                    generator=torch.Generator().manual_seed(options.seed), decode_options=options.decode)
    for index, (before, after) in enumerate(zip(texts, out.texts, strict=True)):
        if options.json:
            row = {"text": after, "before": before, "cut": out.cut[index], "seed": options.seed, "index": index}
            print(json.dumps(row | {"guides": _steering(guides, out.scores, index)}, ensure_ascii=False))
        else:
            print(side_by_side(before, after), end="\n\n")


def run_fit_head(options: argparse.Namespace) -> None:
    from latdiff.data.corpus import load_labelled

    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise UserError(f"--name is {options.name!r}, must be a word of letters, digits, '_', '-' and '.'")
    _check_limit(options)
    if options.number and (options.noise_aware or options.features != "flat"):
        raise UserError("--number fits flat clean latents; leave out --noise-aware and --features")
    strength = _regularisation(options)
    texts, labels = load_labelled(options.data, options.text_column, options.label_column, options.limit,
                                  classes=not options.number)
    from latdiff.heads.attribute import AttributeHead
    from latdiff.heads.fitting import fit_head
    from latdiff.heads.number import NumberHead

    codec, estimate = _codec_and_estimate(options)
    fits = codec.fits(texts)
    texts, labels = list(itertools.compress(texts, fits)), list(itertools.compress(labels, fits))
    began = time.monotonic()
    if options.number:
        head = fit_head(codec, texts, labels, NumberHead(options.name, alpha=strength))
        quality = f"cross-validated R2 {head.report['r2']:.3f}, typical error {head.sd:.3g}"
    else:
        kind = AttributeHead(options.name, C=strength, features=options.features, noise_aware=options.noise_aware)
        head = fit_head(codec, texts, labels, kind, estimate=estimate)
        quality = (f"labels {', '.join(map(str, head.classes_))}, cross-validated accuracy "
                   f"{head.report['accuracy']:.3f} (the most frequent label: {head.report['majority']:.3f}), "
                   f"calibration error {head.report['calibration_error']:.3f}, C {head.report['C']:g}")
    folder = Path(options.checkpoint) / "heads" / options.name
    head.save(folder)
    print(f"{options.name}: {len(texts)} texts ({fits.count(False)} too long, left out), {quality}, "
          f"fitted in {time.monotonic() - began:.1f} s -> {folder}")
    if "accuracy_by_noise" in head.report:
        read = "at z_t" if options.noise_aware else "at the denoiser's estimate"
        levels = "  ".join(f"{sigma}: {value:.2f}" for sigma, value in head.report["accuracy_by_noise"].items())
        print(f"accuracy by noise level sigma, {read}:  {levels}")


def _codec_and_estimate(options: argparse.Namespace):
    """The codec of a folder, and its denoiser's estimate of x0 where it has a denoiser already."""
    import torch

    from latdiff.codecs.files import load_codec
    from latdiff.pipelines.files import load_for_commands

    if (Path(options.checkpoint) / "model_index.json").exists():
        pipe = load_for_commands(options.checkpoint, options.quiet)
        return pipe.codec, pipe.estimate
    return load_codec(options.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu"), None


def run_evaluate(options: argparse.Namespace) -> None:
    from latdiff.evaluation.command import run

    run(options)


def run_check_config(options: argparse.Namespace) -> None:
    import yaml

    print(yaml.safe_dump(load_recipe(options.recipe, options.settings).as_dict(), sort_keys=False), end="")


def side_by_side(left: str, right: str, width: int = 52) -> str:
    """Two texts in two columns: unsteered and steered."""
    columns = itertools.zip_longest(textwrap.wrap(left, width), textwrap.wrap(right, width), fillvalue="")
    return "\n".join(f"{a:{width}}  |  {b}" for a, b in columns)


def _command(
    commands, name: str, run, help: str, subject: str = "a folder such as checkpoints/storyworld"
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.add_argument("checkpoint", help=subject)
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=run)
    return command


def _keep_option(command) -> None:
    command.add_argument("--keep", type=float, metavar="SHARE",
                         help="draw more and keep this share, the samples that lie nearest to their own texts: many a "
                         "broken text is among the others (default 1: all)")


def _decode_option(command) -> None:
    command.add_argument("--decode", help=f"how the decoder writes, one of {', '.join(DECODING)}: the last searches 4 "
                         "beams and repeats no three tokens (default: the checkpoint's)")


def _guide_options(command) -> None:
    command.add_argument("--guide", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer by a fitted head; may be repeated. LABEL may be A+B, either of two, or a number "
                         "for a head of numbers (default scale: what is usual for the mode)")
    command.add_argument("--avoid", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer away from a label, to any other")
    command.add_argument("--mode", choices=MODES, default="x0", help="where gradients are taken (default x0)")


def _guide_words_of(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """('toward' or 'away', head, LABEL or LABEL:SCALE) of every --guide and --avoid; before anything loads."""
    toward = [("toward", *_guide_words(text, "--guide")) for text in options.guide]
    return toward + [("away", *_guide_words(text, "--avoid")) for text in options.avoid]


def _guides(options: argparse.Namespace, wanted: list[tuple[str, str, str]]) -> list:
    from latdiff.heads.attribute import AttributeHead
    from latdiff.heads.files import load_head
    from latdiff.heads.inputs import HeadError

    guides = []
    for way, name, words in wanted:
        head = load_head(Path(options.checkpoint) / "heads" / name)
        if way == "away" and not isinstance(head, AttributeHead):
            raise HeadError(f"head {name!r} is of numbers and has no label to avoid; name a number with --guide")
        target, scale = _target_and_scale(head, f"{name}={words}", "--avoid" if way == "away" else "--guide")
        guides.append(getattr(head, way)(target, scale, options.mode))
    return guides


def _target_and_scale(head, text: str, flag: str) -> tuple[str | dict[str, float], float | None]:
    """'tone=positive:18' -> ('positive', 18.0), but the whole is tried first: a label may hold a colon, or a plus."""
    words = text.partition("=")[2]
    label, colon, scale = words.rpartition(":")
    ways = [(words, None)] + ([(label, float(scale))] if colon and label and _is_finite(scale) else [])
    for target, size in ways:
        if head.knows(target):
            return target, size
        if flag == "--guide" and "+" in target and all(map(head.knows, target.split("+"))):
            return dict.fromkeys(target.split("+"), 1.0), size
    if colon and len(ways) == 1:
        raise _no_guide(text, flag)
    return ways[-1]


def _steering(guides: list, scores: dict, index: int) -> dict:
    """Per head what was asked of one text, and its own probability; a head's later guides go by their title."""
    found = {}
    for guide, (title, values) in zip(guides, scores.items(), strict=True):
        key = title if guide.head.name in found else guide.head.name
        found[key] = {"target": guide.head.describe(guide.target), "scale": guide.scale, "mode": guide.mode,
                      "prob": round(values[index], 4)}
    return found


def _check_limit(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit is {options.limit}, must be 1 or more")


def _regularisation(options: argparse.Namespace) -> float | str:
    """scikit-learn's C, or its alpha with --number."""
    given = options.regularisation
    if given is None:
        return DEFAULT_ALPHA if options.number else DEFAULT_C
    if given == "cv" and not options.number:
        return "cv"
    try:
        if 0 < float(given) < math.inf:
            return float(given)
    except ValueError:
        pass
    raise UserError(f"--regularisation is {given!r}, must be a number above 0{'' if options.number else ', or cv'}")


def _guide_words(text: str, flag: str) -> tuple[str, str]:
    """'sentiment=positive:18' -> ('sentiment', 'positive:18')."""
    name, _, words = text.partition("=")
    if not (name and words):
        raise _no_guide(text, flag)
    return name, words


def _no_guide(text: str, flag: str) -> UserError:
    return UserError(f"{flag} is {text!r}, must be HEAD=LABEL or HEAD=LABEL:SCALE, e.g. sentiment=positive:18")


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
