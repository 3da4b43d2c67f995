"""Is this process one of several that `accelerate launch` or torchrun began, and how do they share work?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from latdiff.errors import UserError, first_line

if TYPE_CHECKING:  # loads torch
    from accelerate import PartialState

LONGEST = timedelta(days=30)  # that one waits for the others; where one has died, the launcher ends them all
T = TypeVar("T")


def refuse_several(why: str) -> None:
    """Raise UserError where a launcher has begun more processes than one."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise UserError(f"WORLD_SIZE is {count}, but {why}")


@contextlib.contextmanager
def launched() -> Iterator[PartialState]:
    """The processes that were begun together, and this one's place and device among them; one may be alone.

    Enter it before a model is loaded, which is then put on this process' own GPU. Raises UserError in a process that
    waits for one that has ended.
    """
    import torch
    from accelerate import PartialState

    several = os.environ.get("WORLD_SIZE", "1") != "1"
    try:
        # without `cpu`, those that torchrun begins on a machine without a GPU would each be alone
        state = PartialState(cpu=several and not torch.cuda.is_available(), timeout=LONGEST)
        yield state
    except RuntimeError as error:
        if not several or not _of_a_lost_partner(error):
            raise
        raise UserError("the other processes cannot be reached: one has ended, which may say above why, or the network "
                        f"failed ({first_line(error)}); give the same command again") from None
    state.destroy_process_group()


def _of_a_lost_partner(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def shared(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What tasks return, in their order; each of the processes runs some of them, and all get what they return.

    Every process has to be given the same tasks, none of which waits for other processes.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    begin, end = (len(tasks) * one // state.num_processes for one in (state.process_index, state.process_index + 1))
    return list(gather_object([task() for task in tasks[begin:end]]))
