"""The rival of text-conditional models: it learns pairs, can be stopped, and is measured as they are."""

import json
import shutil
from pathlib import Path

import pytest
from latdiff.recipes import train_seq2seq
from safetensors.torch import load_file

from latdiff import training
from latdiff.config import load_recipe
from latdiff.errors import UserError


@pytest.fixture
def recipe(tiny, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny.root, tmp_path / "work")
    monkeypatch.chdir(folder)
    rows = [{"text": f"Short {n}.", "also": [f"Short {n}.", f"Way {n}."], "source": f"It is long {n}."}
            for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ("data.source=pairs.jsonl", "data.condition=text", "data.condition_column=source", "data.valid_size=6")
    return lambda *more: load_recipe("tiny.yaml", [*settings, "train_seq2seq.steps=4", *more])


def test_it_is_measured_on_unseen_sources_with_all_of_their_texts(recipe):
    train_seq2seq.main(recipe("data.text_column=also"), quiet=True)
    document = json.loads(Path("checkpoints/tiny-seq2seq/metrics.json").read_text(encoding="utf-8"))
    (row,) = document["by_source"]
    assert (row["n"], row["references"]) == (3, 2.0)
    assert {"bleu", "sari", "sources_as_they_are", "unchanged"} <= set(row) and len(row["samples"]) == 3
    card = Path("checkpoints/tiny-seq2seq/README.md").read_text(encoding="utf-8")
    assert "AutoModelForSeq2SeqLM.from_pretrained(\"checkpoints/tiny-seq2seq\")" in card
    assert "A backbone, fine-tuned on pairs of source and text by latdiff on pairs.jsonl" in card
    assert "Measured: BLEU" in card and "3 unseen sources" in card


def test_more_steps_learn_the_pairs_better(recipe, monkeypatch):
    losses = []
    monkeypatch.setattr(training, "report", lambda step, loss, *_, **figures: losses.append(loss.item()))
    train_seq2seq.main(recipe("train_seq2seq.steps=60", "train_seq2seq.learning_rate=5e-3"), quiet=True)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_run_that_was_interrupted_is_the_same_in_the_end(recipe, monkeypatch):
    def report(step, *_, **figures):
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    train_seq2seq.main(recipe("name=whole"), quiet=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "report", report)
        train_seq2seq.main(recipe("name=broken"), quiet=True)
    with pytest.raises(UserError, match=r"train_seq2seq\.steps was 4, is 5"):
        train_seq2seq.main(recipe("name=broken", "train_seq2seq.steps=5"), quiet=True)
    train_seq2seq.main(recipe("name=broken"), quiet=True)
    first, second = (load_file(f"checkpoints/{name}-seq2seq/model.safetensors") for name in ("whole", "broken"))
    assert all(first[key].equal(second[key]) for key in first)


def test_what_it_cannot_learn_from_is_reported(recipe, capsys):
    with pytest.raises(UserError, match=r"data\.condition is 'none', must be text or prefix"):
        train_seq2seq.main(recipe("data.condition=none"), quiet=True)
    train_seq2seq.main(recipe(), quiet=True)
    capsys.readouterr()
    train_seq2seq.main(recipe(), quiet=True)
    assert "already holds a finished model" in capsys.readouterr().out
