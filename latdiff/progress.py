"""What does a training show of itself while it runs: a bar, a file of losses, a log of Weights & Biases?"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from latdiff.config import Recipe
from latdiff.errors import UserError, first_line
from latdiff.processes import is_main
from latdiff.storage import plain_refusal, write_text

CURVES = "metrics.jsonl"  # in a checkpoint's folder
SHOWN = ["step", "what", "text"]  # columns of the table of texts in a log
_BEGUN: list[Accelerator] = []  # whose logs are open


def begin_wandb(accelerate: Accelerator, recipe: Recipe, stage: str, quiet: bool = False) -> None:
    """Begin a Weights & Biases run, offline where there is no key; raises UserError with what wandb says.

    It is open, also for what is logged after the last step, until another one begins or `logs_ended` ends it. wandb
    itself prints nothing where it is to be quiet, and no colours where NO_COLOR is set.
    """
    end_logs()
    try:
        import click
        import wandb

        if os.environ.get("NO_COLOR"):
            click.globals.push_context(click.Context(click.Command("wandb"), color=False))
        settings: dict[str, Any] = {"name": f"{recipe.name} {stage}", "settings": wandb.Settings(silent=quiet)}
        if not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False):
            settings["mode"] = "offline"
            if not quiet:
                print("wandb has no API key: the run is logged to ./wandb; `wandb login` and `wandb sync` upload it")
        accelerate.init_trackers(recipe.wandb_project, config=recipe.as_dict(), init_kwargs={"wandb": settings})
        _BEGUN.append(accelerate)
    except Exception as error:  # wandb raises kinds of its own, and those of its client
        raise UserError(
            f"wandb_project is {recipe.wandb_project!r}, but Weights & Biases could not begin a run "
            f"({first_line(error)}); set wandb_project= to train without it"
        ) from error


def end_logs() -> None:
    """End the Weights & Biases runs that are open."""
    while _BEGUN:
        for tracker in _BEGUN.pop().trackers:
            tracker.finish()


@contextlib.contextmanager
def logs_ended() -> Iterator[None]:
    """At the end of the block, however it ends, the logs that were begun in it are ended."""
    try:
        yield
    finally:
        end_logs()


class Shown:
    """Texts that a training shows under way: a line each beside the bar, and all so far as a table in the run's log.

    Args:
        accelerate: Whose trackers keep the log.
        quiet: Nothing beside the bar.
    """

    def __init__(self, accelerate: Accelerator, quiet: bool):
        self.accelerate, self.quiet = accelerate, quiet
        self.rows: list[list[Any]] = []

    @property
    def wanted(self) -> bool:
        """Whether anybody would see them."""
        return not self.quiet or bool(self.accelerate.trackers)

    def add(self, step: int, texts: Sequence[tuple[str, str]], bar: tqdm) -> None:
        """Show what texts are, in a word, and the texts, after a step that is counted from 0."""
        width = max((len(what) for what, _ in texts), default=0)
        for what, text in texts if not self.quiet else ():
            bar.write(f"  {what:{width}}  {text}")
        self.rows += [[step + 1, what, text] for what, text in texts]
        for tracker in self.accelerate.trackers:
            tracker.log_table("samples", columns=SHOWN, data=list(self.rows), step=step + 1)


class Curve:
    """The losses of one stage: a line for every twentieth step, and for the last, in the metrics.jsonl of a folder.

    A line is `{"stage": "denoiser", "step": 21, "loss": 0.81, "learning_rate": 0.001, "gradient_norm": 0.4}`; steps are
    counted from 1. A run that goes on drops the lines of steps that it takes again, so that the file is that of a run
    that was never stopped. Of several processes the main one alone writes.

    Args:
        folder: The checkpoint's.
        stage: What is trained, in one word.
    """

    def __init__(self, folder: Path, stage: str):
        self.path, self.stage = folder / CURVES, stage

    def begin(self, start: int) -> None:
        """Drop this stage's lines from step `start` on; raises StorageError for a file that cannot be written."""
        if is_main():
            kept = [line for line in read_curves(self.path) if line["stage"] != self.stage or line["step"] <= start]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, **figures: float) -> None:
        """Append the figures of a step, counted from 1."""
        if is_main():
            line = {"stage": self.stage, "step": step} | figures
            with plain_refusal(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none where there is no file; a line that a kill has cut off is left out."""
    return list(_lines(path)) if path.is_file() else []


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("stage"), str) and isinstance(line.get("step"), int):
                yield line


def report(step: int, loss: Tensor, bar: tqdm, accelerate: Accelerator, curve: Curve,
           **figures: Tensor | float) -> None:
    """Every twentieth step and after the last: the loss on the bar, all figures in the curve and the run's log."""
    if step % 20 == 0 or step + 1 == bar.total:
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        found = {name: float(value) for name, value in {"loss": loss.detach(), **figures}.items()}
        curve.add(step + 1, **found)
        accelerate.log(found, step=step + 1)


def progress_bar(start: int, steps: int, title: str, quiet: bool) -> tqdm:
    """A bar with loss, speed and time left; a line a minute when the output is no terminal."""
    every = {"mininterval": 2} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    return tqdm(range(start, steps), initial=start, total=steps, desc=title, disable=quiet, dynamic_ncols=True,
                unit="step", **every)
