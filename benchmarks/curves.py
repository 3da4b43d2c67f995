"""Draw how often texts are right against how well they read, a curve or a point for each way to write them.

    python benchmarks/curves.py docs/lab/results/english-sentiment.json control.svg

The figures are those that benchmarks/attributes.py measures, the mean over all targets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.figures import require_matplotlib
from latdiff.evaluation.metrics import mean_of
from latdiff.evaluation.report import older_figures

PANELS = {"perplexity": "perplexity a token, by the judge of fluency", "well_formed": "share of well-formed texts"}
FORMATS = (".svg", ".png", ".pdf")
MARKERS = "os^Dv<>PX*"


def check_picture(path: Path) -> None:
    """Raise UserError, before anything is measured, for a picture that could not be drawn."""
    require_matplotlib()
    if path.suffix not in FORMATS:
        raise UserError(f"--plot is {path}, must end in {', '.join(FORMATS)}")


def points(rows: list[dict], panel: str) -> dict[str, list[dict]]:
    """The rows' means over targets, by method: `x`, `right`, its standard `error`, `times` of a curve's points.

    The curve of steered texts begins at the unsteered ones, that of FUDGE at --fudge-times 0, if that was measured.
    """
    found: dict[str, dict[float, list[dict]]] = {}
    for row in rows:
        found.setdefault(row["who"], {}).setdefault(row.get("times", 0.0), []).append(row)
    if "steered" in found and "unsteered" in found:
        found["steered"] = found["unsteered"] | found["steered"]
    return {who: [_mean(found[who][times], panel, times) for times in sorted(found[who])] for who in found}


def draw(document: dict, path: Path) -> None:
    """Write the picture, a panel for each figure of fluency that all rows have; UserError where there is none."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    rows = document["rows"]
    panels = [key for key in PANELS if rows and all(key in row for row in rows)]
    if not panels:
        raise UserError("there is no figure of fluency to draw control against; measure with --fluency or --wellformed")
    figure = Figure(figsize=(5.5 * len(panels), 4.6), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for (who, own), marker in zip(points(rows, panel).items(), MARKERS * len(rows), strict=False):
            ends = f", {own[0]['times']:g} to {own[-1]['times']:g} times" if len(own) > 1 else ""
            drawn = axes.errorbar([one["x"] for one in own], [one["right"] for one in own],
                                  [one["error"] for one in own], alpha=0.7, marker=marker, capsize=2,
                                  linestyle="-" if len(own) > 1 else "none", label=who + ends)
            axes.scatter([one["x"] for one in own], [one["right"] for one in own],
                         [25 + 25 * rank for rank in range(len(own))], marker=marker, alpha=0.7,
                         color=drawn.lines[0].get_color())
        axes.set(xlabel=PANELS[panel], ylabel="share of texts on target, by the judge", ylim=(0, 1.03))
        axes.grid(alpha=0.3)
    names = " and ".join(rows[0]["target"])
    figure.suptitle(f"Control of {names}, beside what else one could do")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(panels),
                  fontsize="small", title="bars: a standard error; the larger a point, the larger the scale")
    with matplotlib.rc_context({"svg.hashsalt": "latdiff"}):  # the same figures, the same file
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _mean(rows: list[dict], panel: str, times: float) -> dict:
    right, n = mean_of(rows, "right"), sum(row["n"] for row in rows)
    return {"times": times, "x": mean_of(rows, panel), "right": right, "error": (right * (1 - right) / n) ** 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="a file that benchmarks/attributes.py wrote")
    parser.add_argument("plot", type=Path, help="the picture to write, .svg, .png or .pdf")
    options = parser.parse_args()
    check_picture(options.plot)
    document = older_figures(options.figures)
    if not document.get("rows"):
        raise UserError(f"{options.figures} holds no rows; give a file that benchmarks/attributes.py wrote")
    draw(document, options.plot)


if __name__ == "__main__":
    with plain_errors():
        main()
