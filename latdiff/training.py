"""What the training loops share: a run's steps, its share of each batch, its state, and how it stops."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from latdiff.bars import without_bars
from latdiff.batches import BatchOrder, step_generator
from latdiff.collectives import spread, sum_gradients, sum_over_processes
from latdiff.config import Recipe
from latdiff.config.sections import SECTIONS
from latdiff.draws import Draws, SharedDropout
from latdiff.errors import UserError
from latdiff.optimising import optimizers, set_learning_rate
from latdiff.precision import compute_dtype, default_device, has_fast_bfloat16
from latdiff.processes import (
    ProcessError,
    agreed,
    by_main,
    is_main,
    own_part,
    peers,
    processes,
    silent_but_main,
    wait_for_everyone,
)
from latdiff.progress import Curve, Shown, begin_wandb, logs_ended, progress_bar, report
from latdiff.resuming import digest_of, load_state, save_state
from latdiff.stopping import STOPPING, Stopped
from latdiff.storage import sole_writer, write_text

WARMUP_STEPS, SAVE_EVERY = 100, 500  # of stages without settings for them
Rows = TypeVar("Rows", list, Tensor)


class TrainingError(UserError):
    """A training that cannot go on, in one sentence."""


def training(folder_of: Callable[[Recipe], Path]) -> Callable:
    """Decorate the main(recipe, quiet) of a stage that trains into the folder of a recipe.

    One command at a time writes into it; Ctrl-C and SIGTERM save the state and end the process without a traceback.
    Where a launcher has begun several processes, all of them run main, the main one alone prints, and none leaves
    before all have come to the end.

    Args:
        folder_of: the folder that main writes into, of a recipe.

    Returns:
        The decorator. What it decorates raises StorageError where another command trains into the folder, ProcessError
        where another process of this one has ended, and Stopped when it is asked to stop.
    """

    def decorate(main: Callable) -> Callable:
        @functools.wraps(main)
        def guarded(recipe: Recipe, quiet: bool = False):
            quiet = quiet or not is_main()
            writing = sole_writer(folder_of(recipe)) if is_main() else contextlib.nullcontext()
            with logs_ended(), silent_but_main(), STOPPING.heeded(), writing, without_bars(quiet):
                wait_for_everyone()
                main(recipe, quiet)
                wait_for_everyone()

        return guarded

    return decorate


class Run:
    """One training, whose loop stays with the recipe:

        run = Run(recipe, "denoiser", folder / "train" / "denoiser.safetensors", recipe.train_denoiser)
        model = run.prepare(model, texts)
        for step, rows in run.steps(BatchOrder(...)):
            with run.autocast():
                loss = objective(latents[run.own(rows)], run.draws())
            run.update(run.share(loss))

    It owns the learning rate, clipping, the log, progress and the resume state, from which `steps` goes on.

    Several processes share every batch: each makes the whole of it, takes its `own` rows, with the random numbers that
    they have in one process (`draws`), and weighs its loss by its `share`; `update` sums gradients. So losses and
    weights are those of one process, within rounding.

    Args:
        recipe: Names the run, its dtype and its Weights & Biases project.
        stage: What is trained, in one word.
        state: File of the resume state, in the folder train of a checkpoint, whose metrics.jsonl gets the losses.
        settings: The stage's section: steps, learning_rate, and where it has them warmup_steps and save_every.
        quiet: No progress bar.
    """

    def __init__(self, recipe: Recipe, stage: str, state: Path, settings: Any, quiet: bool = False):
        self.stage, self.state, self.settings, self.quiet = stage, state, settings, quiet
        self.section = next((name for name in SECTIONS if getattr(recipe, name) is settings), stage)
        dtype = compute_dtype(recipe.dtype, default_device())
        self.dtype = str(dtype).removeprefix("torch.")
        AcceleratorState._reset_state()  # one process may train in one dtype after another, as a sweep does
        self.accelerate = Accelerator(
            mixed_precision="bf16" if self.dtype == "bfloat16" else "no",
            log_with="wandb" if recipe.wandb_project else None,
        )
        if recipe.wandb_project:
            by_main(begin_wandb)(self.accelerate, recipe, stage, quiet)
        self.device, self.seed = self.accelerate.device, recipe.seed
        self.start, self.minutes = 0, 0.0
        self.curve = Curve(state.parent.parent, stage)
        self.shown = Shown(self.accelerate, quiet)

    def prepare(self, objective: nn.Module, texts: Iterable[str], trained: nn.Module | None = None,
                weight_decay: float = 0.01, ema: EMAModel | None = None, muon: bool = True) -> nn.Module:
        """Make optimisers and put a resume state back.

        Args:
            objective: What computes the loss; moved to the device.
            texts: All that is trained on, in its order: a run that was begun on other texts does not go on.
            trained: The part of it that is trained and saved; all of it by default.
            weight_decay: Of the matrices.
            ema: Running averages to update after each step.
            muon: Whether matrices are trained with it, or all with AdamW.

        Returns:
            The objective, ready to be called.
        """
        half = self.dtype == "bfloat16" and has_fast_bfloat16(self.device.type)
        made = optimizers(trained or objective, self.settings.learning_rate, weight_decay, muon, half)
        # for evaluation, says accelerate of a model that is not wrapped: gradients are summed by `update`
        objective = self.accelerate.prepare_model(objective, evaluation_mode=True)
        self.optimizers = [self.accelerate.prepare_optimizer(one) for one in made]
        self.trained, self.ema, self.texts = trained or objective, ema, digest_of(texts)
        self.parameters = [one for one in self.trained.parameters() if one.requires_grad]
        spread(self.parameters)
        if ema is not None:
            ema.to(self.device)
        self.start, self.minutes = load_state(self.state, {"model": self.trained}, self.optimizers, ema, self.texts,
                                              self.dtype)
        self._check_alike()
        return objective

    def _check_alike(self) -> None:
        """Raise ProcessError where this process does not see, or was not given, what the main one was."""
        own = {f"the step in {self.state}": self.start, "the digest of the training texts": self.texts,
               "the seed": self.seed, "the dtype": self.dtype, self.section: repr(self.settings)}
        others = agreed(own)
        wrong = [f"{name} is {own[name]} here, {value} there" for name, value in others.items() if own[name] != value]
        if wrong:
            raise ProcessError(f"process {processes().process_index} differs from the main one: {'; '.join(wrong)}. "
                               "Give all the same command, with texts and folder on storage that all machines share")
        wait_for_everyone()  # the main one may come to its end, and delete the state, before others have read it

    def steps(self, order: BatchOrder) -> Iterator[tuple[int, list[int]]]:
        """Steps and their batches' rows, from where the run was left to the end.

        The resume state is saved under way, at the end, and when the process is asked to stop, which then ends.
        """
        self.began, steps = time.monotonic() - 60 * self.minutes, self.settings.steps
        warmup = getattr(self.settings, "warmup_steps", WARMUP_STEPS)
        self.curve.begin(self.start)
        self.bar = progress_bar(self.start, steps, self.stage, self.quiet)
        STOPPING.in_loop = True
        for step in self.bar:
            self.step, self.rows = step, order[step]
            self._check_share()
            set_learning_rate(self.optimizers, self.settings.learning_rate, step, steps, warmup)
            yield step, self.rows
            stop = self._asked_to_stop()
            if self.due(getattr(self.settings, "save_every", SAVE_EVERY)) or stop or step + 1 == steps:
                self.save(step + 1)
            if stop:
                wait_for_everyone()  # a launcher ends the others, the one that saves too, once one has left
                self.bar.close()
                raise Stopped(stop, f" after step {step + 1:,} of {steps:,}, which is saved")
        self._end_loop()

    def _end_loop(self) -> None:
        """Make all processes' weights those of the main one; raise Stopped where the last save had to be waited for."""
        STOPPING.in_loop = False
        stop = STOPPING.received
        if processes().num_processes > 1:
            (asked,) = sum_over_processes(stop)
            stop = int(asked and (stop or signal.SIGTERM))
            spread([*self.parameters, *(self.ema.shadow_params if self.ema is not None else [])])
        if stop:
            raise Stopped(stop, " after the last step, which is saved")

    def _check_share(self) -> None:
        """Raise ProcessError for a batch of fewer rows than there are processes."""
        if len(self.rows) < processes().num_processes:
            raise ProcessError(f"a batch of {self.section} has {len(self.rows)} rows for {processes().num_processes} "
                               f"processes; raise {self.section}.batch_size, or begin fewer processes")

    def _asked_to_stop(self) -> int:
        """The signal that asks for it, 0 where there is none; several processes have told each other in `update`."""
        return STOPPING.received if processes().num_processes == 1 else self.heard

    def own(self, rows: Rows) -> Rows:
        """This process's of a whole batch's rows, a list or a tensor [B, ...]."""
        return rows[own_part(len(rows))]

    def draws(self) -> Draws:
        """The step's random numbers, for this process's rows."""
        count = len(self.rows)
        return Draws(step_generator(self.seed, self.step), count, own_part(count))

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Within the block, models compute in the run's dtype, and dropout is of the whole batch."""
        with self._saved_when_alone(), self.accelerate.autocast(), self._dropout():
            yield

    def _dropout(self) -> contextlib.AbstractContextManager:
        """Of several processes, the masks of the whole batch; on GPUs, where those would take long, masks of one's own.

        torch's generators have been given the same seed in all of them.
        """
        count, index = len(getattr(self, "rows", ())), processes().process_index
        if processes().num_processes == 1:
            return contextlib.nullcontext()
        if self.device.type == "cpu":
            return SharedDropout(count, own_part(count))
        torch.get_device_module(self.device).manual_seed(torch.initial_seed() + index)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _saved_when_alone(self) -> Iterator[None]:
        """Save the steps before this one where another process has ended meanwhile, which raises ProcessError."""
        try:
            with peers():
                yield
        except ProcessError as error:
            self.save(self.step)
            saved = f"; the {self.step:,} steps before are saved" if is_main() else ""
            raise ProcessError(f"{error}{saved}") from None

    def share(self, loss: Tensor, counts: Sequence[int] | Tensor | None = None) -> Tensor:
        """What this process's mean counts for in the whole batch's, whose value is the sum over processes.

        Args:
            loss: the mean over this process's rows, or over what they have.
            counts: what each of the B rows of the whole batch has, such as tokens; one by default.
        """
        if processes().num_processes == 1:
            return loss
        of_rows = torch.ones(len(self.rows)) if counts is None else torch.as_tensor(counts)
        return loss * (self.own(of_rows).sum() / of_rows.sum()).item()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the whole batch of what `value`, a scalar without a gradient, is over this process's rows."""
        if processes().num_processes > 1:
            (found,) = sum_over_processes(self.share(value))
            value = value.new_tensor(found)
        return value

    @by_main
    def save(self, step: int) -> None:
        """Write the resume state, to go on from a step."""
        self.minutes = (time.monotonic() - self.began) / 60
        save_state(self.state, step, {"model": self.trained}, self.optimizers, self.ema, self.minutes, self.texts,
                   self.dtype)

    def update(self, loss: Tensor) -> None:
        """One optimiser step down the loss, its gradient clipped to norm 1.

        Args:
            loss: a scalar; of several processes each one's `share`.

        Raises:
            TrainingError: For a loss or a gradient that is not finite, before any weight is changed by it.
            ProcessError: When another process has ended; the steps before are saved.
        """
        with self._saved_when_alone():
            self.accelerate.backward(loss)
            if processes().num_processes > 1:
                loss = self._sum_up(loss)
        norm = self.accelerate.clip_grad_norm_(self.trained.parameters(), 1.0)
        if not torch.isfinite(loss.detach() + norm):
            self._refuse_step(loss.item(), float(norm))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.trained.parameters())
        report(self.step, loss, self.bar, self.accelerate, self.curve, gradient_norm=norm,
               learning_rate=self.optimizers[0].param_groups[0]["lr"])

    def _sum_up(self, loss: Tensor) -> Tensor:
        """Sum gradients and losses of all processes, hear whether one was asked to stop; returns the loss."""
        total, asked = sum_gradients(self.parameters, loss.detach(), STOPPING.received)
        self.heard = int(asked and (STOPPING.received or signal.SIGTERM))
        return loss.new_tensor(total)

    def _refuse_step(self, loss: float, norm: float) -> None:
        """Raise TrainingError for this step, and leave beside the resume state which rows it was of."""
        found = self.state.with_suffix(".failed.json")
        failed = {"step": self.step, "loss": str(loss), "gradient_norm": str(norm), "rows": self.rows}
        by_main(write_text)(found, json.dumps(failed, indent=2) + "\n")
        raise TrainingError(
            f"{self.stage}: at step {self.step + 1:,} the loss is {loss:g} and its gradient's norm {norm:g}; no weight "
            f"was changed by it. {self.section}.learning_rate is {self.settings.learning_rate:g}: set a lower one, and "
            "name= to train afresh. The same command comes to this step again from the last state that was saved; "
            f"which rows it trains on is in {found}"
        )

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return (self.step + 1) % every == 0

    def shows(self, every: int) -> bool:
        """Whether texts are to be shown after this step: every so many, where they are printed or logged."""
        return self.due(every) and self.shown.wanted

    def show(self, texts: Sequence[tuple[str, str]]) -> None:
        """Print texts and log them as a table.

        Args:
            texts: what each is, in a word, and the text, such as ("sample", "One windy Tuesday, ...").
        """
        self.shown.add(self.step, texts, self.bar)

    @property
    def logs(self) -> bool:
        """Whether this process keeps a log that takes pictures."""
        return bool(self.accelerate.trackers)

    def log_picture(self, name: str, path: Path) -> None:
        """Add a picture to the run's log."""
        for tracker in self.accelerate.trackers:
            tracker.log_images({name: [str(path)]}, step=self.step + 1)

    def finish(self) -> nn.Module:
        """The trained module, out of accelerate's wrapper and with the averaged weights if there are any."""
        model = self.accelerate.unwrap_model(self.trained).eval()
        if self.ema is not None:
            self.ema.copy_to(model.parameters())
        return model
