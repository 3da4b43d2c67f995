"""Measure several processes that train one model: how far their losses lie from those of one, and how fast they are.

    python benchmarks/several.py --json docs/lab/results/several.json

Trains storyworld's autoencoder and denoiser in float32 on processors, in one process and in two, with one thread each,
and in one process with two threads. To be run on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {"one process, one thread": (1, 1), "one process, two threads": (1, 2), "two processes, one thread each": (2, 1)}
STAGES = {"autoencoder": "train_autoencoder", "denoiser": "train_denoiser"}
WARM = 5  # steps that are not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40, help="of each stage (default 40)")
    parser.add_argument("--texts", type=int, default=2000, help="to train on (default 2000)")
    options = parser.parse_args()
    from latdiff.evaluation.report import check_writable, machine, write_json

    check_writable(options.json)
    found = {way: measured(options.steps, options.texts, *sizes) for way, sizes in WAYS.items()}
    one = found["one process, one thread"]
    rows = []
    for way, stages in found.items():
        for stage, (losses, seconds) in stages.items():
            apart = max(abs(loss - other) for loss, other in zip(losses, one[stage][0], strict=True))
            rows.append({"stage": stage, "processes": way, "steps": len(losses), "steps_a_second": 1 / seconds,
                         "losses_apart": apart, "first_loss": losses[0], "last_loss": losses[-1]})
            print(f"{stage:12} {way:32} {1 / seconds:6.2f} steps a second, losses at most {apart:.1e} apart")
    write_json(options.json, {"rows": rows, "texts": options.texts, "machine": machine("float32")})


def measured(steps: int, texts: int, count: int, threads: int) -> dict[str, tuple[list[float], float]]:
    """Losses of every step, and the median seconds of one, of both stages."""
    found = {}
    settings = [f"data.train_size={texts}", "dtype=float32", "name=several",
                *(f"{section}.steps={steps}" for section in STAGES.values())]
    with tempfile.TemporaryDirectory() as folder:
        for stage, section in STAGES.items():
            log = Path(folder) / f"{stage}.jsonl"
            launch([sys.executable, str(Path(__file__).resolve()), "--member", str(log), section, *settings],
                   folder, count, threads)
            rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            times = [later["at"] - row["at"] for row, later in itertools.pairwise(rows[WARM:])]
            found[stage] = [row["loss"] for row in rows], statistics.median(times)
    return found


def launch(command: list[str], folder: str, count: int, threads: int) -> None:
    """Run a command in several processes, as torchrun does, and wait for all."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    shared = {"OMP_NUM_THREADS": threads, "PYTHONPATH": Path(__file__).parents[1]}
    if count > 1:
        shared |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    members = []
    for rank in range(count):
        own = shared | ({"RANK": rank, "LOCAL_RANK": rank} if count > 1 else {})
        env = os.environ | {key: str(value) for key, value in own.items()}
        members.append(subprocess.Popen(command, cwd=folder, env=env))
    if any([one.wait() for one in members]):
        raise SystemExit(f"a process of {' '.join(command)} failed")


def train(log: Path, section: str, settings: list[str]) -> None:
    """In a process of its own: train a stage, and log loss and time of every step."""
    import importlib

    from latdiff import training
    from latdiff.config import load_recipe
    from latdiff.processes import is_main

    def report(step, loss, *_, **figures):
        if is_main():
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"loss": loss.item(), "at": time.monotonic()}) + "\n")

    setattr(training, "report", report)  # noqa: B010
    importlib.import_module(f"latdiff.recipes.{section}").main(load_recipe("storyworld", settings), quiet=True)


if __name__ == "__main__":
    if "--member" in sys.argv:
        train(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        main()
