"""What the training loops share: the step, optimiser, learning rate, data order, resume state, progress."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.pytorch_utils import Conv1D

from latdiff.config import Recipe, load_recipe
from latdiff.errors import UserError, first_line
from latdiff.muon import Float32Muon
from latdiff.precision import compute_dtype, default_device, has_fast_bfloat16

LATENTS = Path("train/latents.safetensors")
WARMUP_STEPS, SAVE_EVERY = 100, 500  # of stages without settings for them
UNCHECKED = ("sample_every", "save_every")  # settings that change nothing in what is trained


class ResumeError(UserError):
    """A resume state that cannot be used, in one sentence."""


class Run:
    """One training, whose loop stays with the recipe:

        run = Run(recipe, "denoiser", folder / "train" / "denoiser.safetensors", recipe.train_denoiser)
        model = run.prepare(model)
        for step, rows in run.steps(BatchOrder(...)):
            with run.autocast():
                loss = ...
            run.update(loss)

    It owns the learning rate, clipping, the log, progress and the resume state, from which `steps` goes on.

    Args:
        recipe: Names the run, its dtype and its Weights & Biases project.
        stage: What is trained, in one word.
        state: File of the resume state.
        settings: The stage's section: steps, learning_rate, and where it has them warmup_steps and save_every.
        quiet: No progress bar.
    """

    def __init__(self, recipe: Recipe, stage: str, state: Path, settings: Any, quiet: bool = False):
        self.stage, self.state, self.settings, self.quiet = stage, state, settings, quiet
        dtype = compute_dtype(recipe.dtype, default_device())
        self.dtype = str(dtype).removeprefix("torch.")
        AcceleratorState._reset_state()  # one process may train in one dtype after another, as a sweep does
        self.accelerate = Accelerator(
            mixed_precision="bf16" if self.dtype == "bfloat16" else "no",
            log_with="wandb" if recipe.wandb_project else None,
        )
        if recipe.wandb_project:
            begin_wandb(self.accelerate, recipe, stage)
        self.device, self.autocast = self.accelerate.device, self.accelerate.autocast
        self.start, self.minutes = 0, 0.0

    def prepare(self, objective: nn.Module, trained: nn.Module | None = None, weight_decay: float = 0.01,
                ema: EMAModel | None = None, muon: bool = True) -> nn.Module:
        """Make optimisers and put a resume state back.

        Args:
            objective: What computes the loss; moved to the device.
            trained: The part of it that is trained and saved; all of it by default.
            weight_decay: Of the matrices.
            ema: Running averages to update after each step.
            muon: Whether matrices are trained with it, or all with AdamW.

        Returns:
            The objective, ready to be called.
        """
        self.optimizers = optimizers(trained or objective, self.settings.learning_rate, weight_decay, muon)
        objective, *self.optimizers = self.accelerate.prepare(objective, *self.optimizers)
        self.trained, self.ema = trained or objective, ema
        if ema is not None:
            ema.to(self.device)
        self.start, self.minutes = load_state(self.state, {"model": self.trained}, self.optimizers, ema)
        return objective

    def steps(self, order: BatchOrder) -> Iterator[tuple[int, list[int]]]:
        """Steps and their batches' rows, from where the run was left to the end; saves the resume state under way."""
        began, steps = time.monotonic() - 60 * self.minutes, self.settings.steps
        warmup = getattr(self.settings, "warmup_steps", WARMUP_STEPS)
        self.bar = progress_bar(self.start, steps, self.stage, self.quiet)
        for step in self.bar:
            self.step = step
            set_learning_rate(self.optimizers, self.settings.learning_rate, step, steps, warmup)
            yield step, order[step]
            if self.due(getattr(self.settings, "save_every", SAVE_EVERY)) and step + 1 < steps:
                self.minutes = (time.monotonic() - began) / 60
                save_state(self.state, step + 1, {"model": self.trained}, self.optimizers, self.ema, self.minutes)
        self.minutes = (time.monotonic() - began) / 60
        self.accelerate.end_training()

    def update(self, loss: Tensor) -> None:
        """One optimiser step down the loss, its gradient clipped to norm 1."""
        self.accelerate.backward(loss)
        self.accelerate.clip_grad_norm_(self.trained.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.trained.parameters())
        report(self.bar, self.accelerate, self.step, loss)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return (self.step + 1) % every == 0

    def finish(self) -> nn.Module:
        """The trained module, out of accelerate's wrapper and with the averaged weights if there are any."""
        model = self.accelerate.unwrap_model(self.trained).eval()
        if self.ema is not None:
            self.ema.copy_to(model.parameters())
        return model


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
        bar.set_postfix(loss=f"{loss.item():.3f}")
        accelerate.log({"loss": loss.item()}, step=step)


