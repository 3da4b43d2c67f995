"""The processes that do one job together, as `accelerate launch` and torchrun begin them; else one process by itself.

All processes have to come to the same collective calls in the same order. The main one alone writes files and prints.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from latdiff.errors import UserError, first_line

if TYPE_CHECKING:  # loads torch
    from accelerate import PartialState

LONGEST_WAIT = timedelta(days=1)  # for the others; where one has died, the launcher ends them all
T = TypeVar("T")


class ProcessError(UserError):
    """Processes that cannot go on together, in one sentence."""


def cpu_asked_for() -> bool:
    """Whether `accelerate launch --cpu` has begun this process, which leaves GPUs alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on")


def refuse_several(why: str) -> None:
    """Raise ProcessError where a launcher has begun more processes than one."""
    if _several():
        raise ProcessError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {why}")


def processes() -> PartialState:
    """How many processes there are, `num_processes`, and which of them this is, `process_index`, as accelerate says.

    Raises:
        ProcessError: When the others cannot be reached.
    """
    from accelerate import PartialState

    try:
        with peers():
            return PartialState(cpu=_on_processors(), timeout=LONGEST_WAIT)
    except ValueError as error:
        if isinstance(error, UserError) or not _several():
            raise
        raise ProcessError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes cannot find each other "
                           f"({first_line(error)}); begin them with torchrun or `accelerate launch`, or unset "
                           "WORLD_SIZE") from None


@contextlib.contextmanager
def launched() -> Iterator[PartialState]:
    """The processes that were begun together; within the block, one that waits for one that has ended says so.

    The main one alone prints and warns. Enter it before a model is loaded, which is then put on this process's own GPU.
    """
    with peers(), silent_but_main():
        state = processes()
        yield state
    state.destroy_process_group()


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Raise ProcessError, a sentence, where a collective call fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not _several() or not _of_a_lost_partner(error):
            raise
        raise ProcessError(f"the other processes cannot be reached: one has ended, which may say above why, or the "
                           f"network failed ({_reason(error)}); the same command goes on") from None


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
    with peers():
        processes().wait_for_everyone()


def agreed(value: T) -> T:
    """The main process's value in every process, so that all take the same way."""
    from accelerate.utils import broadcast_object_list

    if processes().num_processes == 1:
        return value
    with peers():
        return broadcast_object_list([value])[0]


def everywhere(found: bool) -> bool:
    """Whether something was found in every process, so that all take the same way; each waits for all."""
    from accelerate.utils import gather_object

    with peers():
        return all(gather_object([found]))


def own_part(count: int) -> slice:
    """Which of `count` rows are this process's: as many as any other's, give or take one, and neighbours."""
    index, parts = processes().process_index, processes().num_processes
    return slice(count * index // parts, count * (index + 1) // parts)


def shared_out(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What tasks return, in their order; each of the processes runs some of them, and all get what they return.

    Every process has to be given the same tasks, none of which waits for other processes.
    """
    from accelerate.utils import gather_object

    own = [task() for task in tasks[own_part(len(tasks))]]
    with peers():
        return list(gather_object(own))


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _on_processors() -> bool:
    """Whether several processes have no GPUs between them: not told so, accelerate lets each be alone."""
    import torch

    return cpu_asked_for() or (_several() and not torch.cuda.is_available())


def _reason(error: RuntimeError) -> str:
    """The first sentence of gloo's or NCCL's message, without the place in their source that it begins with."""
    return re.sub(r"^\[[^]]*\]\s*", "", first_line(error)).partition(". ")[0].rstrip(".")


def _of_a_lost_partner(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)
