"""What every picture shares: a titled figure, colours that all eyes tell apart, and a file written whole.

matplotlib is loaded on use, and comes with the extra `eval`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from latdiff.errors import UserError, printable, shortened
from latdiff.storage import written_whole

# Okabe and Ito's, brown for their yellow, which no line on white can have; shapes are for who sees no colours
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
LONGEST = 28  # letters of a label in a legend


def require_matplotlib() -> None:
    """Make sure, before anything is measured, that it can be drawn.

    Raises:
        UserError: Where there is no matplotlib.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("plots need matplotlib; install it with `pip install matplotlib`") from None


@contextlib.contextmanager
def drawing(path: Path, title: str, panels: int = 1, columns: int = 4, size: tuple[float, float] = (5.5, 4.2),
            **layout) -> Iterator[tuple]:
    """A figure and its axes, so many beside each other; at the end of the block it is written.

    Texts, names and labels in it may come from anyone and are drawn as they are, never read as formulas.

    Args:
        path: of the picture.
        title: what it shows, and of which checkpoint.
        panels: how many axes.
        columns: how many of them stand in a row, at most.
        size: of each, in inches.
        **layout: what else `Figure.subplots` takes.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    across = min(panels, columns)
    down = -(-panels // across)
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False, **layout).flat)
        for empty in axes[panels:]:
            empty.remove()
        figure.suptitle(title)
        for one in axes[:panels]:
            one.grid(alpha=0.3)
            one.spines[["top", "right"]].set_visible(False)
        yield figure, axes[:panels]
        with written_whole(path) as beside:
            figure.savefig(beside, dpi=120, format=path.suffix[1:] or "png")


def whole_numbers(axis) -> None:
    """Let an axis have ticks at whole numbers only, for what counts things."""
    axis.get_major_locator().set_params(integer=True)


def logarithmic(axes) -> None:
    """A logarithmic y axis with its numbers written out, for powers are formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def label_of(value: object) -> str:
    """A label as a legend shows it."""
    return shortened(printable(value), LONGEST)