def optimizers(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.01, muon: bool = True
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers, also GPT-2's transposed ones; AdamW for the rest, or for all.

    The rest are embeddings, queries, norms, biases. Muon: Jordan et al. 2024; its rates are matched to AdamW's.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = {
        id(m.weight): m.weight
        for m in model.modules()
        if isinstance(m, (nn.Linear, Conv1D)) and m.weight.requires_grad and id(m.weight) not in embeddings
    }
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in matrices]
    adamw = {"lr": learning_rate, "betas": (0.9, 0.98)}
    if not muon:
        decayed = {"params": list(matrices.values()), "weight_decay": weight_decay}
        return [torch.optim.AdamW([decayed, {"params": rest, "weight_decay": 0.0}], **adamw)]
    kind = torch.optim.Muon if has_fast_bfloat16(default_device()) else Float32Muon
    return [
        kind(matrices.values(), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
    ]


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], peak: float, step: int, steps: int, warmup: int
) -> None:
    """Linear warm-up to the peak, then a cosine down to zero at the last step."""
    progress = (step - warmup) / max(1, steps - warmup)
    rate = peak * (min(1.0, (step + 1) / warmup) if step < warmup else 0.5 * (1 + math.cos(math.pi * progress)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class BatchOrder:
    """Which rows each step trains on, a function of (seed, step) alone, so that a resumed run replays.

    Every epoch is a fresh permutation. With `lengths`, rows of similar length share a batch (little
    padding), sorted within pools of 32 batches whose order is shuffled again. Raises UserError for no rows.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: list[int] | None = None):
        if not rows:
            raise UserError("there is nothing to train on: no text, or pair, is short enough; raise data.max_tokens, "
                            "and for the sources of pairs autoencoder.max_tokens")
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self.seed, self.lengths = seed, lengths
        self.epoch = -1
        self.batches: list[list[int]] = []

    def __getitem__(self, step: int) -> list[int]:
        per_epoch = self.rows // self.batch_size
        epoch, position = divmod(step, per_epoch)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self._shuffle(random.Random(f"{self.seed}/{epoch}"))
        return self.batches[position]

    def _shuffle(self, rng: random.Random) -> list[list[int]]:
        order, size = list(range(self.rows)), self.batch_size
        rng.shuffle(order)
        if self.lengths:
            pool = 32 * size
            pools = [sorted(order[i : i + pool], key=self.lengths.__getitem__) for i in range(0, len(order), pool)]
            order = [row for rows in pools for row in rows]
        batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        rng.shuffle(batches)
        return batches


def step_generator(seed: int, step: int) -> torch.Generator:
    """The step's own random numbers: the same whether or not the run was resumed before it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def save_state(
    path: Path, step: int, modules: dict[str, nn.Module], optimizers: list, ema: EMAModel | None = None,
    minutes: float = 0.0,
) -> None:
    """Write a resume state, as safetensors, in one move: a cut-off write leaves the older one whole.

    Args:
        path: of the file.
        step: to go on from.
        modules: by name.
        optimizers: theirs.
        ema: running averages of their weights.
        minutes: that the steps before took.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{index}/{key}": torch.as_tensor(v) for key, v in state.items()}
    if ema is not None:
        tensors |= {f"ema/{index}": value for index, value in enumerate(ema.shadow_params)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    # clone: tied weights share memory, which safetensors refuses
    save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, unfinished,
              metadata={"step": json.dumps(step), "minutes": json.dumps(minutes)})
    os.replace(unfinished, path)


def load_state(
    path: Path, modules: dict[str, nn.Module], optimizers: list, ema: EMAModel | None = None
) -> tuple[int, float]:
    """Put a resume state back; returns the step to go on from and the minutes before it, 0 where there is none.

    Raises ResumeError when the file is cut short or belongs to a model of another shape.
    """
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            step = json.loads(file.metadata()["step"])
            minutes = json.loads(file.metadata().get("minutes", "0.0"))  # which older states are without
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, name))
    except (SafetensorError, RuntimeError) as error:
        raise ResumeError(
            f"{path} cannot be resumed from ({first_line(error)}): it is cut short or was made with other settings. "
            f"Delete it to start afresh, or set `name=` to train beside it."
        ) from None
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict] = {}
        for key, value in _below(tensors, f"optimizer{number}").items():
            index, _, field = key.partition("/")
            state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if ema is not None:
        averaged = _below(tensors, "ema")
        ema.shadow_params = [averaged[str(i)].to(p) for i, p in enumerate(ema.shadow_params)]
        ema.optimization_step = step  # the averaging decay depends on it
    return step, minutes


def refuse_changes(recipe: Recipe, sections: tuple[str, ...], folder: Path | None = None) -> None:
    """Raise ResumeError when a folder, the run's own by default, was begun with other settings in these sections."""
    folder = folder or recipe.folder
    saved = folder / "recipe.yaml"
    if not saved.exists():
        return
    before = load_recipe(str(saved))
    changes = [f"{name}.{key} was {getattr(getattr(before, name), key)!r}, is {value!r}"
               for name in sections if name != "seed" for key, value in getattr(recipe, name)
               if value != getattr(getattr(before, name), key) and key not in UNCHECKED]
    if "seed" in sections and before.seed != recipe.seed:
        changes.append(f"seed was {before.seed}, is {recipe.seed}")
    if changes:
        raise ResumeError(
            f"{folder} was begun with other settings ({'; '.join(changes)}). Set name= to train beside it, "
            "put the settings back to go on with it (those of an earlier command belong on this one, too), or delete "
            "the folder."
        )


def save_latents(folder: Path, latents: Tensor, codec: str, texts: str) -> None:
    """Cache whitened latents [N, L, D] of the training set, with digests of the codec and of the corpus' texts."""
    path = folder / LATENTS
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents.cpu().contiguous()}, path, metadata={"codec_digest": codec, "texts_digest": texts})


def load_latents(folder: Path, codec: str, texts: str) -> Tensor | None:
    """The cached latents [N, L, D]; None where there are none, for those of another codec or texts, or a torn file."""
    try:
        with safe_open(folder / LATENTS, framework="pt") as file:
            made_of = file.metadata()
            same = made_of.get("codec_digest") == codec and made_of.get("texts_digest") == texts
            return file.get_tensor("latents") if same else None
    except (FileNotFoundError, SafetensorError):
        return None


def progress_bar(start: int, steps: int, title: str, quiet: bool) -> tqdm:
    """A bar with loss, speed and time left; a line a minute when the output is no terminal."""
    return tqdm(range(start, steps), initial=start, total=steps, desc=title, disable=quiet, mininterval=2,
                dynamic_ncols=True, unit="step")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "/"): v for key, v in tensors.items() if key.startswith(prefix + "/")}
