"""The picture of control against fluency: a curve where there are scales, a point elsewhere."""

import json
import sys

import pytest

from benchmarks import curves
from latdiff.errors import UserError


def row(who, label, right, perplexity, **more):
    return {"who": who, "target": {"tone": label}, "right": right, "perplexity": perplexity, "n": 10} | more


ROWS = [made for label in ("good", "bad") for made in (
    row("real texts", label, 0.9, 50.0), row("unsteered", label, 0.5, 60.0), row("steered", label, 0.9, 80.0, times=2),
    row("steered", label, 0.7 if label == "good" else 0.8, 70.0, times=1), row("best of 8", label, 0.9, 60.0),
)]


def test_a_point_is_the_mean_over_targets():
    found = curves.points(ROWS, "perplexity")
    assert list(found) == ["real texts", "unsteered", "steered", "best of 8"]
    assert [(one["times"], one["x"]) for one in found["steered"]] == [(0, 60), (1, 70), (2, 80)]
    assert [one["right"] for one in found["steered"]] == pytest.approx([0.5, 0.75, 0.9])
    assert found["steered"][1]["error"] == pytest.approx((0.75 * 0.25 / 20) ** 0.5)
    assert [len(found[who]) for who in ("real texts", "best of 8")] == [1, 1]


def test_the_same_figures_are_the_same_picture(tmp_path, monkeypatch):
    file = tmp_path / "m.json"
    file.write_text(json.dumps({"rows": ROWS}), encoding="utf-8")
    for name in ("one.svg", "two.svg"):
        monkeypatch.setattr(sys, "argv", ["curves", str(file), str(tmp_path / name)])
        curves.main()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    curves.draw({"rows": [one | {"well_formed": 0.5} for one in ROWS]}, tmp_path / "three.png")
    one, two = (int.from_bytes((tmp_path / name).read_bytes()[16:20], "big") for name in ("three.png", "three.png"))
    assert one == two == 2 * 660


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no figure of fluency"):
        curves.draw({"rows": [{"who": "x", "target": {}}]}, tmp_path / "a.svg")
    monkeypatch.setattr(sys, "argv", ["curves", str(tmp_path / "none.json"), str(tmp_path / "a.svg")])
    with pytest.raises(UserError, match="holds no rows"):
        curves.main()
