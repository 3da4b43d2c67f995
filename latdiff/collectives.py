"""Sums over the processes of a training, of scalars, of gradients, and of what gradients flow through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latdiff.processes import peers, processes


def sum_over_processes(*values: float | Tensor) -> list[float]:
    """Sums of scalars, as many as were given; in float32, and the same in every process."""
    found = torch.tensor([float(value) for value in values], dtype=torch.float32, device=processes().device)
    with peers():
        torch.distributed.all_reduce(found)
    return found.tolist()


class _Summed(torch.autograd.Function):
    """The sum of all processes' tensors, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(context, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _Summed.apply(gradient.contiguous())


def summed(value: Tensor) -> Tensor:
    """The sum of all processes' tensors.

    Args:
        value: of any shape, the same in all of them.

    Returns:
        The sum, of that shape, in each. Gradients flow back to all of them.
    """
    with peers():
        return _Summed.apply(value)


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
    with peers():
        torch.distributed.all_reduce(buffer)
    found, held, *parts = buffer.split([len(values), len(some), *(one.numel() for one in flat)])
    for parameter, part, holders in zip(parameters, parts, held.tolist(), strict=True):
        if holders:
            parameter.grad = part.view_as(parameter).to(parameter)
    return found.tolist()


def spread(tensors: Sequence[Tensor]) -> None:
    """Put the main process's values into the tensors of every process.

    Args:
        tensors: of any shapes, the same in all of them; changed in place.
    """
    if processes().num_processes > 1:
        with peers(), torch.no_grad():
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, 0)
