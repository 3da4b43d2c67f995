"""Measure how fast a denoiser trains beside other busy processes, by how OpenMP's threads wait for each other.

    python benchmarks/beside.py --json docs/lab/results/beside.json

Every figure is of a process of its own with as many threads as processors, which trains a denoiser of storyworld's size
on random latents, in float32. Beside it run none, one or two busy processes: Python loops, or multiplications of
matrices in torch with as many threads. To be run on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from latdiff import threads

POLICIES: dict[str, dict[str, str]] = {
    "torch's own": {}, "asleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "one thread": {"OMP_NUM_THREADS": "1"},
}
LOOP = "while True: pass"
TORCH = "import torch\nx = torch.randn(600, 600)\nwhile True: x @ x"
BESIDE = {"nothing": [], "one loop": [LOOP], "two loops": [LOOP] * 2, "one of torch": [TORCH],
          "two of torch": [TORCH] * 2}
WARM, MEASURED = 3, 15.0  # steps before the clock runs, and seconds that it runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="of every figure, whose median is taken (default 3)")
    options = parser.parse_args()
    from latdiff.evaluation.report import check_writable, machine, write_json

    check_writable(options.json)
    rows = []
    for beside, commands in BESIDE.items():
        for policy in (*POLICIES, "latdiff's choice"):
            with busy(commands):
                found = [steps_a_second(policy) for _ in range(options.repeats)]
            rows.append({"beside": beside, "threads": policy, "steps_a_second": statistics.median(found)})
            print(f"{beside:14} {policy:18} {rows[-1]['steps_a_second']:.2f} steps a second", flush=True)
            write_json(options.json, {"rows": rows, "repeats": options.repeats, "machine": machine("float32")})


@contextlib.contextmanager
def busy(commands: list[str]) -> Iterator[None]:
    """Other processes at work."""
    others = [subprocess.Popen([sys.executable, "-c", command]) for command in commands]
    time.sleep(4 if others else 0)  # until torch is loaded there
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def steps_a_second(policy: str) -> float:
    """Of a process that trains, under a policy."""
    clean = {key: value for key, value in os.environ.items() if key not in (*threads.CHOICES, "OMP_NUM_THREADS")}
    told = ["--choose"] if policy not in POLICIES else []
    command = [sys.executable, "-c", "from benchmarks.beside import train; train()", *told]
    said = subprocess.run(command, env=clean | POLICIES.get(policy, {}), capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1]).stdout
    return float(said)


def train() -> None:
    """Print steps a second; with --choose, threads wait as `latdiff` lets them."""
    if "--choose" in sys.argv:
        threads.sleep_beside_others()
    import torch
    from diffusers import DDPMScheduler

    from latdiff.batches import step_generator
    from latdiff.config import load_recipe
    from latdiff.diffusion.gaussian import GaussianDiffusion
    from latdiff.models.denoiser import LatentDenoiser
    from latdiff.optimising import optimizers
    from latdiff.schedule import betas

    recipe = load_recipe("storyworld")
    shape = recipe.autoencoder.num_latents, recipe.autoencoder.latent_dim
    sizes = recipe.denoiser
    denoiser = LatentDenoiser(*shape, width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    schedule = DDPMScheduler(trained_betas=betas(recipe.diffusion.schedule))
    diffusion = GaussianDiffusion(denoiser, schedule.alphas_cumprod)
    steps, began = optimizers(denoiser, 1e-3), 0.0
    latents = torch.randn(recipe.train_denoiser.batch_size, *shape)
    step = 0
    while step <= WARM or time.monotonic() - began < MEASURED:
        if step == WARM:
            began = time.monotonic()
        diffusion.loss(latents, step_generator(0, step)).backward()
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
    print((step - WARM) / (time.monotonic() - began))


if __name__ == "__main__":
    main()
