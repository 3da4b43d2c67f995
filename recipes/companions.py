"""Labelled texts to try a head on: 300 stories, each by the generation of the companion in it.

    python -m latdiff.recipes.companions mine.csv

writes examples/companions.csv, which comes with latdiff, once more: columns text and label, elder or peer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from latdiff import storyworld
from latdiff.errors import plain_errors

ELDERS = ("mother", "father", "aunt", "uncle", "grandmother", "grandfather")
COUNT, SEED = 300, 300


def write(path: Path) -> None:
    """Write the CSV.

    Args:
        path: of the file, which is replaced where there is one.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["text", "label"])
        for story in storyworld.sample(COUNT, SEED):
            rows.writerow([story.text, "elder" if story.slots["companion"] in ELDERS else "peer"])


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="the file to write, e.g. mine.csv")
    with plain_errors():
        write(parser.parse_args().path)


if __name__ == "__main__":
    main()
