"""What a call of the pipeline has settled before its first denoising step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latdiff.errors import UserError, shown
from latdiff.models.conditions import Condition
from latdiff.pipelines.defaults import MOST_DRAWN

CALLBACK_TENSORS = ["latents", "x0"]


@dataclass(frozen=True)
class Call:
    """What a call has settled before the first denoising step."""

    steps: int
    guides: list
    decode_options: dict
    cond: Condition | None  # every condition once
    rows: list[int]  # and which of them each sample has
    sources: list[str] | None  # the source text of each sample, where those are conditions
    streams: list[torch.Generator]
    batch_size: int
    dtype: torch.dtype
    callback: Callable | None
    tensors: Sequence[str]
    output_type: str

    def chunks(self, latents: Tensor) -> Iterator[tuple[Tensor, Condition | None, list[torch.Generator]]]:
        """Latents [B, L, D], their conditions and generators, `batch_size` at once."""
        for start in range(0, len(latents), self.batch_size):
            part = slice(start, start + self.batch_size)
            with torch.inference_mode(False):  # a guide may differentiate through the denoiser
                cond = None if self.cond is None else self.cond[self.rows[part]]
            yield latents[part], cond, self.streams[part]


def guides_of(given) -> list[Callable]:
    """One guide or several as a list. Raises UserError for what is none."""
    try:
        found = [given] if callable(given) or isinstance(given, str) else list(given)
    except TypeError:  # no list, or an array without dimensions
        found = [given]
    wrong = [one for one in found if not callable(one)]
    if wrong:
        raise UserError(f"guides holds {shown(wrong[0])}, must be guides, such as head.toward('positive'), or "
                        "functions guide(denoise) -> denoise")
    return found


def tensors_of(callback: Any, names: Any) -> list[str]:
    """The names of the tensors that a callback gets. Raises UserError for what is no callback, and for other names."""
    if callback is not None and not callable(callback):
        raise UserError(f"callback_on_step_end is {shown(callback)}, must be a function "
                        "(pipe, step, timestep, tensors)")
    if not isinstance(names, Iterable):
        raise UserError(f"callback_on_step_end_tensor_inputs is {shown(names)}, must be a list of "
                        f"{', '.join(CALLBACK_TENSORS)}")
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        if not isinstance(name, str) or name not in CALLBACK_TENSORS:
            raise UserError(f"callback_on_step_end_tensor_inputs holds {shown(name)}, must be of "
                            f"{', '.join(CALLBACK_TENSORS)}")
    return found


def latents_of(returned: Any, latents: Tensor) -> Tensor:
    """The latents [B, L, D] to go on from, of what a callback returned. Raises UserError for anything it may not."""
    if returned is None:
        return latents
    if not isinstance(returned, Mapping):
        raise UserError(f"callback_on_step_end returned {shown(returned)}, must return None or a dict, such as "
                        "{'latents': latents}")
    found = returned.get("latents", latents)
    shape = f"must be floating-point numbers of shape {list(latents.shape)}, as it was given"
    if not isinstance(found, Tensor):
        raise UserError(f"callback_on_step_end returned the latents {shown(found)}, {shape}")
    if found.shape != latents.shape or not found.is_floating_point():
        kind = str(found.dtype).removeprefix("torch.")
        raise UserError(f"callback_on_step_end returned latents of shape {list(found.shape)} and dtype {kind}, {shape}")
    return found.to(latents)


def conditions_of(given: Any) -> Any:
    """One condition as it is, several ones, of a list, an array, a Series or a generator, as a list.

    Raises:
        UserError: For an empty list, and for what is in no order or no text: a set, bytes, None in a list.
    """
    given = given.tolist() if hasattr(given, "tolist") else given  # of numpy, torch and pandas
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, (bytes, Set, Mapping)):
        raise UserError(f"cond is a {type(given).__name__}, must be a text or a list of texts")
    if not isinstance(given, Iterable):
        return given
    found = list(given)
    if not found:
        raise UserError("cond is an empty list; give a condition, or leave it out")
    for place, one in enumerate(found):
        if not isinstance(one, (str, int, float)) or one != one:
            raise UserError(f"cond {place} of {len(found)} is {shown(one)}, must be a text, or a number that names a "
                            "class")
    return found


def check_drawn(drawn: int) -> None:
    """Raise UserError for more texts, candidates counted, than a single call may draw."""
    if drawn > MOST_DRAWN:
        raise UserError(f"num_samples times candidates, over keep, is {shown(drawn)} texts to draw, must be at most "
                        f"{MOST_DRAWN} in one call; draw so many in parts, by calls with first=..., or into a file, by "
                        "`latdiff sample --output`")


def drawn_of(asked: int, keep: float, cond, candidates: int, latents: Tensor | None) -> int:
    """How many texts to draw, of which so large a share makes what was asked for. Raises UserError as a call does."""
    check_drawn(asked * candidates)  # a float may not hold what is farther out
    if keep == 1:
        return asked
    named = {"candidates": candidates > 1, "latents": latents is not None,
             "a cond for each sample": isinstance(cond, list) and len(set(cond)) > 1}
    if any(named.values()):
        raise UserError(f"keep is {keep:g}, which drops some of the samples, and does not go with "
                        f"{' and '.join(k for k, v in named.items() if v)}; leave one of them out")
    drawn = math.ceil(asked / keep - 1e-9)  # 7 / 0.7 is a little more than 10
    check_drawn(drawn)
    return drawn
