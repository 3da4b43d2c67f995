"""Pictures of a checkpoint itself, and what is computed for them: latents on a plane, trajectories, training curves."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from toy_heads import CODEC, D, L, labelled

from latdiff.evaluation import figures, views
from latdiff.evaluation.labelled import LabelledLatents
from latdiff.evaluation.projection import project
from latdiff.evaluation.views import curves_of, plot_curves, plot_latents, plot_trajectory, smoothed
from latdiff.heads.attribute import AttributeHead
from latdiff.pipelines.trajectory import Step


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written, as they are."""
    found, save = [], "matplotlib.figure.Figure.savefig"
    monkeypatch.setattr(save, lambda figure, *_, **__: (figure.draw_without_rendering(), found.append(figure)))
    monkeypatch.setattr(figures, "written_whole", contextlib.nullcontext)
    return found


@pytest.fixture
def lettered():
    """Latents [90, L, D] of a, b and c, two further along the first dimension each, their labels, and a head."""
    texts, labels = labelled("abc")
    latents = CODEC.encode(texts)
    return latents, np.array(labels), AttributeHead("letter").fit(latents, labels)


def test_the_plane_is_the_one_that_tells_labels_apart(lettered):
    latents, labels, _ = lettered
    wide = torch.cat([latents, torch.zeros(len(latents), L, D)], 1)
    wide[:, L, 0] = 9 * torch.randn(len(latents), generator=torch.Generator().manual_seed(1))  # of no label
    wide[:, L, 1] = 8 * torch.randn(len(latents), generator=torch.Generator().manual_seed(2))
    found = project(wide, labels, AttributeHead("letter").fit(wide, labels))
    assert 3 in found.components and found.components != (1, 2)
    assert found.points.shape == (90, 2) and 0 < sum(found.shares) < 1


def test_labels_separate_along_the_heads_directions(lettered):
    found = project(*lettered)
    middle = {label: found.points[found.labels == label].mean(0) for label in found.directions}
    assert list(found.directions) == ["class a", "class b", "class c"]
    assert found.directions["class c"] @ (middle["class c"] - middle["class a"]) > 1
    assert found.directions["class a"] @ (middle["class c"] - middle["class a"]) < -1
    assert np.linalg.norm(found.directions["class a"]) <= 1 + 1e-6


def test_a_head_of_two_labels_points_both_ways():
    texts, labels = labelled("ab")
    latents = CODEC.encode(texts)
    found = project(latents, np.array(labels), AttributeHead("letter").fit(latents, labels))
    assert np.allclose(found.directions["class a"], -found.directions["class b"])


def test_latents_of_one_label_alone_are_drawn(lettered, tmp_path):
    latents, labels, head = lettered
    rows = labels == "class a"
    plot_latents([LabelledLatents(head, latents[torch.tensor(rows)], labels[rows], "some")], tmp_path / "a.png", "tiny")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_panel_for_each_head_with_an_arrow_and_a_name_for_each_label(lettered, drawn, tmp_path):
    latents, labels, head = lettered
    one = LabelledLatents(head, latents, labels, "texts of a toy")
    plot_latents([one, one], tmp_path / "a.png", "tiny")
    (figure,) = drawn
    assert figure.get_suptitle() == "tiny: latents by attribute (texts of a toy)"
    for axes in figure.axes:
        assert [text.get_text() for text in axes.get_legend().texts] == ["class a", "class b", "class c"]
        assert len(axes.texts) == 3  # an arrow is a text without words
        assert "principal component" in axes.get_xlabel() and "% of the variance" in axes.get_ylabel()


def test_a_label_whose_direction_is_off_the_plane_says_so_and_has_no_arrow(lettered, drawn, tmp_path, monkeypatch):
    latents, labels, head = lettered
    plain = project(latents, labels, head)
    directions = dict(zip("abc", np.array([[1.0, 0.0], [0.5, 0.5], [0.01, 0.1]]), strict=True))
    known = {f"class {letter}": towards for letter, towards in directions.items()}
    monkeypatch.setattr(views, "project", lambda *_: dataclasses.replace(plain, directions=known))
    plot_latents([LabelledLatents(head, latents, labels, "some")], tmp_path / "a.png", "tiny")
    (axes,) = drawn[0].axes
    names = [text.get_text() for text in axes.get_legend().texts]
    assert names == ["class a", "class b", "class c (off this plane)"] and len(axes.texts) == 2


