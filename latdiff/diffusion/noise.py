"""Random numbers for samples: a stream for each, so that a text depends on its seed and its place alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import torch

from latdiff.errors import UserError, check_whole

Seeds: TypeAlias = "torch.Generator | Sequence[torch.Generator] | None"


def streams(generator: Seeds, count: int, first: int = 0) -> list[torch.Generator]:
    """A CPU generator for each of `count` samples.

    That of sample i follows from the next number of `generator` and first + i, whatever `count` is. A list pins every
    sample: its generator is what a call with that one alone would give its first sample.

    Args:
        generator: on any device; None for torch's global one; or a list with one for each sample.
        count: how many samples.
        first: the place of the first one, among all that are ever drawn of this generator.

    Raises:
        UserError: For a list of another length, for one with places, and for anything but generators, such as a seed.
    """
    given = generator if isinstance(generator, (list, tuple)) else [generator] * (generator is not None)
    wrong = [one for one in given if not isinstance(one, torch.Generator)]
    if wrong:
        raise UserError(f"generator is {wrong[0]!r}, must be one of torch's, such as torch.Generator().manual_seed(0), "
                        "or a list with one for each sample")
    first = check_whole("first", first, least=0)
    if isinstance(generator, (list, tuple)):
        if first:
            raise UserError(f"first is {first}, but generator is a list, which pins every sample wherever it is drawn; "
                            "give one generator, or leave first out")
        if len(generator) != count:
            raise UserError(f"generator is a list of {len(generator)} for {count} samples; give one for each, or one "
                            "for all")
        return [_stream(_next(one), 0) for one in generator]
    base = _next(generator)
    return [_stream(base, place) for place in range(first, first + count)]


def fork(generators: Sequence[torch.Generator], name: str) -> list[torch.Generator]:
    """A generator beside each, with numbers of its own, which leaves the first as it is."""
    return [_stream(one.initial_seed(), name) for one in generators]


def _next(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def _stream(seed: int, name: int | str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
