"""`latdiff fit-head`: a guidance head from labelled texts."""

from __future__ import annotations

import argparse
import itertools
import math
import re
import shlex
import time
import warnings
from pathlib import Path

from latdiff.checkpoints import refuse_outside
from latdiff.cli.options import check_limit, command_of
from latdiff.errors import UserError, shown
from latdiff.heads.defaults import DEFAULT_ALPHA, DEFAULT_C, FEATURES
from latdiff.processes import refuse_several


def add_fit_head(commands) -> None:
    command = command_of(commands, "fit-head", run_fit_head, "fit a head on labelled texts")
    command.add_argument("--data", required=True, help="labelled .jsonl, .csv, .tsv or .parquet, or storyworld, or "
                         "companions.csv, an example that comes with latdiff")
    command.add_argument("--name", required=True, help="name of the attribute")
    command.add_argument("--text-column", default="text", help="column of the texts (default text)")
    command.add_argument("--label-column", default="label", help="column of the labels; dots reach into nested columns")
    command.add_argument("--limit", type=int, help="number of texts, at most (storyworld: 400)")
    command.add_argument("--number", action="store_true", help="the labels are numbers: fit a ridge regression")
    command.add_argument("--regularisation", default=None, metavar="C",
                         help=f"scikit-learn's C, inverse strength (default {DEFAULT_C:g}), or cv to choose it by "
                         "cross-validation; with --number its alpha, strength "
                         f"(default {DEFAULT_ALPHA:g})")
    command.add_argument("--features", choices=FEATURES, default="flat", help="of the latents (default flat)")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="of the head (default CHECKPOINT/heads/NAME)")
    command.add_argument("--noise-aware", action="store_true", help="also fit on noised latents, for --mode noisy")


def run_fit_head(options: argparse.Namespace) -> None:
    refuse_several("`latdiff fit-head` works in one process; leave the launcher out")
    from latdiff.data.corpus import are_measures, read_labelled

    if not re.fullmatch(r"\w[\w.-]{0,59}", options.name):
        raise UserError(f"--name is {shown(options.name)}, must be a word of at most 60 letters, digits, '_', '-' and "
                        "'.'")
    if options.output is None and Path(options.checkpoint) != Path(options.given).expanduser():
        raise UserError(f"{options.given} came with latdiff or from the hub, and its own folder is not for "
                        "writing; name a folder for the head with --output")
    folder = options.output or Path(options.checkpoint) / "heads" / options.name
    if options.output is None:
        refuse_outside(folder, Path(options.checkpoint))
    check_limit(options)
    if options.number and (options.noise_aware or options.features != "flat"):
        raise UserError("--number fits flat clean latents; leave out --noise-aware and --features")
    strength = _regularisation(options)
    read = read_labelled(options.data, options.text_column, options.label_column, options.limit,
                         classes=not options.number)
    if not options.number and are_measures(read.labels):
        warnings.warn(f"the labels of {options.label_column} are numbers, most of them not whole, and each of the "
                      f"{len(set(read.labels))} different ones becomes a class of its own; --number fits a head of "
                      "numbers, which knows that 4.5 lies near 4.4", stacklevel=2)
    from latdiff.data.tokens import MOST_TOO_LONG
    from latdiff.heads.attribute import AttributeHead
    from latdiff.heads.fitting import fit_head
    from latdiff.heads.guessing import held_out
    from latdiff.heads.number import NumberHead

    codec, estimate = _codec_and_estimate(options)
    fits = codec.fits(read.texts)
    if fits.count(False) > MOST_TOO_LONG * len(fits):
        warnings.warn(f"{fits.count(False):,} of {len(fits):,} texts are too long for this codec and left out, so "
                      "that the head knows short ones alone; codec.split cuts longer ones in pieces", stacklevel=2)
    texts, labels = (list(itertools.compress(column, fits)) for column in (read.texts, read.labels))
    began = time.monotonic()
    if options.number:
        head = fit_head(codec, texts, labels, NumberHead(options.name, alpha=float(strength)))
        quality = f"cross-validated R2 {head.report['r2']:.3f}, typical error {head.sd:.3g}"
    else:
        kind = AttributeHead(options.name, C=strength, features=options.features, noise_aware=options.noise_aware)
        head = fit_head(codec, texts, labels, kind, estimate=estimate)
        quality = (f"labels {', '.join(map(str, head.classes_))}, {held_out(head.report)}, "
                   f"calibration error {head.report['calibration_error']:.3f}, C {head.report['C']:g}")
    replaces = " (replaces the head that was there)" if (folder / "config.json").exists() else ""
    head.save(folder)
    dropped = "".join(f", {count} {why}" for why, count in read.dropped.items() if count)
    print(f"{options.name}: {len(texts)} texts ({fits.count(False)} too long{dropped}, left out), {quality}, "
          f"fitted in {time.monotonic() - began:.1f} s -> {folder}{replaces}")
    if options.output:
        named = folder if "/" in str(folder) else f"./{folder}"
        target = labels[0] if options.number else head.classes_[-1]
        print(f"steer with it: latdiff sample {options.given} --guide {shlex.quote(f'{named}={target}')}")
    if "accuracy_by_noise" in head.report:
        place = "at z_t" if options.noise_aware else "at the denoiser's estimate"
        levels = "  ".join(f"{sigma}: {value:.2f}" for sigma, value in head.report["accuracy_by_noise"].items())
        print(f"accuracy by noise level sigma, {place}:  {levels}")


def _codec_and_estimate(options: argparse.Namespace):
    """The codec of a folder, and its denoiser's estimate of x0 where it has a denoiser already."""
    from latdiff.codecs.files import load_codec
    from latdiff.pipelines.files import load_for_commands
    from latdiff.precision import default_device

    if (Path(options.checkpoint) / "model_index.json").exists():
        pipe = load_for_commands(options.checkpoint, options.quiet)
        return pipe.codec, pipe.estimate
    return load_codec(options.checkpoint).to(default_device()), None


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
    also = "" if options.number else ", or cv"
    raise UserError(f"--regularisation is {shown(given)}, must be a number above 0{also}")
