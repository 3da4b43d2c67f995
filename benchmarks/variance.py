"""Measure what the variance of DDPM's steps does to a storyworld checkpoint, and write every figure as JSON.

    python benchmarks/variance.py checkpoints/storyworld --json variance.json

diffusers' `fixed_small` is the posterior variance for data that is known, `fixed_large` that for standard Gaussian data
(Ho et al. 2020, section 3.2); LD4LG samples between them, at a share of the logarithm. A row for each, means and
standard deviations over seeds; what stories themselves score is the floor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from latdiff.config import load_recipe
from latdiff.data.corpus import load_corpus
from latdiff.errors import plain_errors
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.report import machine, row_line, write_json
from latdiff.evaluation.scoring import Scorer
from latdiff.pipelines.files import load_for_commands

BETWEEN = (0.2, 0.5)  # shares of the way from small to large; 0.2 is LD4LG's


class Interpolated(DDPMScheduler):
    """DDPM whose log-variance lies a share of the way from fixed_small to fixed_large."""

    share = 0.5

    def _get_variance(self, t, predicted_variance=None, variance_type=None):
        small, large = (super(Interpolated, self)._get_variance(t, variance_type=f"fixed_{size}")
                        for size in ("small", "large"))
        return (self.share * large.log() + (1 - self.share) * small.log()).exp()


def scheduler_of(own, variance: str | float):
    """A DDPM scheduler with the noise schedule of `own`."""
    config = {key: value for key, value in own.config.items() if not key.startswith("_")}
    if isinstance(variance, str):
        return DDPMScheduler.from_config(config, variance_type=variance)
    made = Interpolated.from_config(config, variance_type="fixed_small")
    made.share = variance
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5, help="of the noise, from 0 (default 5)")
    options = parser.parse_args()
    pipe = load_for_commands(options.checkpoint, quiet=True)
    recipe = load_recipe(str(options.checkpoint / "recipe.yaml"), saved=True)
    scorer, own = Scorer(recipe, load_corpus(recipe.data, recipe.seed)), pipe.scheduler
    document = {"checkpoint": options.checkpoint.name, "machine": machine(pipe.config.dtype), "seeds": options.seeds,
                "steps": pipe.config.num_inference_steps, "rows": []}
    began = time.monotonic()
    for variance in ("fixed_small", *BETWEEN, "fixed_large"):
        pipe.scheduler = scheduler_of(own, variance)
        rows = []
        for seed in range(options.seeds):
            texts = pipe(num_samples=options.num_samples, generator=torch.Generator().manual_seed(seed)).texts
            found = scorer.unsteered(texts)
            tv = found["slot_tv"]["mean"] / found["slot_tv"]["floor"]
            rows.append({"n": len(texts), "validity": found["validity"], "slot_tv_floors": tv,
                         "independence": found["independence"], "distinct": found["distinct"],
                         "samples": texts[:5]})
        document["rows"].append({"variance": variance} | averaged(rows))
        document["minutes"] = round((time.monotonic() - began) / 60, 2)
        write_json(options.json, document)
        print(row_line(document["rows"][-1]), flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
