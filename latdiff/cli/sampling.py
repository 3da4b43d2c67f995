"""`latdiff sample` and `latdiff edit`: texts, steered by the heads of a checkpoint."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

from latdiff.cli.options import check_limit, command_of, decode_option, keep_option, seed_option
from latdiff.config import SCHEDULERS
from latdiff.diffusion.modes import MODES
from latdiff.errors import UserError, shown
from latdiff.pipelines.defaults import DEFAULT_STRENGTH

TRIED = 64  # texts that are decoded without an edit, to see whether they come back


def add_sample(commands) -> None:
    command = command_of(commands, "sample", run_sample, "sample texts, with guides or without")
    command.add_argument("--num-samples", type=int,
                         help="how many texts (default 8), or of each of several --cond (default 1)")
    command.add_argument("--cond", action="append", default=[], metavar="TEXT",
                         help="the condition of a conditional model, a class or a source text; may be repeated, for a "
                         "text each")
    command.add_argument("--prompt", action="append", default=[], metavar="WORDS",
                         help="first words that texts go on from, by a model that was trained to; may be repeated")
    command.add_argument("--guidance-scale", type=float, default=1.0,
                         help="classifier-free guidance towards --cond (default 1: none)")
    command.add_argument("--candidates", type=int, default=1,
                         help="number of texts to sample for each one that is kept, which agrees best with the others "
                         "(default 1)")
    keep_option(command)
    _guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser evaluations per text (default: the checkpoint's)")
    command.add_argument("--scheduler", help=f"one of {', '.join(SCHEDULERS)} (default: the checkpoint's)")
    seed_option(command)
    decode_option(command)
    command.add_argument("--compare", action="store_true", help="print unsteered texts of the same seed beside them")
    command.add_argument("--json", action="store_true", help="one JSON object per text")


def add_edit(commands) -> None:
    command = command_of(commands, "edit", run_edit, "change texts towards guides and keep the rest")
    command.add_argument("--text", action="append", default=[], help="a text to edit; may be repeated")
    command.add_argument("--data", help="or a file of them: .txt, .jsonl, .csv, .tsv or .parquet, or storyworld")
    command.add_argument("--text-column", default="text", help="column of the texts (default text)")
    command.add_argument("--limit", type=int, help="number of texts of the data, at most (storyworld: 400)")
    command.add_argument("--strength", type=float, default=DEFAULT_STRENGTH,
                         help=f"above 0 (few changes) to 1 (almost nothing kept) (default {DEFAULT_STRENGTH:g})")
    _guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser evaluations from pure noise (default: the checkpoint's)")
    seed_option(command)
    decode_option(command)
    command.add_argument("--json", action="store_true", help="one JSON object per text")


def run_sample(options: argparse.Namespace) -> None:
    wanted = guide_words(options.guide, options.avoid)
    if options.prompt and options.cond:
        raise UserError("--prompt is a condition, as --cond is; give one of them")
    import torch

    from latdiff.diffusion.sampling import make_scheduler
    from latdiff.pipelines.files import load_for_commands

    pipe = load_for_commands(options.checkpoint, options.quiet)

    guides = read_guides(options.checkpoint, wanted, options.mode)
    goes_on = pipe.codec.continues and pipe.denoiser.config.source_dim
    if options.prompt and not goes_on:
        raise UserError(f"--prompt is {options.prompt[0]!r}, but the texts of {options.given} do not go on from first "
                        "words; leave it out, or train with data.condition=start")
    if options.cond and goes_on:
        raise UserError(f"--cond is {options.cond[0]!r}, but the texts of {options.given} go on from first words; give "
                        "those with --prompt, and lead towards a label with --guide")
    given = options.prompt or options.cond
    several = len(given) > 1
    cond = given if several else next(iter(given), None)
    count = options.num_samples if options.num_samples is not None else 1 if several else 8
    keep = 1.0 if options.keep is None else options.keep
    if options.compare and (keep < 1 or options.candidates > 1):
        raise UserError("--compare shows texts of the same noise side by side, among which --keep and --candidates "
                        "choose; leave it or them out")
    if options.scheduler:
        pipe.scheduler = make_scheduler(options.scheduler, pipe.scheduler.config.trained_betas)

    def draw(guides):
        return pipe(cond=cond, num_samples=count, guides=guides, num_inference_steps=options.steps,
                    guidance_scale=options.guidance_scale, candidates=options.candidates, keep=keep,
                    generator=torch.Generator().manual_seed(options.seed), decode_options=options.decode)

    out = draw(guides)
    plain = draw([]).texts if options.compare else [None] * len(out.texts)
    for index, (text, unsteered) in enumerate(zip(out.texts, plain, strict=True)):
        if options.prompt:
            begun = options.prompt[index // count]
            text, unsteered = f"{begun} {text}", f"{begun} {unsteered}"
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
    wanted = guide_words(options.guide, options.avoid)
    if bool(options.text) == bool(options.data):
        raise UserError("edit needs texts: give --text once or more, or --data FILE")
    if not wanted:
        raise UserError("edit needs a direction: give --guide HEAD=LABEL once or more")
    check_limit(options)
    import torch

    from latdiff.data.corpus import load_texts
    from latdiff.pipelines.files import load_for_commands

    texts = options.text or load_texts(options.data, options.text_column, options.limit)
    pipe = load_for_commands(options.checkpoint, options.quiet)
    guides = read_guides(options.checkpoint, wanted, options.mode)
    warn_of_lost(pipe, texts[:TRIED], options.decode)
    out = pipe.edit(texts, guides, strength=options.strength, num_inference_steps=options.steps,
                    generator=torch.Generator().manual_seed(options.seed), decode_options=options.decode)
    for index, (before, after) in enumerate(zip(texts, out.texts, strict=True)):
        if options.json:
            row = {"text": after, "before": before, "cut": out.cut[index], "seed": options.seed, "index": index}
            print(json.dumps(row | {"guides": _steering(guides, out.scores, index)}, ensure_ascii=False))
        else:
            print(side_by_side(before, after), end="\n\n")


def warn_of_lost(pipe, texts: list[str], decode: str | None) -> None:
    """Warn where texts do not come back from their latents as they were, for then more than the guides changes them."""
    options = {"preset": decode or pipe.decoding} if pipe.codec.presets else {}
    back = pipe.codec.decode(pipe.codec.encode(texts), **options)
    lost = [pair for pair in zip(texts, back, strict=True) if pair[0].split() != pair[1].split()]
    if lost:
        warnings.warn(f"{len(lost)} of {len(texts)} texts do not come back from their latents word for word, and an "
                      f"edit changes as much besides: {shown(lost[0][0], 200)} comes back as {shown(lost[0][1], 200)}",
                      stacklevel=2)


def side_by_side(left: str, right: str, width: int = 52) -> str:
    """Two texts in two columns: unsteered and steered."""
    columns = itertools.zip_longest(textwrap.wrap(left, width), textwrap.wrap(right, width), fillvalue="")
    return "\n".join(f"{a:{width}}  |  {b}" for a, b in columns)


def _guide_options(command) -> None:
    command.add_argument("--guide", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer by a fitted head, by name or by path; may be repeated. LABEL may be A+B, "
                         "either of two, or a number for a head of numbers (default scale: what is usual for the mode)")
    command.add_argument("--avoid", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
                         help="steer away from a label, to any other")
    command.add_argument("--mode", choices=MODES, default="x0", help="where gradients are taken (default x0)")


def guide_words(toward: list[str], away: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """('toward' or 'away', head, LABEL or LABEL:SCALE) of every --guide and --avoid; before anything loads."""
    return [("toward", *_guide_words(text, "--guide")) for text in toward] + [
        ("away", *_guide_words(text, "--avoid")) for text in away]


def read_guides(checkpoint: str | Path, wanted: list[tuple[str, str, str]], mode: str = "x0") -> list:
    """Guides of what `guide_words` read, by heads of the checkpoint or by path; HeadError where one is missing."""
    from latdiff.heads.attribute import AttributeHead
    from latdiff.heads.files import load_head
    from latdiff.heads.inputs import HeadError

    guides = []
    for way, name, words in wanted:
        head = load_head(name if "/" in name else Path(checkpoint) / "heads" / name)
        if way == "away" and not isinstance(head, AttributeHead):
            raise HeadError(f"head {name!r} is of numbers and has no label to avoid; name a number with --guide")
        target, scale = _target_and_scale(head, f"{name}={words}", "--avoid" if way == "away" else "--guide")
        guides.append(getattr(head, way)(target, scale, mode))
    return guides


def _target_and_scale(head, text: str, flag: str) -> tuple[str | dict[str, float], float | None]:
    """'tone=positive:18' -> ('positive', 18.0), unless all of it is a label, which may contain a colon or a plus."""
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


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _no_guide(text: str, flag: str) -> UserError:
    return UserError(f"{flag} is {shown(text, 200)}, must be HEAD=LABEL or HEAD=LABEL:SCALE, e.g. "
                     "sentiment=positive:18")


def _steering(guides: list, scores: dict, index: int) -> dict:
    """Per head the target for one text and its probability; a head's further guides have their title as key."""
    found = {}
    for guide, (title, values) in zip(guides, scores.items(), strict=True):
        key = title if guide.head.name in found else guide.head.name
        found[key] = {"target": guide.head.describe(guide.target), "scale": guide.scale, "mode": guide.mode,
                      "prob": round(values[index], 4)}
    return found


def _guide_words(text: str, flag: str) -> tuple[str, str]:
    """'sentiment=positive:18' -> ('sentiment', 'positive:18')."""
    name, _, words = text.partition("=")
    if not (name and words):
        raise _no_guide(text, flag)
    return name, words
