"""What a run leaves on the disk to go on from: resume states, and settings that must not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latdiff.config import Recipe, load_recipe
from latdiff.errors import UserError, first_line
from latdiff.storage import written_whole

UNCHECKED = ("sample_every", "save_every")  # settings that change nothing in what is trained


class ResumeError(UserError):
    """A resume state that cannot be used, in one sentence."""


def save_state(
    path: Path, step: int, modules: dict[str, nn.Module], optimizers: list, ema: EMAModel | None = None,
    minutes: float = 0.0, texts: str = "", dtype: str = "",
) -> None:
    """Write a resume state, as safetensors, in one move: a cut-off write leaves the older one whole.

    Args:
        path: of the file.
        step: to go on from.
        modules: by name.
        optimizers: theirs.
        ema: running averages of their weights.
        minutes: that the steps before took.
        texts: a digest of what is trained on.
        dtype: what is computed in, e.g. float32.

    Raises:
        StorageError: for a full disk, and for a folder that cannot be written into; the older state stays.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{index}/{key}": torch.as_tensor(v) for key, v in state.items()}
    if ema is not None:
        tensors |= {f"ema/{index}": value for index, value in enumerate(ema.shadow_params)}
    # clone: tied weights share memory, which safetensors refuses
    save_tensors(path, {key: value.detach().cpu().clone() for key, value in tensors.items()},
                 {"step": json.dumps(step), "minutes": json.dumps(minutes), "texts": texts, "dtype": dtype})


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all. Raises StorageError as `written_whole` does."""
    with written_whole(path) as beside:
        save_file(tensors, beside, metadata=metadata)


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode(errors="surrogatepass") + b"\0")
    return found.hexdigest()


def load_state(
    path: Path, modules: dict[str, nn.Module], optimizers: list, ema: EMAModel | None = None, texts: str = "",
    dtype: str = "",
) -> tuple[int, float]:
    """Put a resume state back; returns the step to go on from and the minutes before it, 0 where there is none.

    Raises ResumeError when the file is cut short, belongs to a model of another shape, or was begun on texts of another
    digest or in another dtype.
    """
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            step = json.loads(file.metadata()["step"])
            minutes = json.loads(file.metadata().get("minutes", "0.0"))  # which older states are without
            begun_on = file.metadata().get("texts", texts)  # likewise
            begun_in = file.metadata().get("dtype", dtype)  # likewise
        _refuse_another_run(path, begun_on == texts, begun_in, dtype)
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


def _refuse_another_run(path: Path, same_texts: bool, begun_in: str, dtype: str) -> None:
    """Raise ResumeError for a state that was begun on other texts, or in another dtype than this run computes in."""
    if not same_texts:
        raise ResumeError(f"{path} was begun on other texts, conditions or their order: what data.source leads to "
                          "has changed. Put it back to go on, delete the file to start afresh, or set `name=` to "
                          "train beside it.")
    if begun_in != dtype:
        raise ResumeError(f"{path} was begun in {begun_in}, but this run computes in {dtype}. Set dtype={begun_in} to "
                          "go on, delete the file to start afresh, or set `name=` to train beside it.")


def refuse_changes(recipe: Recipe, sections: tuple[str, ...], folder: Path | None = None) -> None:
    """Raise ResumeError when a folder, the run's own by default, was begun with other settings in these sections."""
    folder = folder or recipe.folder
    saved = folder / "recipe.yaml"
    if not saved.exists():
        return
    before = load_recipe(str(saved), saved=True)
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


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "/"): v for key, v in tensors.items() if key.startswith(prefix + "/")}
