"""Pictures of measured rows: that they are drawn, of every panel that the rows have figures for."""

import sys

import pytest

from latdiff.errors import UserError
from latdiff.evaluation.plots import plot_control, plot_denoising, plot_lengths, plot_reconstruction

ROWS = [
    {"attribute": "tone", "mode": mode, "scale": scale, "success": 0.5 + scale / 20, "distinct": 1.0}
    for mode in ("x0", "denoiser")
    for scale in (1.0, 4.0)
]


def width(png):
    return int.from_bytes(png.read_bytes()[16:20], "big")


def test_a_panel_for_every_figure_that_the_rows_have(tmp_path):
    plot_control(ROWS, tmp_path / "one.png", "tiny")
    judged = [row | {"validity": 0.9, "slot_tv_floors": 1.2} for row in ROWS]
    plot_control(judged, tmp_path / "three.png", "tiny")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert width(tmp_path / "three.png") == pytest.approx(3 * width(tmp_path / "one.png"), rel=0.01)


def test_what_is_measured_once_is_drawn(tmp_path):
    plot_lengths({"unseen texts": [0, 2, 5], "ddpm 25 steps": [0.5, 1.5]}, tmp_path / "lengths.png", "tiny")
    measured = {"exact_match": 0.9, "under_noise": {"0.5": 0.8}, "bleu": 95.0, "bleu_under_noise": {"0.5": 90.0}}
    plot_reconstruction(measured, tmp_path / "reconstruction.png", "tiny")
    plot_denoising({"times": [0.1, 0.9], "errors": [0.0, 0.8]}, tmp_path / "denoising.png", "tiny")
    for name in ("lengths.png", "reconstruction.png", "denoising.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_every_picture_says_what_it_shows(tmp_path, monkeypatch):
    drawn, picture = [], tmp_path / "a.png"
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    plot_lengths({"unseen texts": [0, 2, 5], "ddpm 25 steps": [0, 0.5, 1.5]}, picture, "tiny")
    plot_reconstruction({"exact_match": 0.9, "under_noise": {}, "bleu": 95.0, "bleu_under_noise": {}}, picture, "tiny")
    plot_denoising({"times": [0.1, 0.9], "errors": [0.0, 0.8]}, picture, "tiny")
    plot_control([row | {"perplexity": 4.0} for row in ROWS], picture, "tiny")
    for figure in drawn:
        assert figure.get_suptitle().startswith("tiny: ")
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert all(tick == int(tick) for tick in drawn[0].axes[0].get_xticks())
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().texts] == ["unseen texts", "ddpm 25 steps"]
    assert [text.get_text() for text in drawn[3].legends[0].texts] == ["x0, scales 1 to 4", "denoiser, scales 1 to 4"]


def test_a_single_long_text_does_not_press_the_others_together(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    counts = [0, 0, 1000, 3000, 1000, *[0] * 65, 1]
    plot_lengths({"unseen texts": [0, 0, 1, 3, 1], "ddpm 25 steps": counts}, tmp_path / "a.png", "tiny")
    plot_lengths({"unseen texts": [0, 0, 1, 3, 1]}, tmp_path / "a.png", "tiny")
    assert [figure.axes[0].get_xlim() for figure in drawn] == [(1, 5), (1, 5)]
    assert drawn[0].axes[0].get_xlabel() == "words a text (the longest, up to 70, are not shown)"
    assert drawn[1].axes[0].get_xlabel() == "words a text"


def test_what_training_measured_is_drawn_without_bleu(tmp_path):
    plot_reconstruction({"exact_match": 0.9, "under_noise": {"0.5": 0.8}}, tmp_path / "reconstruction.png", "tiny")
    assert (tmp_path / "reconstruction.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="plots need matplotlib; install it with `pip install matplotlib`"):
        plot_control(ROWS, tmp_path / "one.png", "tiny")
