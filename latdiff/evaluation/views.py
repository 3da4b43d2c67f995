"""Pictures of a checkpoint itself: its latents, a text on its way out of noise, its training."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latdiff.errors import as_number, printable
from latdiff.evaluation.figures import COLOURS, MARKERS, drawing, label_of, logarithmic, whole_numbers
from latdiff.evaluation.labelled import LabelledLatents
from latdiff.evaluation.projection import Projection, project
from latdiff.pipelines.trajectory import Step

LETTERS, LINE = 74, 0.19  # of a line of text beside a trajectory, and its height in inches
LARGEST, FURTHEST = float(np.finfo(np.float32).max), 10**12  # loss and step that may be drawn
SHORT = 0.15  # of the longest arrow: one that is shorter cannot be seen, and its label says so
STEEP = 8.0  # a loss that falls by so much is drawn on a logarithmic scale


def plot_latents(found: Sequence[LabelledLatents], path: Path, checkpoint: str) -> None:
    """Draw latents by label, a panel for each head, with the head's directions as arrows.

    Args:
        found: Latents and labels of each head.
        path: The picture to write.
        checkpoint: Whose latents they are.
    """
    sources = dict.fromkeys(one.source for one in found)
    title = f"{checkpoint}: latents by attribute"
    if len(sources) == 1:
        title += f" ({found[0].source})"
    with drawing(path, title, len(found), 2 if len(found) == 4 else 3) as (_, every):
        for one, axes in zip(found, every, strict=True):
            projected = project(one.latents, one.labels, one.head)
            _scatter(axes, projected)
            _arrows(axes, projected)
            said = "" if len(sources) == 1 else f"\n{one.source}"
            axes.set_title(f"head {label_of(one.head.name)}{said}", fontsize="medium")
            (x, y), (of_x, of_y) = projected.components, projected.shares
            axes.set(xlabel=f"principal component {x} ({100 * of_x:.1f} % of the variance)",
                     ylabel=f"principal component {y} ({100 * of_y:.1f} % of the variance)")
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2)


def _coloured(projected: Projection) -> dict[Any, tuple[str, str]]:
    """Colour and marker of the commonest labels, of as many as there are colours."""
    common = [label for label, _ in Counter(projected.labels.tolist()).most_common(len(COLOURS))]
    return dict(zip(sorted(common), zip(COLOURS, MARKERS, strict=True), strict=False))


def _scatter(axes, projected: Projection) -> None:
    looks = _coloured(projected)
    rest = ~np.isin(projected.labels, list(looks))
    if rest.any():
        others = len(set(projected.labels[rest].tolist()))
        axes.scatter(*projected.points[rest].T, s=10, color="0.8", linewidths=0, label=f"{others} other labels")
    arrows = _lengths(projected)
    for label, (colour, marker) in looks.items():
        points = projected.points[projected.labels == label]
        name = label_of(label) if arrows.get(label, 1) >= SHORT else f"{label_of(label)} (off this plane)"
        axes.scatter(*points.T, s=16, color=colour, marker=marker, alpha=0.6, linewidths=0, label=name)


def _lengths(projected: Projection) -> dict[Any, float]:
    """Label -> how long its direction is on the plane, the longest of them 1; 0 for all where none falls on it."""
    found = {label: float(np.linalg.norm(one)) for label, one in projected.directions.items()}
    longest = max(found.values())
    return {label: one / longest if longest else 0.0 for label, one in found.items()}


def _arrows(axes, projected: Projection) -> None:
    """The directions that can be seen, the longest of them as long as most latents are far from the middle."""
    reach = float(np.quantile(np.linalg.norm(projected.points, axis=1), 0.9))
    lengths, looks = _lengths(projected), _coloured(projected)
    longest = max(np.linalg.norm(one) for one in projected.directions.values())
    for label in sorted(lengths, key=lengths.__getitem__, reverse=True):  # so that a long one hides no short one
        towards = projected.directions[label]
        if label in looks and lengths[label] >= SHORT:
            axes.annotate("", xy=towards / longest * reach, xytext=(0, 0), zorder=3, arrowprops={
                "arrowstyle": "-|>", "color": looks[label][0], "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0,
                "path_effects": _outlined()})


def _outlined() -> list:
    """A white edge, by which an arrow is seen among points of its own colour."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=4.5, foreground="white"), Normal()]


