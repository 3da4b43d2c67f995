"""Measure how many texts stay the same when only their number or the batch size changes.

    python benchmarks/seeds.py checkpoints/storyworld --json seeds.json

Text i follows from the seed and i; what is left are roundings, which differ with the size of a matrix product.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch

from latdiff.errors import plain_errors
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.pipelines.files import load_for_commands

COUNTS, SIZES = (4, 8, 100), (1, 3, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the noise, from 0 (default 3)")
    options = parser.parse_args()
    pipe = load_for_commands(options.checkpoint, quiet=True)
    document = {"checkpoint": options.checkpoint.name, "machine": machine(pipe.config.dtype), "rows": []}
    for seed in range(options.seeds):
        texts: dict[int, list[str]] = {}
        for count, size in itertools.product(COUNTS, SIZES):
            out = pipe(num_samples=count, batch_size=size, generator=torch.Generator().manual_seed(seed))
            for place, text in enumerate(out.texts):
                texts.setdefault(place, []).append(text)
        same = sum(len(set(found)) == 1 for found in texts.values())
        document["rows"].append({"seed": seed, "texts": len(texts), "the same every time": same})
        print(row_line(document["rows"][-1]), flush=True)
        write_json(options.json, document)


if __name__ == "__main__":
    with plain_errors():
        main()
