"""Measure what README shows beside the figures of evaluations: commands, texts side by side, a text that emerges.

    python benchmarks/front_page.py --json docs/lab/results/front-page.json

Every command runs in a process of its own, as a reader would give it, and its seconds count from its start to its end.
The two pretrained models of `latdiff fetch` have to be here. `python benchmarks/readme.py` puts what is measured into
README, `python benchmarks/pictures.py` draws the text that emerges.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from latdiff import load_head, open_checkpoint
from latdiff.evaluation.report import check_writable, machine, write_json

COMMANDS = (
    "latdiff sample storyworld --guide sentiment=positive --num-samples 1 --seed 0",
    "latdiff fit-head storyworld --data storyworld --label-column sentiment --name tone --output heads/tone",
    "latdiff sample storyworld --guide heads/tone=negative --num-samples 1 --seed 0",
)
ENGLISH = ("latdiff sample english --guide kind=review --guide sentiment=positive --num-samples 6 --seed 0 --compare "
           "--json --quiet")
SHOWN_STEPS = (1, 3, 5, 7, 10, 13, 25)


def printed(command: list[str]) -> tuple[str, float]:
    """What a command prints, and the seconds that it takes; raises SystemExit with its error where it fails."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ends with {done.returncode}: {done.stderr}")
    return done.stdout, round(time.monotonic() - began, 1)


def emerging(name: str, head: str, label: str, seed: int) -> list[dict]:
    """What the noisy latents of one steered sample decode to after some steps, with the head's probability."""
    pipe, judge, rows = open_checkpoint(name), load_head(f"{name}/heads/{head}"), []
    pipe.set_progress_bar_config(disable=True)
    place = list(judge.classes_).index(label)

    def keep(pipe, step: int, timestep, tensors: dict) -> None:
        if step + 1 in SHOWN_STEPS:
            z = tensors["latents"]
            rows.append({"step": step + 1, "text": pipe.codec.decode(z)[0],
                         "probability": round(float(judge.predict_proba(z)[0][place]), 4)})

    pipe(num_samples=1, guides=judge.toward(label), num_inference_steps=SHOWN_STEPS[-1],
         generator=torch.Generator().manual_seed(seed), callback_on_step_end=keep)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the text that emerges (default 0)")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.json = options.json.absolute()
    check_writable(options.json)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the second writes a head here
        for command in COMMANDS:
            output, seconds = printed(shlex.split(command))
            rows.append({"command": command, "output": output, "seconds": seconds})
        english, seconds = printed(shlex.split(ENGLISH))
    write_json(options.json, {
        "machine": machine(), "date": datetime.date.today().isoformat(), "commands": rows,
        "english": {"command": ENGLISH, "output": english, "seconds": seconds},
        "strip": {"head": "sentiment", "label": "positive", "seed": options.seed,
                  "rows": emerging("storyworld", "sentiment", "positive", options.seed)},
    })


if __name__ == "__main__":
    main()
