"""Measure the peak memory of a training on a training set and on one ten times larger.

    python benchmarks/memory.py --json docs/lab/results/memory.json

Texts of storyworld's grammar, in a file as texts of one's own are, with the recipe storyworld's settings and few steps;
every training is a process of its own. `peak_mb` is the most memory that it had resident, `anonymous_mb` the most
without what is mapped from files, which the system can take back. `baseline_mb` is a process that imports all that a
training imports. Linux alone counts these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from latdiff import storyworld
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.report import check_writable, machine, row_line, write_json

STAGES = ("train-ae", "train-diffusion")
IMPORTS = "import latdiff.recipes.train_autoencoder, latdiff.recipes.train_denoiser"
AT_ONCE, VALID = 1000, 100  # stories that are sampled at once; unseen texts
EVERY = 0.02  # seconds between two looks at a process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=20_000, help="of the smaller training set (default 20,000)")
    parser.add_argument("--times", type=int, default=10, help="how much larger the other one is (default 10)")
    parser.add_argument("--settings", nargs="*", default=[], help="of the recipe, such as train_denoiser.steps=5")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise UserError("memory is read from /proc, which this system does not have; measure it on Linux")
    check_writable(options.json)
    baseline = watched([sys.executable, "-c", IMPORTS])
    document: dict = {"machine": machine(), "texts": [options.texts, options.times * options.texts],
                      "baseline_mb": baseline["peak_mb"], "rows": []}
    peaks: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for texts in document["texts"]:
        with tempfile.TemporaryDirectory() as folder:
            write_texts(Path(folder), texts)
            for stage in STAGES:
                row = {"stage": stage, "texts": texts} | watched(command_of(stage, Path(folder), options.settings))
                document["rows"].append(row)
                peaks[stage].append(row["peak_mb"])
                print(row_line(row), flush=True)
                write_json(options.json, document)
    document["ratio"] = {stage: larger / smaller for stage, (smaller, larger) in peaks.items()}
    print(row_line(document["ratio"]))
    write_json(options.json, document)


def write_texts(folder: Path, count: int) -> None:
    """Write as many stories into train.txt, and a few others into valid.txt, a story a line."""
    for name, seed, texts in (("train", 0, count), ("valid", 1, VALID)):
        with open(folder / f"{name}.txt", "w", encoding="utf-8") as file:
            for first in range(0, texts, AT_ONCE):
                stories = storyworld.sample(min(AT_ONCE, texts - first), seed + 2 * first)
                file.writelines(f"{one.text}\n" for one in stories)


def command_of(stage: str, folder: Path, settings: list[str]) -> list[str]:
    """What trains a stage of few steps on a folder's texts, below that folder."""
    few = ["train_autoencoder.steps=20", "train_denoiser.steps=20", "data.valid_size=100"]
    return [sys.executable, "-m", "latdiff", stage, "storyworld", f"data.source={folder}", "name=memory", "--output",
            str(folder), "--quiet", *few, *settings]


def watched(command: list[str]) -> dict[str, float]:
    """Run a command; the most memory that it had, in MB, and seconds. Raises UserError where it fails."""
    began, peak, anonymous = time.monotonic(), 0, 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=Path(__file__).parents[1])
        while process.poll() is None:
            held = memory_of(process.pid)
            peak, anonymous = max(peak, held.get("VmHWM", 0)), max(anonymous, held.get("RssAnon", 0))
            time.sleep(EVERY)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"{' '.join(command[1:4])} ended with status {process.returncode}: {lines[-1:]}")
    return {"peak_mb": peak / 1024, "anonymous_mb": anonymous / 1024, "seconds": time.monotonic() - began}


def memory_of(pid: int) -> dict[str, int]:
    """Kilobytes of a process's memory by their names in /proc; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(size) for name, size, _ in fields}


if __name__ == "__main__":
    with plain_errors():
        main()
