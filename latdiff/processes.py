"""The processes that do one job together, as `accelerate launch` and torchrun begin them; one process by itself, else.

Every process comes to the same collective calls in the same order. The main one alone writes files and prints.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from latdiff.errors import UserError, first_line

LONGEST_WAIT = timedelta(hours=3)  # for what the main process does alone, such as measuring what was trained
T = TypeVar("T")


class ProcessError(UserError):
    """Processes that cannot go on together, in one sentence."""


def processes() -> PartialState:
    """How many processes there are, `num_processes`, and which of them this is, `process_index`, as accelerate says.

    Raises:
        ProcessError: When the others cannot be reached.
    """
    with _peers():
        return PartialState(cpu=_on_processors(), timeout=LONGEST_WAIT)


def _on_processors() -> bool:
    """Whether several processes have no GPUs between them, which accelerate wants to be told."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    return asked or (os.environ.get("WORLD_SIZE", "1") != "1" and not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return processes().is_main_process


def by_main(function: Callable) -> Callable:
    """Decorate what the main process alone does, such as writing files; elsewhere a call does nothing."""

    @functools.wraps(function)
    def only(*args, **kwargs):
        return function(*args, **kwargs) if is_main() else None

    return only


@contextlib.contextmanager
def silent_but_main() -> Iterator[None]:
    """Within the block, processes beside the main one print and warn of nothing."""
    with contextlib.ExitStack() as stack:
        if not is_main():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield


def wait_for_everyone() -> None:
    """Go on when every process has come here. Raises ProcessError when one cannot come any more."""
    with _peers():
        processes().wait_for_everyone()


def agreed(value: T) -> T:
    """The main process's value in every process, so that all take the same way."""
    if processes().num_processes == 1:
        return value
    with _peers():
        return broadcast_object_list([value])[0]


def own_part(count: int) -> slice:
    """Which of `count` rows are this process's: as many as any other's, give or take one, and neighbours."""
    index, parts = processes().process_index, processes().num_processes
    return slice(count * index // parts, count * (index + 1) // parts)


def sum_over_processes(*values: float | Tensor) -> list[float]:
    """Sums of scalars."""
    found = torch.tensor([float(value) for value in values], dtype=torch.float32, device=processes().device)
    with _peers():
        torch.distributed.all_reduce(found)
    return found.tolist()


def summed(value: Tensor) -> Tensor:
    """The sum of all processes' tensors, in each; gradients flow back to all of them."""
    from torch.distributed.nn.functional import all_reduce

    with _peers():
        return all_reduce(value)


def sum_gradients(parameters: Sequence[Tensor], *values: float | Tensor) -> list[float]:
    """Sum the gradients of all processes into each, and values beside them, in one collective call.

    Args:
        parameters: the same in every process; those that have a gradient nowhere keep none.
        values: scalars.

    Returns:
        The values' sums.
    """
    some = [float(parameter.grad is not None) for parameter in parameters]
    numbers = torch.tensor([*map(float, values), *some], dtype=torch.float32)
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    device = parameters[0].device
    buffer = torch.cat([numbers.to(device), *(one.reshape(-1).float() for one in flat)])
    with _peers():
        torch.distributed.all_reduce(buffer)
    found, held, *parts = buffer.split([len(values), len(some), *(one.numel() for one in flat)])
    for parameter, part, holders in zip(parameters, parts, held.tolist(), strict=True):
        if holders:
            parameter.grad = part.view_as(parameter).to(parameter)
    return found.tolist()


def spread(tensors: Sequence[Tensor]) -> None:
    """Put the main process's values into the tensors of every process."""
    if processes().num_processes > 1:
        with _peers(), torch.no_grad():
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, 0)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Put into a sentence what becomes of a collective call when another process has died."""
    try:
        yield
    except RuntimeError as error:  # of gloo and nccl
        raise ProcessError(f"another of the processes has ended, and its own message says why (here: "
                           f"{first_line(error)}); the same command goes on from the last saved step") from error


