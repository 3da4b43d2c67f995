"""Memory: a row for every stage and training set, and the ratio of each stage's peaks."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import memory
from latdiff.errors import UserError

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")


def test_a_process_is_watched_at_its_peak():
    held = memory.watched([sys.executable, "-c", "import time; x = bytearray(b'x') * 2**26; time.sleep(1); del x"])
    assert 64 < held["anonymous_mb"] < held["peak_mb"] < 200 and held["seconds"] > 0.2


def test_a_command_that_fails_is_named_with_what_it_said():
    with pytest.raises(UserError, match=r"ended with status 3: \['no texts'\]"):
        memory.watched([sys.executable, "-c", "import sys; print('no texts'); sys.exit(3)"])


def test_texts_are_written_a_line_each(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "AT_ONCE", 10)
    memory.write_texts(tmp_path, 25)
    train, valid = ((tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("train", "valid"))
    assert len(train) == 25 and len(set(train)) > 20 and len(valid) == memory.VALID and all(train)


def test_every_stage_with_both_training_sets(tmp_path, monkeypatch):
    asked = []

    def watched(command):
        asked.append(command)
        return {"peak_mb": 100.0 + len(asked), "anonymous_mb": 90.0, "seconds": 1.0}

    monkeypatch.setattr(memory, "watched", watched)
    monkeypatch.setattr(sys, "argv", ["memory", "--json", str(tmp_path / "memory.json"), "--texts", "3", "--times", "2",
                                      "--settings", "dtype=float32"])
    memory.main()
    document = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    assert document["texts"] == [3, 6] and document["baseline_mb"] == 101
    assert [(row["stage"], row["texts"], row["peak_mb"]) for row in document["rows"]] == [
        ("train-ae", 3, 102), ("train-diffusion", 3, 103), ("train-ae", 6, 104), ("train-diffusion", 6, 105)]
    assert document["ratio"] == {"train-ae": 104 / 102, "train-diffusion": 105 / 103}
    assert all("dtype=float32" in command for command in asked[1:])
