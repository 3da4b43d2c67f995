"""Pictures of measured rows; every one is titled with the checkpoint, or file of texts, that was measured."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from latdiff.evaluation.figures import drawing, whole_numbers

SHOWN = 0.999  # of the texts of each set: a single long one would press all others together
PANELS = {
    "validity": "share of valid texts, by the oracle",
    "slot_tv_floors": "slot total variation / its floor (1: as varied as the corpus)",
    "perplexity": "perplexity a token, by the judge of fluency",
    "distinct": "share of distinct texts",
}


def plot_lengths(histograms: dict[str, list[int]], path: Path, checkpoint: str) -> None:
    """Draw the share of texts of each length, a line for each set of texts.

    Args:
        histograms: Texts of 0, 1, 2, ... words, by the name of their set. The first set is drawn as an area.
        path: The picture to write.
        checkpoint: What was measured.
    """
    with drawing(path, f"{checkpoint}: how long texts are") as (_, (axes,)):
        for index, (name, counts) in enumerate(histograms.items()):
            shares = [count / sum(counts) for count in counts]
            if index == 0:
                axes.fill_between(range(len(shares)), shares, step="mid", color="0.8", label=name)
            else:
                style = ("-", "--", ":")[index // 10 % 3]
                axes.step(range(len(shares)), shares, where="mid", label=name, linestyle=style)
        shortest = min(next((n for n, count in enumerate(counts) if count), 0) for counts in histograms.values())
        longest, shown = (max(_longest(counts, share) for counts in histograms.values()) for share in (1, SHOWN))
        beyond = f" (the longest, up to {longest}, are not shown)" if longest > shown else ""
        axes.set(xlabel=f"words a text{beyond}", ylabel="share of texts", ylim=(0, None),
                 xlim=(max(0, shortest - 1), shown + 1))
        whole_numbers(axes.xaxis)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2)


def _longest(counts: list[int], share: float) -> int:
    """How many words the longest text has, of so large a share of the texts, the shortest of them."""
    reached = list(accumulate(counts))
    return next((n for n, count in enumerate(reached) if count >= share * reached[-1]), 0)


def plot_reconstruction(measured: dict, path: Path, checkpoint: str) -> None:
    """Draw how well unseen texts are reconstructed as their latents are noised.

    Args:
        measured: Figures of `rows.reconstruction`; BLEU where they have it.
        path: The picture to write.
        checkpoint: What was measured.
    """
    with drawing(path, f"{checkpoint}: reconstruction of unseen texts from noised latents") as (_, (axes,)):
        exact = {0.0: measured["exact_match"]} | {float(sd): share for sd, share in measured["under_noise"].items()}
        axes.plot(list(exact), list(exact.values()), marker="o", label="exact match, share of texts")
        if "bleu" in measured:
            bleu = {0.0: measured["bleu"]} | {float(sd): score for sd, score in measured["bleu_under_noise"].items()}
            axes.plot(list(bleu), [score / 100 for score in bleu.values()], marker="s", label="BLEU / 100")
        axes.set(xlabel="noise on the latents, in their standard deviations", ylabel="agreement with the text",
                 ylim=(0, 1.03))
        axes.legend()


def plot_denoising(measured: dict, path: Path, checkpoint: str) -> None:
    """Draw the denoiser's error over the times of the noise schedule: where it falls, a text's content is decided.

    Args:
        measured: Figures of `rows.denoising`.
        path: The picture to write.
        checkpoint: What was measured.
    """
    with drawing(path, f"{checkpoint}: error of the denoiser on unseen texts") as (_, (axes,)):
        axes.plot(measured["times"], measured["errors"], marker="o")
        axes.set(xlabel="time of the noise schedule (1: noise alone)", xlim=(0, 1), ylim=(0, None),
                 ylabel="mean squared error (1: predicting the mean)")


def plot_control(rows: list[dict], path: Path, checkpoint: str) -> None:
    """Draw how often a head's target is met against what it costs, a panel for every figure that the rows have.

    Args:
        rows: Figures of one head by mode and scale: a line for each mode, a point for each scale.
        path: The picture to write.
        checkpoint: What was measured.
    """
    keys, modes = [key for key in PANELS if key in rows[0]], dict.fromkeys(row["mode"] for row in rows)
    title = f"{checkpoint}: control by the head {rows[0]['attribute']}"
    with drawing(path, title, len(keys)) as (figure, panels):
        for key, axes in zip(keys, panels, strict=True):
            for mode in modes:
                own = sorted((row for row in rows if row["mode"] == mode), key=lambda row: row["scale"])
                xs, ys = [row[key] for row in own], [row["success"] for row in own]
                scales = f"{own[0]['scale']:.3g} to {own[-1]['scale']:.3g}"
                (line,) = axes.plot(xs, ys, alpha=0.7, label=f"{mode}, scales {scales}")
                axes.scatter(xs, ys, [25 + 25 * rank for rank in range(len(own))], color=line.get_color(), alpha=0.7)
            axes.set(xlabel=PANELS[key], ylabel="share of texts on target, by the judge")
            axes.locator_params(axis="x", nbins=6)
        figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=2 * len(panels), fontsize="small",
                      title="mode of guidance; the larger a point, the larger the scale")
