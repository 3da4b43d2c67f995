"""The measuring of scorers: stories spoilt on purpose, whose validity and coverage are known."""

import json
import random
import sys

import pytest

from benchmarks import scorers as measure_scorers
from latdiff import storyworld
from latdiff.errors import UserError


@pytest.mark.parametrize(("name", "spoil"), measure_scorers.SPOILS.items())
def test_what_is_spoilt_is_what_the_oracle_sees(name, spoil):
    stories, rng = storyworld.sample(100, 5), random.Random(0)
    texts = [spoil(stories, i, rng) for i in range(100)]
    read, real = storyworld.compare(texts).as_dict(), storyworld.compare([s.text for s in stories]).as_dict()
    if name in ("one topic", "20 stories over and over"):
        assert read["valid"] == 1
        assert read["slot_tv"]["mean"] > 1.3 * real["slot_tv"]["mean"]
    else:
        assert read["valid"] < 0.05
    if name == "feeling against outcome":
        assert set(read["errors"]) == {"sentiment"}


def measure(tmp_path, tiny, monkeypatch, *more):
    file = tmp_path / "scorers.json"
    monkeypatch.setattr(measure_scorers, "SHARES", (0.1, 1.0))
    words = ["--mauve", tiny.ar, "--fluency", tiny.ar, "--json", file, "--num-samples", 40, "--seeds", 2, *more]
    monkeypatch.setattr(sys, "argv", ["measure", *map(str, words)])
    measure_scorers.main()
    return json.loads(file.read_text(encoding="utf-8"))


def test_every_share_of_every_kind_is_a_row_and_ranks_are_compared(tmp_path, tiny, monkeypatch):
    models = tmp_path / "models.json"
    figures = {"n": 40, "slot_tv": {"mean": 0.1, "floor": 0.1}, "perplexity": 9.0, "perplexity_of_texts": 9.0}
    rows = [figures | {"scheduler": "ddpm", "steps": k, "validity": k / 10, "mauve": k / 20} for k in (1, 5, 9)]
    rows[2] |= {"perplexity": 4.0, "perplexity_of_texts": 5.0, "slot_tv": {"mean": 0.3, "floor": 0.1}}
    ours = [row | {"round_trip": 1 - row["validity"], "keep": 0.9} for row in rows]
    document = {"checkpoint": "ours", "scorers": {"mauve": str(tiny.ar), "fluency": str(tiny.ar)}}
    models.write_text(json.dumps(document | {"unconditional": [*rows, *ours]}), encoding="utf-8")
    found = measure(tmp_path, tiny, monkeypatch, "--documents", models)
    assert [(row["spoilt"], row["share"]) for row in found["rows"]] == [
        ("nothing", 0), *((name, share) for name in measure_scorers.SPOILS for share in (0.1, 1))
    ]
    real, whole = found["rows"][0], {row["spoilt"]: row for row in found["rows"] if row["share"] == 1}
    assert real["validity"] == 1 and whole["word left out"]["validity"] < 0.1
    assert all(row["perplexity"] > 1 and 0 <= row["mauve"] <= 1 for row in found["rows"])
    assert whole["20 stories over and over"]["mauve"] < real["mauve"]
    assert all(-1 <= rank <= 1 for of_scorer in found["agreement"].values() for rank in of_scorer.values())
    of_models = found["agreement_of_models"]
    assert of_models["mauve"]["validity"] == pytest.approx(1)
    assert of_models["perplexity"]["validity"] > 0 > of_models["perplexity"]["coverage"]
    assert of_models["round_trip"]["validity"] == pytest.approx(1)
    assert "round_trip" not in found["agreement"]  # spoilt stories have no latents
    assert [row["steps"] for row in found["models"]] == [1, 5, 9] * 2
    assert [row.get("keep") for row in found["models"]] == [None] * 3 + [0.9] * 3


def test_documents_of_other_scorers_are_refused(tmp_path, tiny, monkeypatch):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"checkpoint": "a", "scorers": {}, "unconditional": [{"validity": 1}]}))
    with pytest.raises(UserError, match="same scorers"):
        measure(tmp_path, tiny, monkeypatch, "--documents", other)
