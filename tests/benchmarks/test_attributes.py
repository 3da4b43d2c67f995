"""The table of heads against their rivals: every row is there, and figures of texts whose figures are known."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import attributes as measure_attributes
from latdiff import storyworld
from latdiff.errors import UserError


@pytest.fixture
def labelled(tmp_path):
    """A file of stories that no head has seen, for each of two attributes."""

    def write(attribute):
        rows = [{"text": story.text, "label": story.attributes[attribute]} for story in storyworld.sample(120, 99)]
        file = tmp_path / f"{attribute}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return write


def run(monkeypatch, folder, file, *flags):
    monkeypatch.setattr(sys, "argv", ["measure", str(folder), "--json", str(file), "--num-samples", "4", "--times", "1",
                                      "--best-of", "2", "--best", "3", *flags])
    measure_attributes.main()
    return json.loads(file.read_text(encoding="utf-8"))


def test_one_head_beside_its_rivals(checkpoint, labelled, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_attributes, "prompted", lambda path, prompt, n, seed, top_p: ["I was glad."] * n)
    monkeypatch.setattr(measure_attributes, "WellFormedJudge", lambda path: SimpleNamespace(share=lambda texts: 0.5))
    flags = ["--head", "sentiment", "--judge", labelled("sentiment"), "--fluency", str(tiny.ar), "--decode", "ld4lg",
             "--wellformed", "judge"]
    document = run(monkeypatch, checkpoint, tmp_path / "m.json", *flags, "--prompt", "positive=Be glad.")
    rows = document["rows"]
    each = ["real texts", "unsteered", "steered", "best of 2"]
    assert [row["who"] for row in rows] == [*each, *each, "prompted"]
    assert [row["target"]["sentiment"] for row in rows] == ["negative"] * 4 + ["positive"] * 5
    assert all(0 <= row["right"] <= 1 and row["perplexity"] > 1 and row["seconds_a_text"] >= 0 for row in rows)
    assert document["decoding"] == "ld4lg" and document["wellformed"] == "judge"
    assert {row["well_formed"] for row in rows} == {0.5}
    assert rows[0]["right"] > 0.5 and rows[0]["distinct"] == 1
    assert rows[-1]["distinct"] == 0.25 and rows[-1]["self_bleu"] == pytest.approx(100)
    assert [row["n"] for row in rows] == [4, 4, 4, 3] * 2 + [4]
    assert "held out" in document["judges"]["sentiment"]


def test_two_heads_are_steered_to_every_pair(checkpoint, labelled, tmp_path, monkeypatch):
    heads = ["--head", "sentiment", "--judge", labelled("sentiment"), "--head", "tense", "--judge", labelled("tense")]
    rows = run(monkeypatch, checkpoint, tmp_path / "m.json", *heads)["rows"]
    assert [tuple(row["target"].values()) for row in rows if row["who"] == "steered"] == [
        ("negative", "past"), ("negative", "present"), ("positive", "past"), ("positive", "present")]
    for row in rows:
        assert set(row["right_of_each"]) == {"sentiment", "tense"}
        assert row["right"] <= min(row["right_of_each"].values())


def test_what_cannot_be_measured(checkpoint, labelled, tiny, tmp_path, monkeypatch):
    file = tmp_path / "m.json"
    with pytest.raises(UserError, match="1 --judge for 2 --head"):
        run(monkeypatch, checkpoint, file, "--head", "sentiment", "--head", "tense", "--judge", labelled("tense"))
    with pytest.raises(UserError, match="has no chat template"):
        run(monkeypatch, checkpoint, file, "--head", "sentiment", "--judge", labelled("sentiment"),
            "--prompt", "negative=Be sad.", "--writer", str(tiny.ar))
