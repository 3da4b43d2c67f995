"""The `latdiff` command; every subcommand calls the library and prints the result."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from pathlib import Path

import latdiff
from latdiff import threads
from latdiff.bars import without_bars
from latdiff.checkpoints import folder_of
from latdiff.cli.completion import SHELLS, PrintCompletion
from latdiff.cli.demo import add_demo
from latdiff.cli.evaluation import add_evaluate
from latdiff.cli.examples import EXIT, examples_of
from latdiff.cli.heads import add_fit_head
from latdiff.cli.listing import add_list
from latdiff.cli.models import add_check_checkpoint, add_fetch, add_publish
from latdiff.cli.plots import add_plot
from latdiff.cli.recipes import add_check_config, add_training
from latdiff.cli.sampling import add_edit, add_sample
from latdiff.cli.unknown import Parser, refuse_unknown
from latdiff.errors import plain_errors

WIDTH = 78  # of a description


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; a UserError is printed as a sentence with exit status 1.

    Where a launcher has begun several processes, the first one alone runs a subcommand that sets no `all_processes`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    with plain_errors():
        options, rest = parser().parse_known_args(words)
    late = [word for word in rest if not word.startswith("-")]  # argparse leaves what follows a flag and may be absent
    if "settings" in options:
        options.settings += late
    elif "to_hub" in options and options.output is None and len(late) == 1:
        options.output = Path(late[0])
    else:
        late = []
    rest = [word for word in rest if word not in late]
    if rest:
        refuse_unknown(options, rest, words)
    first = os.environ.get("RANK", "0") == "0"
    if not (first or getattr(options, "all_processes", False)):
        return  # of several processes, the first alone does what they cannot share
    if threads.sleep_beside_others() and first and not getattr(options, "quiet", False):
        print("other processes are busy: threads sleep while they wait for each other (OMP_WAIT_POLICY=PASSIVE)",
              file=sys.stderr)
    with plain_errors(), without_bars(getattr(options, "quiet", False) and "settings" not in options):
        if "checkpoint" in options:
            options.given, options.checkpoint = options.checkpoint, str(folder_of(options.checkpoint))
        options.run(options)


def parser() -> argparse.ArgumentParser:
    """The command line of all subcommands; builds it without loading torch."""
    description = "Latent text diffusion: train, sample, steer, measure."
    lines = argparse.RawDescriptionHelpFormatter
    top = Parser(prog="latdiff", description=description, epilog=EXIT, formatter_class=lines)
    top.add_argument("--version", action="version", version=f"latdiff {latdiff.__version__}")
    top.add_argument("--print-completion", action=PrintCompletion, choices=SHELLS,
                     help="print a script that completes commands and flags in a shell (needs shtab)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_training, add_sample, add_edit, add_fit_head, add_evaluate, add_plot, add_demo, add_list,
                add_check_config, add_fetch, add_publish, add_check_checkpoint):
        add(commands)
    for name, command in commands.choices.items():
        command.set_defaults(parser=command)
        command.formatter_class = lines
        command.description = textwrap.fill(command.description or "", WIDTH)
        command.epilog = "\n\n".join(part for part in (command.epilog, examples_of(name)) if part)
    return top
