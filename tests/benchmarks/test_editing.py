"""The measuring of editing: rows whose figures are known, on a model that has learnt nothing."""

import json
import shutil
import sys

import pytest

from benchmarks import editing as measure_editing
from latdiff import cli, storyworld
from latdiff.errors import UserError


@pytest.fixture
def files(tmp_path, tiny):
    """A checkpoint with the head `sentiment`, a rewrite for each of eight stories, and stories for the judge."""
    folder = shutil.copytree(tiny.checkpoint, tmp_path / "tiny")
    fit = ["--quiet", "--data", "storyworld", "--label-column", "sentiment", "--name", "sentiment", "--limit", "40"]
    cli.main(["fit-head", str(folder), *fit])
    rows = []
    for label, other in (("positive", "negative"), ("negative", "positive")):
        pairs = zip(storyworld.sample(4, 3, sentiment=other), storyworld.sample(4, 5, sentiment=label), strict=True)
        rows += [{"source": source.text, "text": text.text, "label": label} for source, text in pairs]
    more = [{"text": story.text, "label": story.attributes["sentiment"]} for story in storyworld.sample(300, 9)]
    for name, content in (("rewrites", rows), ("more", more)):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder, tmp_path / "rewrites.jsonl", tmp_path / "more.jsonl"


def test_every_row_is_measured_beside_sources_and_people(files, tiny, tmp_path, monkeypatch, fingerprint):
    (folder, rewrites, more), file = files, tmp_path / "editing.json"
    before = fingerprint(folder)
    monkeypatch.setattr(measure_editing, "STRENGTHS", (0.5,))
    monkeypatch.setattr(sys, "argv", ["measure", str(folder), "--head", "sentiment", "--data", str(rewrites), "--judge",
                                      str(more), "--fluency", str(tiny.ar), "--json", str(file)])
    measure_editing.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert fingerprint(folder) == before
    rows = document["rows"]
    assert [row["who"] for row in rows] == [
        "the sources as they are", "people", "the autoencoder alone", *["latdiff"] * 6,
    ]
    sources, people = rows[:2]
    assert sources["success"] < 0.5 < people["success"]
    assert sources["bleu_of_sources"] == people["bleu"] == pytest.approx(100)
    assert sources["unchanged"] == 1 and people["unchanged"] == 0
    assert all(0 <= row["success"] <= 1 and row["perplexity"] > 1 for row in rows)
    assert document["n"] == 8


def test_rows_that_lack_a_column_are_refused(files):
    rewrites = files[1]
    rows = [json.loads(line) for line in rewrites.read_text(encoding="utf-8").splitlines()]
    del rows[3]["label"]
    rewrites.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match="needs source, text and label"):
        measure_editing.load_rewrites(str(rewrites), lambda texts: [True] * len(texts))