def test_of_many_labels_the_commonest_have_colours(drawn, tmp_path):
    texts, labels = labelled("abcdefghij", each=6)
    latents = CODEC.encode(texts)
    head = AttributeHead("letter").fit(latents, labels)
    plot_latents([LabelledLatents(head, latents, np.array(labels), "some")], tmp_path / "a.png", "tiny")
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().texts]
    assert names == ["2 other labels", *(f"class {letter}" for letter in "abcdefgh")]


STEPS = [Step(number, signal, f"text {number} costs $5 and $6", {"tone=kind": signal}, 1.0)
         for number, signal in ((1, 0.01), (13, 0.5), (25, 0.99))]


def test_a_trajectory_has_a_row_for_every_step(drawn, tmp_path):
    plot_trajectory(STEPS, tmp_path / "a.png", "tiny", 25, STEPS)
    (figure,) = drawn
    probability, size, texts = figure.axes
    assert figure.get_suptitle() == "tiny: a text out of noise, steered towards tone=kind"
    assert [label.get_text() for label in probability.get_yticklabels()] == ["1", "13", "25"]
    assert [text.get_text() for text in texts.texts] == [step.text for step in STEPS]
    assert probability.lines[0].get_xdata().tolist() == size.lines[1].get_xdata().tolist() == [0.01, 0.5, 0.99]
    assert "unsteered: text 25 costs $5" in figure.get_supxlabel()


def test_a_trajectory_without_heads_is_drawn(drawn, tmp_path):
    plot_trajectory([Step(1, 0.1, "", {}, 0.2), Step(2, 0.9, "a\n\tb", {}, 1.0)], tmp_path / "a.png", "tiny", 2)
    assert drawn[0].get_suptitle() == "tiny: a text out of noise, unsteered"
    assert len(drawn[0].axes) == 2


def test_letters_of_other_scripts_are_drawn_without_a_word(tmp_path, recwarn):
    plot_trajectory([Step(1, 0.1, "\u4f60\u597d \x00", {}, 1.0)], tmp_path / "a.png", "ti_{ny", 2)
    assert not list(recwarn) and (tmp_path / "a.png").exists()


def test_curves_are_of_stages_by_step():
    lines = [{"stage": "autoencoder", "step": 21, "loss": 2.0}, {"stage": "autoencoder", "step": 1, "loss": 3.0},
             {"stage": "denoiser", "step": 1, "loss": 1.0}, {"stage": "denoiser", "step": 21, "loss": float("nan")},
             {"stage": "denoiser", "step": 41}]
    assert curves_of(lines) == {"autoencoder": ([1, 21], [3.0, 2.0]), "denoiser": ([1], [1.0])}


def test_a_running_median_leaves_out_what_jumps():
    losses = [1.0] * 60 + [50.0] + [1.0] * 60
    assert smoothed(losses) == [1.0] * 121
    assert smoothed([3.0, 1.0]) == [3.0, 1.0]


def test_a_panel_for_every_stage_with_whole_steps(drawn, tmp_path):
    plot_curves({"autoencoder": ([1, 2, 3], [9.0, 1.0, 0.1]), "denoiser": ([1, 2], [1.0, 0.9])}, tmp_path / "a.png",
                "tiny")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["autoencoder", "denoiser"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    assert {"0.1", "0.2", "0.5", "1", "2", "5"} <= {label.get_text() for label in figure.axes[0].get_yticklabels()}
    for axes in figure.axes:
        assert all(tick == int(tick) for tick in axes.get_xticks())
        assert axes.get_xlabel() == "step" and axes.get_ylabel() == "loss"
