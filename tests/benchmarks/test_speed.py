"""Speed: a row for every batch size and head, whose parts add up."""

import json
import sys

import pytest

from benchmarks import speed as measure_speed
from latdiff.errors import UserError


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    def run(*flags):
        words = [str(checkpoint), "--json", str(tmp_path / "speed.json"), "--repetitions", "1", *flags]
        monkeypatch.setattr(sys, "argv", ["measure_speed", *words])
        measure_speed.main()
        return json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))

    return run


def test_every_batch_size_without_guides_and_with_each_head(run):
    document = run("--batch-sizes", "1", "3")
    assert document["steps"] == 3
    assert [(row["batch_size"], row["steered_by"]) for row in document["rows"]] == [
        (size, name) for size in (1, 3) for name in ("nothing", "sentiment", "tense")]
    for row in document["rows"]:
        assert 0 < row["decoding_seconds"] < row["seconds"]
        assert row["texts_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])


@pytest.mark.parametrize(("flag", "said"), [("--batch-sizes", "--batch-sizes has 0"), ("--repetitions", "has 0")])
def test_nothing_to_measure_is_refused(run, flag, said):
    with pytest.raises(UserError, match=said):
        run(flag, "0")
