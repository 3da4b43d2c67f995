"""What does a codec's folder `adapter` hold: low-rank updates of the rank that the codec names, and nothing else?"""

from __future__ import annotations

import json
import re
from pathlib import Path

from peft import LoraConfig
from transformers import PreTrainedModel

from latdiff.checkpoints import CheckpointError
from latdiff.errors import first_line, shortened, shown
from latdiff.weights import WeightsError, held_in, refuse_others

# settings of peft that may differ from its defaults: those of `add_updates`, and what is merely noted
OWN = {"peft_type", "r", "lora_alpha", "target_modules", "fan_in_fan_out", "inference_mode", "base_model_name_or_path",
       "peft_version", "task_type", "revision"}


def load_updates(folder: Path, rank: int, model: PreTrainedModel) -> None:
    """Load the low-rank updates of a codec's language model, as latdiff saved them.

    peft's configuration can do more than latdiff's does: name layers by a pattern, repeat layers, name others. And
    where there are no safetensors, a pickle is read. What is not latdiff's own is refused before peft reads it.

    Args:
        folder: of the updates.
        rank: of them, by the codec's configuration.
        model: takes them.

    Raises:
        CheckpointError: For what is not latdiff's own, is damaged, or does not fit the model.
    """
    _check_own(folder, rank)
    try:
        model.load_adapter(str(folder))
    except Exception as error:  # peft, transformers and safetensors each raise kinds of their own
        raise CheckpointError(f"{folder} does not fit the language model or is damaged: {first_line(error)}; copy the "
                              "codec's own") from error
    _check_loaded(folder, model)


def _check_own(folder: Path, rank: int) -> None:
    try:
        given = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        (folder / "adapter_model.safetensors").stat()
        held = held_in(folder)
        kind, found, layers = given["peft_type"], given["r"], given["target_modules"]
    except (OSError, WeightsError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is cut short or damaged: {first_line(error)}; copy it again") from error
    if kind != "LORA" or found != rank:
        raise CheckpointError(f"{folder} is of kind {shown(kind)} and rank {shown(found)}, must be LORA of the codec's "
                              f"rank, {rank}; copy the codec's own")
    if not isinstance(layers, list) or not all(isinstance(one, str) and re.fullmatch(r"[\w.]+", one) for one in layers):
        raise CheckpointError(f"{folder} has the target_modules {shown(layers)}, must be a list of names of layers, as "
                              "latdiff saves it; copy the codec's own")
    usual = LoraConfig().to_dict()
    strange = sorted(key for key, value in given.items() if key not in OWN and value and value != usual.get(key))
    if strange:
        raise CheckpointError(f"{folder} sets {shortened(strange[0])}, which latdiff never does; copy the codec's own")
    if {weight.shape[:1] for name, weight in held.items() if ".lora_A." in name} != {(rank,)}:
        raise CheckpointError(f"{folder} holds no low-rank updates of rank {rank}; copy the codec's own")


def _check_loaded(folder: Path, model: PreTrainedModel) -> None:
    """Raise CheckpointError unless a model has all its low-rank updates from a folder, and they are finite.

    Updates that a file lacks, or has in another shape, peft leaves random.
    """
    updates = {f"base_model.model.{name.replace('.default.', '.')}": value
               for name, value in model.state_dict().items() if "lora_" in name}
    try:
        refuse_others({name: tuple(value.shape) for name, value in updates.items()}, held_in(folder))
    except WeightsError as error:
        raise CheckpointError(f"{folder} {error}") from error
    broken = [name for name, value in updates.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{folder} has weights that are not finite, the first is {broken[0]}; copy it again")
