"""`latdiff sample` and `latdiff edit`: texts, steered by the heads of a checkpoint."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

from latdiff.checkpoints import folder_of
from latdiff.cli.guides import guide_options, guide_words, head_folder, read_guides, steering
from latdiff.cli.options import check_limit, command_of, decode_option, keep_option, seed_option
from latdiff.cli.texts import Texts, side_by_side
from latdiff.config import SCHEDULERS
from latdiff.errors import UserError, check_number, check_whole, shown
from latdiff.pipelines.defaults import DEFAULT_STRENGTH, LEAST_KEEP
from latdiff.processes import launched, refuse_several
from latdiff.stopping import STOPPING

TRIED = 64  # texts that are decoded without an edit, to see whether they come back


def add_sample(commands) -> None:
    command = command_of(commands, "sample", run_sample, "sample texts, with guides or without")
    command.set_defaults(all_processes=True)
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
    guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser evaluations per text (default: the checkpoint's)")
    command.add_argument("--scheduler", help=f"one of {', '.join(SCHEDULERS)} (default: the checkpoint's)")
    seed_option(command)
    decode_option(command)
    command.add_argument("--compare", action="store_true", help="print unsteered texts of the same seed beside them")
    command.add_argument("--json", action="store_true", help="one JSON object per text")
    command.add_argument("--output", type=Path, metavar="FILE",
                         help="write the texts into a file that ends in .jsonl, with the objects of --json, or .txt; "
                         "the same command goes on after a kill, and the processes of `accelerate launch` share the "
                         "work")


def add_edit(commands) -> None:
    command = command_of(commands, "edit", run_edit, "change texts towards guides and keep the rest")
    command.add_argument("--text", action="append", default=[], help="a text to edit; may be repeated")
    command.add_argument("--data", help="or a file of them: .txt, .jsonl, .csv, .tsv or .parquet, or storyworld")
    command.add_argument("--text-column", default="text", help="column of the texts (default text)")
    command.add_argument("--limit", type=int, help="number of texts of the data, at most (storyworld: 400)")
    command.add_argument("--strength", type=float, default=DEFAULT_STRENGTH,
                         help=f"above 0 (few changes) to 1 (almost nothing kept) (default {DEFAULT_STRENGTH:g})")
    guide_options(command)
    command.add_argument("--steps", type=int, help="denoiser evaluations from pure noise (default: the checkpoint's)")
    seed_option(command)
    decode_option(command)
    command.add_argument("--json", action="store_true", help="one JSON object per text")


def run_sample(options: argparse.Namespace) -> None:
    wanted = guide_words(options.guide, options.avoid)
    _check_sample(options)
    if options.output is None:
        refuse_several("every process would print the same texts; give --output FILE, which they then write together")
        texts = Texts(options, wanted, options.json, options.quiet)
        for places in texts.chunks():
            print("".join(f"{line}\n" for line in texts.lines(places)), end="")
        return
    from latdiff.cli.output import TextsFile

    with STOPPING.heeded(), launched() as state:
        file = TextsFile(options.output, _settings(options, wanted), state)
        with file.alone() as finished:
            if not finished:
                texts = Texts(options, wanted, options.output.suffix == ".jsonl", quiet=True)
                file.write(texts.chunks(), texts.lines, options.quiet)
        if state.is_main_process and not options.quiet:
            print(f"{'finished already' if finished else 'texts'} -> {options.output}")


def _check_sample(options: argparse.Namespace) -> None:
    """What can be wrong with the words, before anything loads."""
    if options.prompt and options.cond:
        raise UserError("--prompt is a condition, as --cond is; give one of them")
    if options.num_samples is not None:
        check_whole("--num-samples", options.num_samples)
    if options.keep is not None:
        check_number("--keep", options.keep, LEAST_KEEP, 1)
    keeps = options.keep is not None and options.keep != 1
    if options.compare and (keeps or options.candidates > 1):
        raise UserError("--compare shows texts of the same noise side by side, among which --keep and --candidates "
                        "choose; leave it or them out")
    if options.output is None:
        return
    from latdiff.cli.output import check_ending

    check_ending(options.output)
    if keeps:
        raise UserError(f"--keep is {options.keep:g}, which chooses among all texts once they are drawn, and --output "
                        "writes them chunk by chunk; leave one of them out")
    if options.output.suffix == ".txt" and (options.compare or options.json):
        raise UserError(f"--output is {options.output}, which has a text a line; leave out --compare and --json, or "
                        "name a file that ends in .jsonl")


def _settings(options: argparse.Namespace, wanted: list[tuple[str, str, str]]) -> dict:
    """What changes the texts of `latdiff sample`, for the file beside them."""
    from latdiff.cli.output import digest_of_files
    from latdiff.heads.files import FILES
    from latdiff.pipelines.index import named_parts
    from latdiff.precision import compute_dtype, default_device

    folder = Path(options.checkpoint)
    parts = [*named_parts(folder), "model_index.json"] if (folder / "model_index.json").is_file() else []
    names = ("num_samples", "cond", "prompt", "guidance_scale", "candidates", "mode", "steps", "scheduler", "seed",
             "decode", "compare")
    return {"checkpoint": options.given, "weights": digest_of_files(folder, parts)} | {
        name: getattr(options, name) for name in names} | {
        "guides": [[*words, digest_of_files(folder_of(head_folder(folder, words[1])), FILES)] for words in wanted],
        "dtype": str(compute_dtype("auto", default_device())).removeprefix("torch.")}


def run_edit(options: argparse.Namespace) -> None:
    wanted = guide_words(options.guide, options.avoid)
    if bool(options.text) == bool(options.data):
        raise UserError("edit needs texts: give --text once or more, or --data FILE")
    if not wanted:
        raise UserError("edit needs a direction: give --guide HEAD=LABEL once or more")
    check_limit(options)
    refuse_several("`latdiff edit` works in one process; leave the launcher out")
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
            print(json.dumps(row | {"guides": steering(guides, out.scores, index)}, ensure_ascii=False))
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
