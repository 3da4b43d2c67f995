"""`latdiff plot`: pictures of a checkpoint; evaluation/pictures.py draws them."""

from __future__ import annotations

import argparse
from pathlib import Path

from latdiff.checkpoints import name_of
from latdiff.cli.guides import guide_options, guide_words, read_guides
from latdiff.cli.options import command_of, seed_option
from latdiff.errors import UserError, shown, written
from latdiff.processes import refuse_several


def add_plot(commands) -> None:
    command = command_of(
        commands, "plot", run_plot,
        "draw a checkpoint: training curves, latents by attribute, a text out of noise, and what was measured",
    )
    command.add_argument("--output", type=Path, metavar="FOLDER",
                         help="of the pictures, which are then named after the checkpoint (default: the checkpoint's "
                         "own, whose model card shows them)")
    command.add_argument("--labels", action="append", default=[], metavar="HEAD=DATA[:COLUMN[:TEXTS]]",
                         help="labelled texts whose latents are drawn for HEAD; may be repeated (default: texts of the "
                         "world that the checkpoint was trained on, else of the model's own, labelled by the head; "
                         "default columns: label and text)")
    guide_options(command)
    seed_option(command)


def run_plot(options: argparse.Namespace) -> None:
    refuse_several("`latdiff plot` works in one process; leave the launcher out")
    wanted = guide_words(options.guide, options.avoid)
    folder = Path(options.checkpoint)
    if options.output is None and folder != Path(options.given).expanduser():
        raise UserError(f"{options.given} came with latdiff or from the hub, and its own folder is not for "
                        "writing; name a folder for the pictures with --output")
    from latdiff.evaluation.card import write_card
    from latdiff.evaluation.figures import require_matplotlib
    from latdiff.evaluation.labelled import read_labelled_words
    from latdiff.evaluation.pictures import Subject, draw, has_card

    require_matplotlib()
    labelled = list(read_labelled_words("--labels", options.labels))
    document = options.output / f"{name_of(options.given)}.json" if options.output else folder / "metrics.json"
    subject = Subject(folder, options.given, document, options.seed, quiet=options.quiet)
    subject.check()
    subject.guides = read_guides(folder, wanted, options.mode)
    for name, texts, labels in labelled:
        if name not in (known := [head.name for head in subject.heads]):
            raise UserError(f"--labels names {shown(name)}; heads of labels there: {', '.join(known) or 'none'}")
        subject.labelled[name] = texts, labels
    drawn = list(draw(subject))
    for one in drawn:
        print(f"{one.name:15} {f'-> {written(str(one.path))}' if one.path else f'not drawn: {one.reason}'}")
    if not any(one.path for one in drawn):
        raise UserError(f"no picture of {options.given} could be drawn; above is why")
    if options.output is None and has_card(folder):
        write_card(folder)
        print(f"{'model card':15} -> {folder / 'README.md'}")
