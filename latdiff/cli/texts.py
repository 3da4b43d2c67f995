"""What does `latdiff sample` draw, and how does it look? Chunk by chunk, in as little memory for many as for few."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import textwrap
import warnings
from collections.abc import Iterator, Sequence

from latdiff.cli.guides import read_guides, steering
from latdiff.errors import UserError
from latdiff.pipelines.defaults import BATCH_SIZE


class Texts:
    """What `latdiff sample` draws, so many texts at once as the pipeline decodes.

    A text is the same in a chunk as in a call for all, whose batches the chunks are.

    Args:
        options: of the command.
        wanted: what `guide_words` read.
        as_json: an object for each text, not the text alone.
        quiet: no bars.

    Raises:
        UserError: For a checkpoint, a head, a condition or a scheduler that is none, or does not fit.
    """

    def __init__(self, options: argparse.Namespace, wanted: list[tuple[str, str, str]], as_json: bool,
                 quiet: bool):
        from latdiff.diffusion.sampling import make_scheduler
        from latdiff.pipelines.files import load_for_commands

        self.options, self.as_json, self.pipe = options, as_json, load_for_commands(options.checkpoint, quiet)
        self.guides = read_guides(options.checkpoint, wanted, options.mode)
        _check_conditions(options, self.pipe)
        self.given = options.prompt or options.cond
        one_each = 1 if len(self.given) > 1 else 8
        self.count = one_each if options.num_samples is None else options.num_samples
        self.keep = 1.0 if options.keep is None else options.keep
        self._seen: set = set()
        if options.scheduler:
            self.pipe.scheduler = make_scheduler(options.scheduler, self.pipe.scheduler.config.trained_betas)

    def chunks(self) -> Sequence[range]:
        """The places of the texts of each; --keep chooses among all, which are then one."""
        total = self.count * max(1, len(self.given))
        return Chunks(total, BATCH_SIZE if self.keep == 1 else total)

    def lines(self, places: range) -> list[str]:
        """What is printed of the texts at some places."""
        with _said_once(self._seen):
            rows = self._rows(places)
        if self.as_json:
            return [json.dumps(row, ensure_ascii=False) for row in rows]
        if self.options.compare:
            return [side_by_side(row["unsteered"], row["text"]) + "\n" for row in rows]
        return [row["text"] for row in rows]

    def _rows(self, places: range) -> list[dict]:
        out, rows = self._draw(places, self.guides), []
        plain = self._draw(places, []).texts if self.options.compare else [None] * len(places)
        for row, (index, text, unsteered) in enumerate(zip(places, out.texts, plain, strict=True)):
            begun = f"{self.options.prompt[index // self.count]} " if self.options.prompt else ""
            found = {"text": begun + text, "cut": out.cut[row], "seed": self.options.seed, "index": index,
                     "guides": steering(self.guides, out.scores, row)}
            found |= {"cond": self.given[index // self.count]} if self.given else {}
            rows.append(found | ({} if unsteered is None else {"unsteered": begun + unsteered}))
        return rows

    def _draw(self, places: range, guides: list):
        import torch

        options, several = self.options, len(self.given) > 1
        cond = [self.given[place // self.count] for place in places] if several else next(iter(self.given), None)
        return self.pipe(
            cond=cond, num_samples=1 if several else len(places), guides=guides, num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale, candidates=options.candidates, keep=self.keep, first=places.start,
            generator=torch.Generator().manual_seed(options.seed), batch_size=BATCH_SIZE,
            decode_options=options.decode)


class Chunks(Sequence[range]):
    """Places from 0 on, so many in each, which are not held in memory."""

    def __init__(self, total: int, size: int):
        self._places, self._size = range(total), size

    def __len__(self) -> int:
        return -(-len(self._places) // self._size)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._places[number * self._size : (number + 1) * self._size]


@contextlib.contextmanager
def _said_once(seen: set) -> Iterator[None]:
    """Leave out what the same line has warned of before, such as how many texts of an earlier chunk are cut."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        line = one.category, one.filename, one.lineno
        if line not in seen:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        seen.add(line)


def _check_conditions(options: argparse.Namespace, pipe) -> None:
    """Raise UserError for --prompt or --cond where the texts take the other one."""
    goes_on = pipe.codec.continues and pipe.denoiser.config.source_dim
    if options.prompt and not goes_on:
        raise UserError(f"--prompt is {options.prompt[0]!r}, but the texts of {options.given} do not go on from first "
                        "words; leave it out, or train with data.condition=start")
    if options.cond and goes_on:
        raise UserError(f"--cond is {options.cond[0]!r}, but the texts of {options.given} go on from first words; give "
                        "those with --prompt, and lead towards a label with --guide")


def side_by_side(left: str, right: str, width: int = 52) -> str:
    """Two texts in two columns: unsteered and steered."""
    columns = itertools.zip_longest(textwrap.wrap(left, width), textwrap.wrap(right, width), fillvalue="")
    return "\n".join(f"{a:{width}}  |  {b}" for a, b in columns)
