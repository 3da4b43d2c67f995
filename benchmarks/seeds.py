"""Measure how many texts stay the same when only their number or the batch size changes, and what a guide costs.

    python benchmarks/seeds.py checkpoints/storyworld --json seeds.json

Text i follows from the seed and i; what is left are roundings, which differ with the size of a matrix product. And one
head of labels: seconds of the guided loop over those of the unguided one, the fastest of some runs in turn.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import stack
from latdiff.diffusion.sampling import sample
from latdiff.errors import plain_errors
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.heads.files import label_heads
from latdiff.pipelines.files import load_for_commands

COUNTS, SIZES = (4, 8, 100), (1, 3, 256)


def seconds(pipe, guides: list, n: int, seed: int) -> float:
    """Of the denoising alone, not decoded."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, *pipe.codec.latent_shape, generator=generator).to(pipe.device)
    began = time.perf_counter()
    denoise = stack(GaussianDiffusion(pipe.denoiser).denoise, guides)
    sample(denoise, pipe.scheduler, z, pipe.config.num_inference_steps, generator=generator).cpu()  # waits for a GPU
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the noise, from 0 (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="of a timing (default 5)")
    options = parser.parse_args()
    pipe = load_for_commands(options.checkpoint, quiet=True)
    document = {"checkpoint": options.checkpoint.name, "machine": machine(), "rows": []}
    for seed in range(options.seeds):
        texts: dict[int, list[str]] = {}
        for count, size in itertools.product(COUNTS, SIZES):
            out = pipe(num_samples=count, batch_size=size, generator=torch.Generator().manual_seed(seed))
            for place, text in enumerate(out.texts):
                texts.setdefault(place, []).append(text)
        same = sum(len(set(found)) == 1 for found in texts.values())
        document["rows"].append({"seed": seed, "texts": len(texts), "the same every time": same})
        print(row_line(document["rows"][-1]), flush=True)
    for head, n in itertools.product(label_heads(options.checkpoint), (16, 256)):
        guides = [head.toward(head.classes_[0])]
        found = [(seconds(pipe, [], n, i), seconds(pipe, guides, n, i)) for i in range(options.repeats)]
        plain, guided = (min(times) for times in zip(*found, strict=True))
        row = {"head": head.name, "n": n, "unguided": plain, "guided": guided, "ratio": guided / plain}
        document["rows"].append(row)
        print(row_line(row), flush=True)
        write_json(options.json, document)


if __name__ == "__main__":
    with plain_errors():
        main()
