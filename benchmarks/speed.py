"""Measure the speed of sampling from a checkpoint on this machine, and write every figure as JSON.

    python benchmarks/speed.py checkpoints/storyworld --json speed.json --batch-sizes 1 64 1024

A row for every batch size, without guides and steered by each head of labels to its first one: texts per second,
seconds per batch, and seconds of decoding; medians over repetitions after a warm-up. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from latdiff.diffusion.guidance import Guide
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.heads.files import label_heads
from latdiff.pipelines.files import load_for_commands
from latdiff.pipelines.latent import LatentTextDiffusionPipeline


def timed(pipe: LatentTextDiffusionPipeline, size: int, guides: list[Guide], repetitions: int) -> dict:
    """Median seconds of one batch: all of it, and the part after the last denoising step."""
    whole, decoding = [], []
    for seed in range(repetitions + 1):
        at = _Clock(pipe.device.type)
        began = at.now()
        pipe(num_samples=size, batch_size=size, guides=guides, callback_on_step_end=at.step,
             generator=torch.Generator().manual_seed(seed))
        ended = at.now()
        whole.append(ended - began)
        decoding.append(ended - at.last)
    seconds, of_decoding = statistics.median(whole[1:]), statistics.median(decoding[1:])
    return {"texts_per_second": size / seconds, "seconds": seconds, "decoding_seconds": of_decoding}


class _Clock:
    """Seconds, read once the device has finished its work; `last` is when the last step ended."""

    def __init__(self, device: str):
        self.device, self.last = device, 0.0

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def step(self, pipe, step: int, timestep, kept: dict) -> dict:
        if step == len(pipe.scheduler.timesteps) - 1:
            self.last = self.now()
        return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    for flag, least in (("--batch-sizes", min(options.batch_sizes)), ("--repetitions", options.repetitions)):
        if least < 1:
            raise UserError(f"{flag} has {least}, must be 1 or more")
    pipe = load_for_commands(options.checkpoint, quiet=True)
    steered = [(head.name, [head.toward(head.classes_[0])]) for head in label_heads(options.checkpoint)]
    document = {"checkpoint": options.checkpoint.name, "machine": machine(pipe.config.dtype),
                "steps": pipe.config.num_inference_steps,
                "scheduler": type(pipe.scheduler).__name__, "decoding": pipe.decoding,
                "repetitions": options.repetitions, "rows": []}
    for size in options.batch_sizes:
        for name, guides in [("nothing", []), *steered]:
            row = {"batch_size": size, "steered_by": name} | timed(pipe, size, guides, options.repetitions)
            document["rows"].append(row)
            write_json(options.json, document)
            print(row_line(row), flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
