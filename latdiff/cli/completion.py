"""`latdiff --print-completion`: what bash, zsh or tcsh completes behind `latdiff`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from latdiff.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")
PLACES = {"checkpoint": "DIRECTORY", "recipe": "FILE", "data": "FILE", "json": "FILE", "output": "FILE"}


class PrintCompletion(argparse.Action):
    """Print a script for a shell, and exit; it is written once, so that completing starts no Python."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            import shtab
        except ImportError:
            raise UserError("--print-completion needs shtab, which is not installed: pip install shtab") from None
        for action in _actions(parser):  # flags without a value name no place
            if action.dest in PLACES and action.nargs != 0:
                vars(action)["complete"] = getattr(shtab, PLACES[action.dest])
        print(shtab.complete(parser, shell=values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
