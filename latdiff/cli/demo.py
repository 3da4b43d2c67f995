"""`latdiff demo`: the demo page, on this machine alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from latdiff.errors import UserError
from latdiff.processes import refuse_several


def add_demo(commands) -> None:
    description = "Serve a page on this machine alone (127.0.0.1) to sample, steer, edit and fit heads in a browser."
    command = commands.add_parser("demo", help="a page in the browser to sample, steer, edit and fit heads",
                                  description=description)
    command.add_argument("checkpoint", nargs="?", default="storyworld",
                         help="the first on the page: a folder, a hub id, or the name of one that comes with latdiff "
                         "(default storyworld)")
    command.add_argument("--port", type=int, help="to listen at (default: the first free one from 7860)")
    command.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> None:
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}, must be from 1 to 65535")
    refuse_several("`latdiff demo` works in one process; leave the launcher out")
    from latdiff.demo.serving import serve

    serve(options.given, Path(options.checkpoint), options.port)
