"""Measure how long it takes from a clean clone to the first steered text.

    python benchmarks/first_text.py --json docs/lab/results/first-text.json

Clones the project's last commit into an empty folder, installs it there with `make install` as README says, and samples
a steered text from the checkpoint that comes with latdiff. pip's cache is left out, so that packages are downloaded.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import tempfile
import time
from pathlib import Path

from latdiff.evaluation.report import check_writable, machine, write_json

ROOT = Path(__file__).resolve().parents[1]
STEPS = (
    ("clone", ["git", "clone", "--quiet", str(ROOT), "latdiff"], "."),
    ("install", ["make", "install"], "latdiff"),
    ("first steered text", [".venv/bin/latdiff", "sample", "storyworld", "--guide", "sentiment=positive",
                            "--num-samples", "1", "--seed", "0"], "latdiff"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    check_writable(options.json)
    seconds, text, environment = {}, "", os.environ | {"PIP_NO_CACHE_DIR": "1"}
    for inherited in ("MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(inherited, None)
    with tempfile.TemporaryDirectory() as place:
        for name, command, below in STEPS:
            began = time.monotonic()
            done = subprocess.run(command, cwd=Path(place) / below, env=environment, capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                raise SystemExit(f"{name} ends with {done.returncode}: {done.stderr[-2000:]}")
            seconds[name], text = round(time.monotonic() - began, 1), done.stdout.strip()
            print(f"{name}: {seconds[name]} s", flush=True)
    print(text)
    write_json(options.json, {"seconds": seconds | {"all": round(sum(seconds.values()), 1)}, "text": text,
                              "machine": machine(), "date": datetime.date.today().isoformat()})


if __name__ == "__main__":
    main()
