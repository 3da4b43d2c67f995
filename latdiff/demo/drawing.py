"""Texts as they emerge: a checked request becomes frames, each of what is to be seen at one moment."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from latdiff.demo.requests import Strengths, Wanted
from latdiff.demo.shelf import Heads, Opened, Shelf
from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError, nearest, shown
from latdiff.heads.number import NumberHead
from latdiff.pipelines.output import scores

PREVIEWS = 6  # times that unfinished texts are decoded
SECONDS = 120.0  # that drawing may take


@dataclass(frozen=True)
class Moment:
    """The first text at one step: how many steps are done, what it reads, and what the heads say of it."""

    step: int
    text: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Frame:
    """What is to be seen at one moment.

    Attributes:
        step: how many of the steps are done.
        steps: of the whole way.
        plain: texts without guides, or before an edit; none where nothing is compared.
        texts: the texts themselves, at first none, then estimates.
        scores: what each guide's head says of each text, once they are finished.
        moments: how the first text emerged.
        notes: warnings, in sentences.
        done: whether this is the last frame.
        seconds: since drawing began.
    """

    step: int = 0
    steps: int = 0
    plain: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0


class Stopped(Exception):
    """Nobody waits for the texts any more."""


def frames(
    shelf: Shelf, wanted: Wanted, own: Mapping[str, Any] | None = None, seconds: float = SECONDS
) -> Iterator[Frame]:
    """Draw what a request asks for, in a thread that ends soon after nobody reads on.

    Args:
        shelf: the checkpoints.
        wanted: the request.
        own: further heads by name.
        seconds: that drawing may take.

    Yields:
        Frames, the last of them `done`.

    Raises:
        UserError: As the pipeline does, and where it takes too long.
    """
    arrived: queue.Queue[Frame | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    def work() -> None:
        try:
            with shelf.use(wanted.checkpoint) as opened:
                _Drawing(opened, wanted, opened.heads | dict(own or {}), arrived.put, stopped, seconds).run()
            arrived.put(None)
        except BaseException as error:  # is raised where the frames are read
            arrived.put(error)

    threading.Thread(target=work, name="latdiff-demo-drawing", daemon=True).start()
    try:
        while (found := arrived.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopped.set()


def guides_of(heads: Heads, strengths: Strengths) -> list[Guide]:
    """A guide for every head with a slider that is not at 0; several values of one are wanted in those shares.

    Raises:
        UserError: For a head that there is not, a value that it does not know, and two numbers of one head.
    """
    guides = []
    for name, values in strengths.items():
        head = heads.get(name)
        if head is None:
            known = ", ".join(heads) or "none"
            raise UserError(f"there is no head {shown(name)} here, only {known}{nearest(name, heads)}")
        most = max(values.values())
        if isinstance(head, NumberHead) and len(values) > 1:
            raise UserError(f"head {name!r} is of a number, which cannot be {' and '.join(values)} at once; give one")
        one: Any = next(iter(values)) if len(values) == 1 else {value: part / most for value, part in values.items()}
        guides.append(head.toward(one, most * head.usual_scale("x0")))
    return guides


class _Drawing:
    """One request on one opened checkpoint."""

    def __init__(self, opened: Opened, wanted: Wanted, heads: Heads, show: Callable[[Frame], Any],
                 stopped: threading.Event, seconds: float):
        self.pipe, self.wanted, self.show, self.stopped = opened.pipe, wanted, show, stopped
        self.condition, self.heads, self.seconds = opened.condition, heads, seconds
        self.began = time.monotonic()
        self.frame = Frame()

    def run(self) -> None:
        wanted = self.wanted
        with warnings.catch_warnings(record=True) as caught, self._sampler():
            warnings.simplefilter("always", UserWarning)
            guides = guides_of(self.heads, wanted.strengths)
            self._check_condition()
            if wanted.text:
                self._show(plain=[wanted.text])
                self._note_round_trip()
            elif guides:
                self._show(plain=self._texts(self._draw([], None)))
            out = self._draw(guides, self._previews(guides))
        said = (str(one.message) for one in caught if issubclass(one.category, UserWarning))
        notes = [*self.frame.notes, *dict.fromkeys(map(_of_sliders, said))]
        self._show(step=self._steps(), steps=self._steps(), texts=self._texts(out), scores=out.scores, notes=notes,
                   done=True)

    def _draw(self, guides: list[Guide], previews: Callable | None) -> Any:
        wanted, generator = self.wanted, torch.Generator().manual_seed(self.wanted.seed)
        same: dict[str, Any] = {
            "guides": guides, "num_inference_steps": wanted.steps, "generator": generator,
            "callback_on_step_end": previews or self._check, "callback_on_step_end_tensor_inputs": ["x0"]}
        if wanted.text:
            return self.pipe.edit([wanted.text], strength=wanted.edit_strength, **same)
        return self.pipe(cond=wanted.cond or None, num_samples=wanted.samples, **same)

    def _previews(self, guides: list[Guide]) -> Callable:
        """A callback that shows the estimates of a few steps as texts."""
        steps = self._steps()
        each = max(1, round(steps / PREVIEWS))

        def preview(pipe, step: int, timestep, tensors: dict[str, torch.Tensor]) -> None:
            self._check()
            if step % each == 0 and step + 1 < steps:
                texts = self._decode(tensors["x0"])
                said = {title: values[0] for title, values in scores(tensors["x0"][:1], guides).items()}
                self._show(step=step + 1, steps=steps, texts=texts,
                           moments=[*self.frame.moments, Moment(step + 1, texts[0], said)])

        return preview

    def _steps(self) -> int:
        steps = self.wanted.steps or self.pipe.config.num_inference_steps
        if not self.wanted.text:
            return steps
        return steps - min(steps - 1, round(steps * (1 - self.wanted.edit_strength)))  # as `first_step` counts them

    def _check(self, *_: Any) -> None:
        """Raise where nobody waits any more, or it takes too long."""
        if self.stopped.is_set():
            raise Stopped
        if time.monotonic() - self.began > self.seconds:
            raise UserError(f"drawing was stopped after {self.seconds:g} seconds, which is as long as it may take on "
                            "this page; ask for fewer texts or fewer steps")

    def _check_condition(self) -> None:
        if self.wanted.cond and not self.condition:
            raise UserError("the texts of this checkpoint go on from nothing; leave the first words out")

    def _decode(self, latents: torch.Tensor) -> list[str]:
        read = self.wanted.cond and self.condition in ("start", "source")
        sources = [self.wanted.cond] * len(latents) if read else None
        options: dict[str, Any] = {"preset": self.pipe.decoding} if self.pipe.codec.presets else {}
        return [self._begun(text) for text in self.pipe.codec.decode(latents, sources, **options)]

    def _texts(self, out: Any) -> list[str]:
        return [self._begun(text) for text in out.texts]

    def _begun(self, text: str) -> str:
        return f"{self.wanted.cond} {text}" if self.condition == "start" and self.wanted.cond else text

    def _note_round_trip(self) -> None:
        """Note a text that does not come back from its latents, for then more than the guides changes it."""
        (back,) = self._decode(self.pipe.codec.encode([self.wanted.text]))
        if back.split() != self.wanted.text.split():
            self._show(notes=[f"Without any edit this text comes back from its latents as: {back}"])

    @contextlib.contextmanager
    def _sampler(self) -> Iterator[None]:
        """The request's sampler, in place of the checkpoint's while it is drawn."""
        usual = self.pipe.scheduler
        try:
            if self.wanted.sampler:
                self.pipe.scheduler = make_scheduler(self.wanted.sampler, usual.config.trained_betas)
            yield
        finally:
            self.pipe.scheduler = usual

    def _show(self, **changes: Any) -> None:
        self.frame = replace(self.frame, **changes, seconds=time.monotonic() - self.began)
        self.show(self.frame)


def _of_sliders(warning: str) -> str:
    """A warning of the pipeline's, with the advice that holds where scales are sliders."""
    warning = re.sub(r" Lower scales, such as .*$", " Move the sliders down.", warning)
    return re.sub(r" Try \S+=.*$", " Move the sliders down.", warning)
