"""What does a training show of itself while it runs: a bar, and a log of Weights & Biases?"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from latdiff.config import Recipe
from latdiff.errors import UserError, first_line


def begin_wandb(accelerate: Accelerator, recipe: Recipe, stage: str) -> None:
    """Begin a Weights & Biases run, offline where there is no key; raises UserError with what wandb says."""
    try:
        import wandb

        settings: dict[str, Any] = {"name": f"{recipe.name} {stage}"}
        if not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False):
            settings["mode"] = "offline"
            print("wandb has no API key: the run is logged to ./wandb; `wandb login` and `wandb sync` upload it")
        accelerate.init_trackers(recipe.wandb_project, config=recipe.as_dict(), init_kwargs={"wandb": settings})
    except Exception as error:  # wandb raises kinds of its own, and those of its client
        raise UserError(
            f"wandb_project is {recipe.wandb_project!r}, but Weights & Biases could not begin a run "
            f"({first_line(error)}); set wandb_project= to train without it"
        ) from error


def report(bar: tqdm, accelerate: Accelerator, step: int, loss: Tensor) -> None:
    """Every twentieth step: the loss on the bar, and in the run's log if there is one."""
    if step % 20 == 0:
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        accelerate.log({"loss": loss.item()}, step=step)


def progress_bar(start: int, steps: int, title: str, quiet: bool) -> tqdm:
    """A bar with loss, speed and time left; a line a minute when the output is no terminal."""
    every = {"mininterval": 2} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    return tqdm(range(start, steps), initial=start, total=steps, desc=title, disable=quiet, dynamic_ncols=True,
                unit="step", **every)
