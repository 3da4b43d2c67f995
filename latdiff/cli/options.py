"""Options that several commands have."""

from __future__ import annotations

import argparse

from latdiff.config import DECODING
from latdiff.config.writing import PRESETS
from latdiff.errors import UserError, shown, whole_word

CHECKPOINT = "storyworld or english, which come with latdiff, a folder such as checkpoints/mine, or a hub id"


def command_of(commands, name: str, run, help: str, subject: str = CHECKPOINT) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.add_argument("checkpoint", help=subject)
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=run)
    return command


def keep_option(command) -> None:
    command.add_argument("--keep", type=float, metavar="SHARE",
                         help="sample more texts and keep this share, those whose latents lie nearest to the encoded "
                         "text: many of the others are broken (default 1: all)")


def decode_option(command) -> None:
    command.add_argument("--decode", help=f"decoding preset: {' or '.join(DECODING)} (beam search without repeated "
                         f"trigrams) of T5, {', '.join(PRESETS)} of a language model (default: the checkpoint's)")


def seed_option(command) -> None:
    command.add_argument("--seed", type=_seed, default=0, help="of the noise; the same one gives the same texts "
                         "(default 0)")


def _seed(text: str) -> int:
    seed = whole_word(text, 2**63 - 1)
    if seed is None:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a whole number from 0 to 2**63 - 1")
    return seed


def check_limit(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit is {options.limit}, must be 1 or more")
