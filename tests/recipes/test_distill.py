"""The recipe that distills a finished pipeline: fresh, interrupted, sampled from, and started with mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import distill
from runs import Interrupted, assert_equal, weights

from latdiff import cli, open_checkpoint
from latdiff.config import RecipeError, load_recipe
from latdiff.errors import UserError

SETTINGS = ("name=few", "stages=[distill]", "distill.teacher=checkpoints/tiny", "distill.steps=4", "distill.levels=8",
            "distill.batch_size=8", "distill.warmup_steps=1", "distill.save_every=2", "sampling.scheduler=ddim",
            "sampling.steps=2", "dtype=float32")


@pytest.fixture
def few(tiny, checkpoint, tmp_path, monkeypatch):
    """few(*settings): the recipe, in a working directory with the teacher, which has heads."""
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / "tiny")
    monkeypatch.chdir(tmp_path)
    return lambda *settings: load_recipe(str(tiny.recipe), [*SETTINGS, *settings])


def test_a_run_leaves_a_pipeline_of_few_calls_with_the_teachers_codec_and_heads(few):
    distill.main(few(), quiet=True)
    teacher, pipe = open_checkpoint("checkpoints/tiny"), open_checkpoint("checkpoints/few")
    assert type(pipe.scheduler).__name__ == "DDIMScheduler" and pipe.config.num_inference_steps == 2
    assert pipe.codec.digest == teacher.codec.digest
    assert not torch.equal(pipe.denoiser.out.weight, teacher.denoiser.out.weight)
    figures = json.loads(Path("checkpoints/few/metrics.json").read_text(encoding="utf-8"))["training"]
    assert figures["distill_steps"] == 4 and figures["teacher"] == "tiny"
    lines = Path("checkpoints/few/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == 4
    cli.main(["sample", "checkpoints/few", "--num-samples", "1", "--guide", "sentiment=positive", "--quiet"])


def test_a_run_that_was_interrupted_is_the_same_in_the_end(few, interrupt):
    distill.main(few(), quiet=True)
    whole = shutil.move("checkpoints/few", "whole")
    interrupt(distill, 3)
    with pytest.raises(Interrupted):
        distill.main(few(), quiet=True)
    interrupt(distill)
    distill.main(few(), quiet=True)
    assert interrupt.starts == [0, 2]
    assert_equal(weights(Path("checkpoints/few/denoiser")), weights(Path(whole) / "denoiser"))


def test_texts_are_shown_under_way_and_a_finished_run_says_so(few, capsys):
    distill.main(few("distill.sample_every=2"))
    said = capsys.readouterr().out
    assert said.count("  sample  ") == 3 and "tiny in 2 calls -> checkpoints/few" in said
    distill.main(few("distill.sample_every=2"))
    assert "already holds a finished pipeline" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "said"), [
    (["distill.levels=7"], r"distill.levels: 7 is not a multiple of sampling.steps=2; try 8"),
    (["sampling.scheduler=ddpm"], "sampling.scheduler: is ddpm, but what is distilled is sampled with ddim"),
])
def test_settings_that_contradict_are_refused(few, settings, said):
    with pytest.raises(RecipeError, match=said):
        few(*settings)
    with pytest.raises(RecipeError, match=said):
        distill.main(few(*settings, "stages=[train_denoiser]"), quiet=True)


@pytest.mark.parametrize(("settings", "said"), [
    (["distill.teacher=checkpoints/nobody"], "checkpoints/nobody holds no finished pipeline"),
    (["data.train_size=50"], "has learnt other texts than those that its recipe leads to now, .*; set data"),
])
def test_what_cannot_be_distilled_is_refused(few, settings, said):
    with pytest.raises(UserError, match=said):
        distill.main(few(*settings), quiet=True)
    assert not Path("checkpoints/few/denoiser").exists()
