"""Networks that are saved: before a folder's weights are read, they are held against its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin

from latdiff.checkpoints import CheckpointError
from latdiff.errors import UserError, first_line
from latdiff.weights import WeightsError, config_of, held_in, refuse_others, refuse_sizes


class SavedModel(ModelMixin, ConfigMixin):
    """A network in a folder of its own: config.json says what it is, safetensors files hold its weights."""

    @classmethod
    def from_pretrained(cls, folder, *arguments, **settings) -> Self:
        """As diffusers', from safetensors alone; a folder's weights are held against its configuration before.

        Args:
            folder: a folder or a hub id.
            arguments: diffusers'.
            settings: likewise.

        Raises:
            CheckpointError: For weights that are cut short, missing, too many, of other shapes or not finite, and for
                a configuration that no such weights can be of; the latter before memory is taken for them.
        """
        place = Path(folder, settings.get("subfolder") or "")
        if place.is_dir():
            cls._hold_against(place)
        made = super().from_pretrained(folder, *arguments, **settings | {"use_safetensors": True})
        refuse_gaps(place, made[0] if isinstance(made, tuple) else made)
        return made

    @classmethod
    def _hold_against(cls, place: Path) -> None:
        try:
            held, config = held_in(place), config_of(place)
            refuse_sizes(config, held)
        except WeightsError as error:
            raise CheckpointError(f"{place} is cut short or damaged: {error}") from error
        try:
            with torch.device("meta"):  # shapes alone
                made = cls.from_config(config)
        except UserError:
            raise
        except Exception as error:  # a configuration may hold anything
            raise CheckpointError(f"{place} is cut short or damaged: no {cls.__name__} can be made of its config.json "
                                  f"({first_line(error)}); copy the folder again") from error
        try:
            refuse_others({name: tuple(value.shape) for name, value in made.state_dict().items()}, held)
        except WeightsError as error:
            raise CheckpointError(f"{place} {error}") from error


def refuse_gaps(name: str | Path, part) -> None:
    """Raise CheckpointError for weights that a file lacks, of which diffusers only warns, and for those not finite."""
    weights = part.state_dict()
    gaps = [key for key, value in weights.items() if value.is_meta]  # where diffusers leaves them
    if gaps:
        raise CheckpointError(f"{name} lacks {len(gaps)} of its weights, the first is {gaps[0]}; copy it again")
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{name} has weights that are not finite, the first is {broken[0]}; train it again, at a "
                              "lower learning rate")
