"""The judge of well-formed texts: trained a little on a tiny encoder, opened again, started with mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_wellformed
from sentence_models import TEXTS

from latdiff.config import load_recipe
from latdiff.errors import UserError
from latdiff.evaluation.judges import JudgeError, WellFormedJudge

RECIPE = """
name: words
data: {source: words.jsonl, valid_size: 6, max_tokens: 24}
train_wellformed: {encoder: encoder, steps: 30, batch_size: 8, learning_rate: 0.01, judged_source: judged.jsonl}
"""


@pytest.fixture
def recipe(writers, tmp_path, monkeypatch):
    """recipe(*settings), in a working directory with texts, judged texts and a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(writers.encoder, "encoder")
    Path("words.yaml").write_text(RECIPE, encoding="utf-8")
    judged = [{"text": text, "label": "acceptable"} for text in TEXTS[:10]]
    judged += [{"text": " ".join(reversed(text.split())), "label": "unacceptable"} for text in TEXTS[:10]]
    for name, rows in (("words", [{"text": text} for text in TEXTS]), ("judged", judged)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return lambda *settings: load_recipe("words.yaml", settings)


def test_a_judge_is_trained_and_opened(recipe, capsys):
    train_wellformed.main(recipe(), quiet=True)
    folder = Path("checkpoints/words-wellformed")
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["wellformed"]
    assert set(figures) == {"the corpus", "people's judgements", "training_minutes", "dtype"}
    assert 0 <= figures["the corpus"] <= 1
    judge = WellFormedJudge(folder)
    found = judge.probabilities([*TEXTS[:3], TEXTS[0]], batch_size=2)
    assert found.shape == (4,) and ((found > 0) & (found < 1)).all()
    torch.testing.assert_close(found[0], found[3])
    assert judge.share([*TEXTS[:3], " "]) == pytest.approx((found[:3] > 0.5).sum().item() / 4)
    assert judge.share([""]) == 0
    assert judge.accuracy([(TEXTS[0], int(found[0] > 0.5))]) == 1
    before = (folder / "model.safetensors").read_bytes()
    train_wellformed.main(recipe(), quiet=True)
    assert "already holds a finished judge" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == before


def test_half_of_what_it_learns_from_is_spoilt(recipe):
    train, unseen = train_wellformed.examples(recipe("train_wellformed.judged_source="), TEXTS, TEXTS[:6])
    good = {text for text, label in train if label}
    assert good == set(TEXTS) and not good & {text for text, label in train if not label}
    assert set(unseen) == {"the corpus"}


def test_mistakes(recipe, tmp_path):
    with pytest.raises(UserError, match="must be one of acceptable, unacceptable"):
        train_wellformed.main(recipe("train_wellformed.judged_as_good=fine"), quiet=True)
    with pytest.raises(UserError, match="no model 'nothing'"):
        train_wellformed.main(recipe("train_wellformed.encoder=nothing"), quiet=True)
    assert not Path("checkpoints").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(JudgeError, match="the judge of well-formed texts"):
        WellFormedJudge(tmp_path / "empty")
