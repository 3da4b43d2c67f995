"""Pictures of measured rows. matplotlib is loaded on use, and comes with the extra `eval`."""

from __future__ import annotations

from pathlib import Path

from latdiff.errors import UserError

PANELS = {
    "validity": "valid, by the oracle",
    "slot_tv_floors": "slot total variation / its floor (1 = as varied as the corpus)",
    "perplexity": "perplexity a token, by the judge of fluency",
    "distinct": "distinct texts",
}


def require_matplotlib() -> None:
    """Raise UserError where there is none: better before measuring than after."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError('plots need matplotlib; install it with pip install "latdiff[eval]"') from None


def plot_lengths(histograms: dict[str, list[int]], path: Path) -> None:
    """Share of texts by their words, a line for every crowd of texts: unseen ones, and those of each sampler."""
    figure, (axes,) = _figure(1)
    for name, counts in histograms.items():
        axes.plot([count / sum(counts) for count in counts], label=name, drawstyle="steps-mid")
    axes.set(xlabel="words", ylabel="share of texts")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_reconstruction(measured: dict, path: Path) -> None:
    """What comes back of unseen texts as their latents are noised: exact match, and BLEU."""
    figure, (axes,) = _figure(1)
    exact = {0.0: measured["exact_match"]} | {float(sd): share for sd, share in measured["under_noise"].items()}
    axes.plot(list(exact), list(exact.values()), marker="o", label="exact match")
    bleu = {0.0: measured["bleu"]} | {float(sd): score for sd, score in measured["bleu_under_noise"].items()}
    axes.plot(list(bleu), [score / 100 for score in bleu.values()], marker="s", label="BLEU / 100")
    axes.set(xlabel="noise on the latents, standard deviations", ylim=(0, 1.02))
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_denoising(measured: dict, path: Path) -> None:
    """The denoiser's error over times of the noise schedule: where it falls is decided what a text says."""
    figure, (axes,) = _figure(1)
    axes.plot(measured["times"], measured["errors"], marker="o")
    axes.set(xlabel="time of the noise schedule, 1 is noise alone", ylabel="error of the estimate, 1 knows nothing",
             xlim=(0, 1), ylim=(0, None))
    figure.savefig(path, dpi=120)


def plot_control(rows: list[dict], path: Path) -> None:
    """Success against validity, coverage or what else the rows hold: a line for every mode, a point for every scale."""
    keys = [key for key in PANELS if key in rows[0]]
    figure, panels = _figure(len(keys))
    for key, axes in zip(keys, panels, strict=True):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            own = [row for row in rows if row["mode"] == mode]
            axes.plot([row[key] for row in own], [row["success"] for row in own], marker="o", label=mode)
            for row in own:
                axes.annotate(f"{row['scale']:g}", (row[key], row["success"]), fontsize=7, xytext=(3, 3),
                              textcoords="offset points")
        axes.set(xlabel=PANELS[key], ylabel=f"{rows[0]['attribute']}: right, by the judge")
    panels[0].legend(title="mode; points are scales")
    figure.savefig(path, dpi=120)


def _figure(panels: int) -> tuple:
    """A figure, and so many axes side by side in it."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4.2), layout="constrained")
    row = figure.subplots(1, panels, squeeze=False)[0]
    for axes in row:
        axes.grid(alpha=0.3)
    return figure, list(row)
