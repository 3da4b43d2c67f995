"""Which checkpoints the page offers; one is opened when it is asked for, and used by one request at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from latdiff.checkpoints import SHIPPED
from latdiff.errors import UserError, nearest, shown
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.number import NumberHead
from latdiff.pipelines.files import load_for_commands
from latdiff.pipelines.index import check_finished
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.pipelines.listing import HERE, pipelines_in

KEPT = 2  # pipelines in memory
Heads = dict[str, AttributeHead | NumberHead]


@dataclass
class Opened:
    """A checkpoint in memory.

    Attributes:
        pipe: its pipeline.
        heads: by name.
        problems: a sentence for each head that cannot be used.
    """

    pipe: LatentTextDiffusionPipeline
    heads: Heads
    problems: list[str] = field(default_factory=list)

    @property
    def condition(self) -> str:
        """What texts may be conditioned on: "class", "start" (first words), "source" (another text) or "" (nothing)."""
        if self.pipe.classes:
            return "class"
        if not self.pipe.denoiser.config.source_dim:
            return ""
        return "start" if self.pipe.codec.continues else "source"


class Shelf:
    """Checkpoints by the names that the page shows.

    Args:
        name: of the first, as the command line has it.
        folder: where that lies.

    Raises:
        CheckpointError: Where that is no finished pipeline.
    """

    def __init__(self, name: str, folder: Path):
        check_finished(folder)
        found = {name: folder}
        for place, prefix in ((SHIPPED, ""), (HERE, f"{HERE}/")):
            found |= {one.name: place / one.name.removeprefix(prefix) for one in pipelines_in(place, prefix)
                      if one.kind == LatentTextDiffusionPipeline.__name__ and one.name not in found}
        self.folders = {name: one for name, one in found.items()
                        if one == folder or one.resolve() != folder.resolve()}
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Opened]:
        """The checkpoint of a name, for this thread alone until the block ends.

        Raises:
            UserError: For a name that the page does not show.
            CheckpointError: For a checkpoint that cannot be opened.
        """
        if name not in self.folders:
            raise UserError(f"there is no checkpoint {shown(name)} on this page, only {', '.join(self.folders)}"
                            f"{nearest(name, self.folders)}")
        with self._lock:
            if name not in self._opened:
                while len(self._opened) >= KEPT:
                    self._opened.popitem(last=False)
                self._opened[name] = _open(self.folders[name])
            self._opened.move_to_end(name)
            yield self._opened[name]


def _open(folder: Path) -> Opened:
    heads: Heads = {}
    problems = []
    for config in sorted(folder.glob("heads/*/config.json")):
        try:
            heads[config.parent.name] = load_head(config.parent)
        except UserError as error:
            problems.append(str(error))
    return Opened(load_for_commands(folder, quiet=True), heads, problems)