def plot_trajectory(steps: Sequence[Step], path: Path, checkpoint: str, total: int,
                    unsteered: Sequence[Step] = ()) -> None:
    """Draw a text on its way out of noise: what heads say of it, how much of it there is, and how it reads.

    Args:
        steps: Of a trajectory, some of them or all.
        path: The picture to write.
        checkpoint: That samples it.
        total: How many steps its sampling takes.
        unsteered: The same steps from the same noise without guides.
    """
    texts = [textwrap.wrap(printable(step.text), LETTERS, max_lines=4, placeholder=" ...") for step in steps]
    height = LINE * (max(map(len, texts)) + 0.6)
    titles = list(steps[0].scores)
    steered = f"steered towards {' and '.join(map(label_of, titles))}" if titles else "unsteered"
    panels = 3 if titles else 2
    widths = {"width_ratios": [1.5] * (panels - 1) + [4.6], "sharey": True}
    size = ((1.8 * (panels - 1) + 6.0) / panels, height * len(steps) + 1.5)
    title = f"{checkpoint}: a text out of noise, {steered}"
    with drawing(path, title, panels, panels, size, **widths) as (figure, axes):
        places = range(len(steps))
        for colour, title in zip(COLOURS, titles, strict=False):
            scores = [step.scores[title] for step in steps]
            axes[0].plot(scores, places, marker="o", color=colour, label=label_of(title))
            if unsteered:
                axes[0].plot([step.scores[title] for step in unsteered], places, linestyle="--", color=colour,
                             label="unsteered")
        if titles:
            axes[0].set(xlabel="probability,\nby the head", xticks=(0, 0.5, 1), xlim=(-0.04, 1.04))
        sizes, signal = [step.norm for step in steps], [step.signal_variance for step in steps]
        axes[-2].plot(sizes, places, marker="o", color="0.3", label="size of estimate")
        axes[-2].plot(signal, places, linestyle=":", color="0.3", label="share of signal")
        axes[-2].set(xlabel="size (real texts: 1),\nor share of signal", xlim=(0, None))
        axes[0].set(yticks=places, ylim=(len(steps) - 0.5, -0.5), ylabel=f"denoising step, of {total}")
        axes[0].set_yticklabels([str(step.number) for step in steps])
        for place, lines in enumerate(texts):
            last = place == len(texts) - 1
            axes[-1].text(0, place, "\n".join(lines), va="center", fontsize=9, weight="bold" if last else "normal")
        axes[-1].set_axis_off()
        for one in axes[:-1]:
            one.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1))
        if unsteered:
            said = f"the same noise, unsteered: {printable(unsteered[-1].text)}"
            figure.supxlabel(textwrap.fill(said, 120, max_lines=4, placeholder=" ..."), fontsize=9, x=0.02, ha="left",
                             color="0.35")


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Stage -> its steps, ascending, and their losses, of the lines of a metrics.jsonl; stages in their order there.

    Lines that no training writes are left out, as of a loss that float32 cannot hold.
    """
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        if abs(loss := as_number(line.get("loss"))) <= LARGEST and 0 < line["step"] < FURTHEST:
            found.setdefault(line["stage"], {})[line["step"]] = loss
    return {stage: (sorted(of), [of[step] for step in sorted(of)]) for stage, of in found.items()}


def smoothed(losses: Sequence[float]) -> list[float]:
    """The running median of a curve over a thirtieth of it, in which a single step's noise does not show."""
    reach = len(losses) // 60
    return [float(np.median(losses[max(0, place - reach): place + reach + 1])) for place in range(len(losses))]


def plot_curves(curves: Mapping[str, tuple[list[int], list[float]]], path: Path, checkpoint: str) -> None:
    """Draw the loss of each stage of a training over its steps, and its running median.

    Args:
        curves: Of `curves_of`.
        path: The picture to write.
        checkpoint: What was trained.
    """
    with drawing(path, f"{checkpoint}: training", len(curves), 3) as (_, every):
        for (stage, (steps, losses)), axes in zip(curves.items(), every, strict=True):
            median = smoothed(losses)
            axes.plot(steps, losses, color=COLOURS[0], alpha=0.3, label="every twentieth step")
            axes.plot(steps, median, color=COLOURS[0], label="running median")
            if min(losses) > 0 and median[0] / min(median) > STEEP:
                logarithmic(axes)
            axes.set_title(label_of(stage), fontsize="medium")
            axes.set(xlabel="step", ylabel="loss", xlim=(0, None))
            whole_numbers(axes.xaxis)
            axes.legend(fontsize="small")
