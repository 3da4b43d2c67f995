"""The measuring of guidance, on a model that has learnt nothing: every section, and figures that are shares."""

import json
import shutil
import sys

from benchmarks import guidance as measure_guidance


def test_every_section_is_measured_and_the_checkpoint_left_alone(tiny, tmp_path, monkeypatch, fingerprint):
    folder = shutil.copytree(tiny.checkpoint, tmp_path / "tiny")
    before, file = fingerprint(folder), tmp_path / "guidance.json"
    monkeypatch.setattr(sys, "argv", ["measure", str(folder), "--json", str(file), "--num-samples", "1"])
    measure_guidance.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert fingerprint(folder) == before
    assert len(document["one head of 400"]) == len(document["one head of 50"]) == 6
    assert [row["mode"] for row in document["modes"]] == ["x0", "denoiser", "monte-carlo", "noisy"] * 2
    assert len(document["three heads"]) == 2 and len(document["editing"]) == 9
    assert [row["target"] for row in document["words"]] == sorted({row["target"] for row in document["words"]})
    judged = ("one head of 400", "modes", "three heads", "editing", "words")
    rows = [row for section in judged for row in document[section]]
    assert all(0 <= row[key] <= 1 for row in rows for key in ("success", "within_two", "validity") if key in row)
