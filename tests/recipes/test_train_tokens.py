"""The recipe of discrete diffusion: each process fresh, interrupted, saved, sampled from, and started with mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_tokens
from runs import Interrupted, assert_equal, weights

from latdiff import open_checkpoint
from latdiff.config import RecipeError, load_recipe
from latdiff.models.backbone import BackboneError

SMALL = ("data.train_size=60", "data.valid_size=4", "tokens.width=16", "tokens.layers=1", "tokens.heads=2",
         "tokens.sampling_steps=4", "train_tokens.steps=4", "train_tokens.batch_size=4", "train_tokens.warmup_steps=1",
         "train_tokens.save_every=2", "dtype=float32")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """recipe(name, *settings), in a working directory without a run."""
    monkeypatch.chdir(tmp_path)
    return lambda name="masked", *settings: load_recipe(name, [*SMALL, *settings])


@pytest.mark.parametrize("name", ["masked", "block", "uniform"])
def test_a_run_leaves_a_pipeline_that_writes_the_same_texts_of_a_seed(recipe, name):
    train_tokens.main(recipe(name), quiet=True)
    pipe = open_checkpoint(f"checkpoints/{name}")
    assert pipe.config.process == name and pipe.config.length == 72
    texts = [pipe(count, generator=torch.Generator().manual_seed(0)).texts for count in (3, 2)]
    assert texts[0][:2] == texts[1] and all(isinstance(text, str) for text in texts[0])
    figures = json.loads(Path(f"checkpoints/{name}/metrics.json").read_text(encoding="utf-8"))["training"]
    assert figures["tokens_steps"] == 4
    assert f"# {name}" in Path(f"checkpoints/{name}/README.md").read_text(encoding="utf-8")


def test_a_run_that_was_interrupted_is_the_same_in_the_end(recipe, interrupt):
    train_tokens.main(recipe(), quiet=True)
    whole = shutil.move("checkpoints/masked", "whole")
    interrupt(train_tokens, 3)
    with pytest.raises(Interrupted):
        train_tokens.main(recipe(), quiet=True)
    interrupt(train_tokens)
    train_tokens.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 2]
    assert_equal(weights(Path("checkpoints/masked/model")), weights(Path(whole) / "model"))


def test_texts_are_shown_under_way_and_a_finished_run_says_so(recipe, capsys):
    train_tokens.main(recipe("masked", "train_tokens.sample_every=2"))
    said = capsys.readouterr().out
    assert said.count("  sample  ") == 3 and "masked diffusion with " in said
    train_tokens.main(recipe("masked"))
    assert "already holds a finished pipeline" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "said"), [
    (["tokens.process=block", "tokens.block_size=5"],
     "tokens.block_size: 5 does not divide data.max_tokens=72; set one of 1, 2, 3, 4, 6, 8, 9, 12, 18, 24, 36, 72"),
    (["tokens.width=30", "tokens.heads=4"], "tokens.width: 30 is not divisible by twice heads=4; try 32"),
    (["tokens.process=mask"], "tokens.process: is 'mask', must be one of masked, block, uniform; did you mean masked?"),
    (["data.condition=label"], "data.condition: is label, but these models are unconditional"),
])
def test_settings_that_contradict_are_refused(recipe, settings, said):
    with pytest.raises(RecipeError, match=said):
        recipe("masked", *settings)


def test_a_backbone_that_is_missing_is_named(recipe):
    with pytest.raises(BackboneError, match="where no tokenizer could be read"):
        train_tokens.main(recipe("masked", "backbone.path=checkpoints/nowhere"), quiet=True)
