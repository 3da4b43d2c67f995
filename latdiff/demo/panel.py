"""What a checkpoint and a visitor's own heads can be asked for: the sliders, and what the boxes beside them are for."""

from __future__ import annotations

from dataclasses import dataclass

from latdiff.config import SCHEDULERS
from latdiff.demo.fitting import Fitted, heads_of
from latdiff.demo.requests import MOST_STEPS
from latdiff.demo.shelf import Opened
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.guessing import may_be_chance
from latdiff.heads.number import NumberHead


@dataclass(frozen=True)
class Group:
    """The sliders of one head.

    Attributes:
        head: its name.
        values: a slider for each; of a head of numbers none, which has a box for the number.
        right: the share of held-out texts that it is right on, where that is known.
        chance: whether it may be chance.
        own: whether the visitor fitted it.
    """

    head: str
    values: tuple[str, ...]
    right: float | None
    chance: bool
    own: bool


@dataclass(frozen=True)
class Panel:
    """What may be asked of a checkpoint.

    Attributes:
        checkpoint: its name.
        groups: heads, the visitor's own first.
        condition: as `Opened.condition`.
        classes: for the condition "class".
        steps: the checkpoint's own number.
        sampler: the checkpoint's own, by its class.
        problems: sentences on heads that cannot be used.
    """

    checkpoint: str
    groups: tuple[Group, ...]
    condition: str
    classes: tuple[str, ...]
    steps: int
    sampler: str
    problems: tuple[str, ...]


def panel_of(name: str, opened: Opened, own: tuple[Fitted, ...]) -> Panel:
    """What may be asked of a checkpoint on the shelf, by a visitor with heads of their own."""
    mine = heads_of(own, name)
    groups = [_group(head_name, head, head_name in mine) for head_name, head in (mine | opened.heads).items()]
    scheduler = type(opened.pipe.scheduler).__name__.removesuffix("Scheduler")
    return Panel(name, tuple(groups), opened.condition, tuple(opened.pipe.classes),
                 min(MOST_STEPS, opened.pipe.config.num_inference_steps), scheduler, tuple(opened.problems))


def sampler_choices(panel: Panel | None = None) -> list[tuple[str, str]]:
    """Titles and names of samplers, the checkpoint's own first."""
    own = f"the checkpoint's ({panel.sampler})" if panel else "the checkpoint's"
    return [(own, ""), *((name, name) for name in SCHEDULERS)]


def _group(name: str, head: AttributeHead | NumberHead, own: bool) -> Group:
    values = () if isinstance(head, NumberHead) else tuple(map(str, head.classes_.tolist()))
    return Group(name, values, head.report.get("accuracy"), may_be_chance(head.report), own)
