"""Measure what guidance costs: seconds of guided denoising over those of unguided denoising.

    python benchmarks/overhead.py checkpoints/storyworld --json overhead.json

A row for every head of labels, mode and number of texts, nothing decoded. On a CPU, seconds are those that the
processor spent on this process, which other processes hardly change; on a GPU, those on the clock. Guided and unguided
runs take turns, and the fastest of each counts. "outside the denoiser", of use on a CPU alone, is steadier: all seconds
over those in the denoiser's estimates, guided over unguided, the median of the runs. It says what mode x0 costs; modes
that differentiate through the denoiser spend most of theirs on that.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch

from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.diffusion.guidance import stack
from latdiff.diffusion.modes import MODES
from latdiff.diffusion.sampling import sample
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.heads.files import label_heads
from latdiff.pipelines.files import load_for_commands


@torch.no_grad()
def seconds(pipe, guides: list, n: int, seed: int) -> tuple[float, float]:
    """Of denoising n texts in the pipeline's steps: all of it, and the part in the denoiser's own estimates."""
    inside, estimate = [], GaussianDiffusion(pipe.denoiser, dtype=pipe.config.dtype).denoise
    clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, *pipe.codec.latent_shape, generator=generator).to(pipe.device)

    def timed(*arguments):
        started = clock()
        x0 = estimate(*arguments)
        inside.append(clock() - started)
        return x0

    began, denoise = clock(), stack(timed, guides)
    sample(denoise, pipe.scheduler, z, pipe.config.num_inference_steps, generator=generator).cpu()  # waits for a GPU
    return clock() - began, sum(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 256], help="texts (default 16 256)")
    parser.add_argument("--repeats", type=int, default=5, help="of each timing (default 5)")
    options = parser.parse_args()
    heads = label_heads(options.checkpoint)
    if not heads:
        raise UserError(f"{options.checkpoint} has no heads of labels; fit one with `latdiff fit-head`")
    pipe = load_for_commands(options.checkpoint, quiet=True)
    document = {"checkpoint": options.checkpoint.name, "machine": machine(pipe.config.dtype), "rows": []}
    for head, mode, n in itertools.product(heads, MODES, options.counts):
        if mode == "noisy" and not head.noise_aware:
            continue
        guides = [head.toward(head.classes_[0], mode=mode)]
        found = [(seconds(pipe, [], n, i), seconds(pipe, guides, n, i)) for i in range(options.repeats)]
        plain, guided = (min(total for total, _ in times) for times in zip(*found, strict=True))
        around = [guided[0] / guided[1] / (plain[0] / plain[1]) for plain, guided in found]
        document["rows"].append({"head": head.name, "mode": mode, "n": n, "unguided": plain, "guided": guided,
                                 "ratio": guided / plain, "outside the denoiser": statistics.median(around)})
        print(row_line(document["rows"][-1]), flush=True)
        write_json(options.json, document)


if __name__ == "__main__":
    with plain_errors():
        main()
