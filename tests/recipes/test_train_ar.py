"""A language model of the recipe's texts: resumed, conditioned on classes, measured."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from latdiff.recipes import train_ar
from runs import Interrupted, assert_equal, weights

from latdiff import cli, training
from latdiff.errors import UserError
from latdiff.evaluation.generators import LanguageModelGenerator
from latdiff.evaluation.judges import FluencyJudge
from latdiff.models.backbone import BackboneError
from latdiff.resuming import ResumeError


def test_a_language_model_keeps_to_the_texts_that_its_checkpoint_learnt_from(recipe):
    shutil.rmtree("checkpoints/tiny-ar")
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        train_ar.main(recipe("seed=1"), quiet=True)


def test_a_language_model_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    shutil.rmtree("checkpoints/tiny-ar")
    interrupt(train_ar, 3)
    with pytest.raises(Interrupted):
        train_ar.main(recipe(), quiet=True)
    interrupt(train_ar)
    train_ar.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 2]
    assert_equal(weights("checkpoints/tiny-ar"), weights(tiny.ar))


def test_a_finished_language_model_says_so(recipe, fingerprint, capsys):
    before = fingerprint("checkpoints")
    train_ar.main(recipe(), quiet=True)
    assert "already holds a finished model" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before


def test_a_finished_language_model_is_not_taken_for_one_of_other_settings(recipe):
    with pytest.raises(ResumeError, match=r"train_ar\.steps was 4, is 5"):
        train_ar.main(recipe("train_ar.steps=5"), quiet=True)


def test_a_language_model_needs_the_backbones_vocabulary(recipe):
    with pytest.raises(BackboneError, match="train the backbone first"):
        train_ar.main(recipe("backbone.path=checkpoints/none", "name=other"), quiet=True)


def test_a_language_model_is_conditioned_on_classes_and_measured_by_class(recipe):
    """Half of the stories come with their tense; the model then writes for both tenses."""
    asked = ("name=by-tense", "data.condition=label", "data.condition_column=tense", "train_ar.condition_dropout=0.5")
    train_ar.main(recipe(*asked), quiet=True)
    generator = LanguageModelGenerator("checkpoints/by-tense-ar")
    assert generator.classes == ["past", "present"]
    mixed = generator.generate(["past", "present", "past"], 3, 0)
    assert len(mixed) == 3 and mixed == generator.generate(["past", "present", "past"], 3, 0)
    with pytest.raises(UserError, match="conditioned on past, present, and cannot be on 'future'"):
        generator.generate(["future"], 1, 0)
    cli.main(["evaluate", "checkpoints/by-tense-ar", "--json", "m.json", "--num-samples", "2", "--seeds", "1"])
    rows = json.loads(Path("m.json").read_text(encoding="utf-8"))["by_class"]
    assert [(row["attribute"], row["target"], row["judge"]) for row in rows] == [
        ("tense", "past", "oracle"), ("tense", "present", "oracle"),
    ]
    flags = ["--json", "m.json", "--num-samples", "2", "--seeds", "1"]
    with pytest.raises(SystemExit, match="is conditioned on the classes past, present"):
        cli.main(["evaluate", "checkpoints/by-tense-ar", "--recipe", "checkpoints/tiny/recipe.yaml", *flags])
    with pytest.raises(SystemExit, match=r"train_ar\.condition_dropout=1"):
        cli.main(["evaluate", "checkpoints/tiny-ar", "--fluency", "checkpoints/by-tense-ar", *flags])
    train_ar.main(recipe(*asked, "name=judge", "train_ar.condition_dropout=1"), quiet=True)
    assert LanguageModelGenerator("checkpoints/judge-ar").classes == []


def test_a_condition_of_a_language_model_is_read_and_not_learnt(tiny):
    judge = FluencyJudge(tiny.ar)
    at = judge.model.device
    ids = torch.tensor([[5, 0, 7, 8, 1], [9, 10, 1, 0, 0]], device=at)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]], device=at)
    both = train_ar.next_token_loss(judge.model, ids, mask, [2, 0])
    inputs = torch.cat([torch.full((2, 1), judge.start, device=at), ids[:, :-1]], dim=1)
    with torch.no_grad():
        nats = -judge.model(inputs).logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    assert both.item() == pytest.approx((nats[0, 2:].sum() + nats[1, :3].sum()).item() / 6, rel=1e-4)


def test_the_card_opens_the_model(recipe):
    train_ar.main(recipe(), quiet=True)
    card = ModelCard.load("checkpoints/tiny-ar/README.md")
    assert card.data.library_name == "transformers" and card.data.tags == ["text-generation"]
    assert card.text.startswith("\n# tiny-ar\n") and "Trained with 4 steps in" in card.text
    assert "A causal language model, trained from scratch by latdiff on storyworld" in card.text
    lines = [line.strip() for line in card.text.splitlines() if line.startswith("    ")]
    exec("\n".join(lines), opened := {})
    assert opened["model"].config.vocab_size == len(opened["tokenizer"])
