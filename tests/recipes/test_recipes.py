"""The training recipes for a few steps: fresh, interrupted, finished, and started with mistakes."""

import importlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from latdiff.recipes import pretrain_backbone, train_ar, train_autoencoder, train_denoiser
from runs import Interrupted, assert_equal, undo_denoiser, weights

from latdiff import storyworld, training
from latdiff.codecs.files import load_codec
from latdiff.config import STAGES, RecipeError, load_recipe
from latdiff.diffusion.sampling import SchedulerError
from latdiff.errors import UserError
from latdiff.pipelines.files import open_checkpoint
from latdiff.progress import begin_wandb
from latdiff.resuming import ResumeError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    assert load_recipe(str(path)).name == path.stem


# A run that was interrupted


@pytest.mark.parametrize("stopped_before", [1, 3, 5])
def test_an_autoencoder_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, stopped_before):
    folder = recipe().folder
    shutil.rmtree(folder)
    interrupt(train_autoencoder, stopped_before)
    with pytest.raises(Interrupted):
        train_autoencoder.main(recipe(), quiet=True)
    assert not (folder / "autoencoder").exists()
    interrupt(train_autoencoder)
    train_autoencoder.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3 if stopped_before >= 3 else 0]
    assert_equal(weights(folder / "autoencoder"), weights(tiny.checkpoint / "autoencoder"))
    assert [file.name for file in (folder / "train").iterdir()] == ["latents"]  # nothing to resume


@pytest.mark.parametrize("stopped_before", [2, 4])
def test_a_denoiser_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, stopped_before):
    folder = recipe().folder
    undo_denoiser(folder)
    interrupt(train_denoiser, stopped_before)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipe(), quiet=True)
    assert not (folder / "model_index.json").exists()
    interrupt(train_denoiser)
    train_denoiser.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3 if stopped_before >= 3 else 0]
    assert_equal(weights(folder / "denoiser"), weights(tiny.checkpoint / "denoiser"))
    samples = [(place / "samples.txt").read_text(encoding="utf-8") for place in (folder, tiny.checkpoint)]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("stage, part, marker", [
    (train_autoencoder, "autoencoder", "autoencoder/config.json"), (train_denoiser, "denoiser", "model_index.json"),
])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_killed_while_it_saves_goes_on_and_ends_the_same(tiny, recipe, monkeypatch, stage, part, marker, first):
    folder, replace = recipe().folder, os.replace
    shutil.rmtree(folder) if stage is train_autoencoder else undo_denoiser(folder)

    def kill(source, target):
        if ".unfinished" in Path(source).parts and (first or Path(target) == folder / marker):
            raise Interrupted
        replace(source, target)

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Interrupted):
        stage.main(recipe(), quiet=True)
    assert not (folder / marker).exists()
    monkeypatch.setattr(os, "replace", replace)
    stage.main(recipe(), quiet=True)
    assert_equal(weights(folder / part), weights(tiny.checkpoint / part))
    assert (folder / marker).exists() and not (folder / ".unfinished").exists()


def test_the_averaged_weights_are_the_ones_saved(tiny, recipe):
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe("train_denoiser.ema_decay=0"), quiet=True)  # the last weights as they are
    last, averaged = weights(recipe().folder / "denoiser"), weights(tiny.checkpoint / "denoiser")
    assert any(not torch.equal(last[name], averaged[name]) for name in last)


def test_the_denoiser_makes_up_for_a_lost_latent_cache(tiny, recipe, capsys):
    folder = recipe().folder
    undo_denoiser(folder)
    shutil.rmtree(folder / "train" / "latents")
    train_denoiser.main(recipe())
    assert "encoding 200 texts" in capsys.readouterr().out
    found, expected = (weights(place / "train" / "latents")["latents"] for place in (folder, tiny.checkpoint))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_looking_at_samples_changes_nothing_in_what_is_trained(tiny, recipe):
    folder = recipe().folder
    shutil.rmtree(folder)
    looks = (
        "train_autoencoder.sample_every=2",
        "train_denoiser.sample_every=2",
        "train_denoiser.save_every=100",
    )
    train_autoencoder.main(recipe(*looks))
    train_denoiser.main(recipe(*looks))
    for part in ("autoencoder", "denoiser"):
        assert_equal(weights(folder / part), weights(tiny.checkpoint / part))


@pytest.mark.parametrize("stage", [train_autoencoder, train_denoiser], ids=lambda stage: stage.__name__)
def test_a_damaged_resume_state_is_met_with_a_way_out(recipe, interrupt, stage):
    folder = recipe().folder
    shutil.rmtree(folder) if stage is train_autoencoder else undo_denoiser(folder)
    interrupt(stage, 4)
    with pytest.raises(Interrupted):
        stage.main(recipe(), quiet=True)
    (state,) = (file for file in (folder / "train").iterdir() if file.name != "latents")
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(ResumeError, match="Delete it to start afresh"):
        stage.main(recipe(), quiet=True)
    state.unlink()
    interrupt(stage)
    stage.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 0]


def test_an_autoencoder_goes_on_with_its_own_settings_only(recipe, interrupt):
    shutil.rmtree(recipe().folder)
    interrupt(train_autoencoder, 4)
    with pytest.raises(Interrupted):
        train_autoencoder.main(recipe(), quiet=True)
    with pytest.raises(ResumeError, match=r"train_autoencoder\.steps was 6, is 8.*Set name="):
        train_autoencoder.main(recipe("train_autoencoder.steps=8"), quiet=True)


def test_a_denoiser_goes_on_with_its_own_settings_only(recipe, interrupt):
    undo_denoiser(recipe().folder)
    interrupt(train_denoiser, 4)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipe("train_denoiser.learning_rate=0.001"), quiet=True)
    with pytest.raises(ResumeError, match=r"train_denoiser\.learning_rate was 0\.001, is 0\.002"):
        train_denoiser.main(recipe("train_denoiser.learning_rate=0.002"), quiet=True)


def test_a_denoiser_not_begun_may_have_any_settings(recipe):
    undo_denoiser(recipe().folder)
    train_denoiser.main(
        recipe("denoiser.depth=2", "diffusion.prediction=x0", "train_denoiser.steps=2"), quiet=True
    )
    config = open_checkpoint(recipe().folder).denoiser.config
    assert (config.depth, config.prediction) == (2, "x0")


def test_a_vocabulary_that_is_there_is_kept_by_a_backbone_that_was_interrupted(tiny, recipe, interrupt):
    folder = Path(recipe().backbone.path)
    shutil.rmtree(folder)
    interrupt(pretrain_backbone, 1)
    with pytest.raises(Interrupted):
        pretrain_backbone.main(recipe(), quiet=True)
    assert (folder / "tokenizer.json").exists()
    interrupt(pretrain_backbone)
    pretrain_backbone.main(recipe(), quiet=True)
    assert_equal(weights(folder), weights(tiny.root / folder))


# A run that is finished


def test_a_finished_run_says_so_and_does_nothing(recipe, fingerprint, capsys):
    before = fingerprint("checkpoints")
    train_autoencoder.main(recipe(), quiet=True)
    assert "already trained" in capsys.readouterr().out
    train_denoiser.main(recipe(), quiet=True)
    assert "already holds a finished pipeline" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before


@pytest.mark.parametrize("setting", [
    "train_denoiser.steps=9", "denoiser.width=32", "diffusion.schedule=tan-5", "sampling.steps=2",
])
def test_a_finished_run_is_not_taken_for_one_of_other_settings(recipe, fingerprint, setting):
    before, key = fingerprint("checkpoints"), setting.partition("=")[0]
    with pytest.raises(ResumeError, match=rf"{key} was .*, is .*Set name= to train beside it"):
        train_denoiser.main(recipe(setting), quiet=True)
    assert fingerprint("checkpoints") == before


def test_texts_that_have_changed_are_not_called_unseen(recipe, latdiff, monkeypatch, fingerprint):
    """A file that has grown may hold out texts that the checkpoint has learnt."""
    sample, before = storyworld.sample, fingerprint("checkpoints")
    monkeypatch.setattr(storyworld, "sample", lambda n, seed, **fixed: sample(n, seed + 1, **fixed))
    flags = ("--num-samples", 2, "--seeds", 1, "--samplers", "ddim:2", "--json", "m.json")
    with pytest.raises(SystemExit, match="has learnt other texts than those that its recipe leads to now"):
        latdiff("evaluate", *flags, folder="checkpoints/tiny")
    shutil.rmtree("checkpoints/tiny-ar", ignore_errors=True)
    with pytest.raises(UserError, match=r"has learnt other texts .* train the checkpoint anew"):
        train_ar.main(recipe(), quiet=True)
    assert {name for name in fingerprint("checkpoints")} <= {name for name in before}
    latdiff("evaluate", *flags, "--data", "storyworld", folder="checkpoints/tiny")


def test_the_lock_of_a_backbone_that_was_killed_at_its_end_is_dropped(recipe, fingerprint):
    before = fingerprint("checkpoints")
    Path("checkpoints/tiny-t5/.lock").touch()
    shutil.rmtree("checkpoints/tiny")
    train_autoencoder.main(recipe(), quiet=True)
    assert not Path("checkpoints/tiny-t5/.lock").exists()
    assert {name: digest for name, digest in before.items() if "tiny-t5" in str(name)} == {
        name: digest for name, digest in fingerprint("checkpoints").items() if "tiny-t5" in str(name)}


def test_an_autoencoder_without_its_weights_is_trained_again(recipe, capsys):
    """As a copy that broke off may leave it, or a disk that was full."""
    before = weights(recipe().folder / "autoencoder")
    for file in (recipe().folder / "autoencoder").glob("*.safetensors"):
        file.unlink()
    train_autoencoder.main(recipe(), quiet=True)
    assert "already trained" not in capsys.readouterr().out
    assert_equal(weights(recipe().folder / "autoencoder"), before)


def test_a_finished_backbone_is_not_overwritten(recipe, fingerprint, capsys):
    before = fingerprint("checkpoints")
    pretrain_backbone.main(recipe(), quiet=True)
    assert "already holds a finished backbone" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before


def test_the_table_of_a_backbone_counts_the_texts_that_it_copies(tiny, recipe, monkeypatch):
    codec = load_codec(tiny.checkpoint)
    texts = [story.text for story in storyworld.sample(4, 1)]
    start = torch.zeros(4, 1, dtype=torch.long)

    def copies(spoilt):
        def generate(ids, **options):
            written = torch.cat([start, ids], dim=1)
            written[:spoilt, 3] = 7
            return written

        monkeypatch.setattr(codec.text_model, "generate", generate)
        return pretrain_backbone.table(codec.text_model, codec.tokenizer, texts, recipe()).splitlines()[-1]

    assert copies(0).endswith(" 1.000") and copies(1).endswith(" 0.750")
    monkeypatch.setattr(codec.text_model, "generate", lambda ids, **options: start)  # it stops at once
    last = pretrain_backbone.table(codec.text_model, codec.tokenizer, texts, recipe()).splitlines()[-1]
    assert last == "unmasked texts copied exactly   0.000"


def test_a_finished_autoencoder_is_not_taken_for_one_of_other_settings(recipe, fingerprint):
    before = fingerprint("checkpoints")
    for stage in (train_autoencoder, train_denoiser):
        with pytest.raises(ResumeError, match=r"autoencoder\.num_latents was 3, is 5"):
            stage.main(recipe("autoencoder.num_latents=5"), quiet=True)
    assert fingerprint("checkpoints") == before


def test_more_steps_than_a_sampler_has_are_refused_before_training(recipe):
    new = recipe("name=new", "sampling.steps=5000")
    with pytest.raises(SchedulerError, match=r"sampling\.steps is 5000: DDPMScheduler cannot be run for 5000 steps"):
        train_denoiser.main(new, quiet=True)
    assert not new.folder.exists()


@pytest.mark.parametrize("codec, command", [("autoencoder", "train-ae"), ("sentence", "train-sentence"),
                                            ("perceiver", "train-perceiver")])
def test_a_codec_is_trained_by_its_own_command_alone(recipe, codec, command):
    other = "perceiver" if codec == "sentence" else "sentence"
    stage = importlib.import_module(f"latdiff.recipes.train_{codec}")
    with pytest.raises(RecipeError, match=f"codec is '{other}', which `latdiff train-{other}` trains, but "
                                          f"`latdiff {command}` was called"):
        stage.main(recipe("name=new", f"codec={other}", "data.max_tokens=24"), quiet=True)
    assert not recipe("name=new").folder.exists()


def test_what_a_finished_run_leaves(tiny):
    names = {file.name for file in tiny.checkpoint.iterdir()}
    parts = {"tokenizer", "text_model", "autoencoder", "denoiser", "scheduler", "model_index.json"}
    assert parts | {"recipe.yaml", "metrics.json", "samples.txt", "train"} <= names
    figures = json.loads((tiny.checkpoint / "metrics.json").read_text(encoding="utf-8"))
    assert figures["training"]["denoiser_steps"] == 6
    assert {"exact_match", "under_noise", "training_minutes"} <= set(figures["reconstruction"])
    assert len((tiny.checkpoint / "samples.txt").read_text(encoding="utf-8").splitlines()) == 20
    assert load_recipe(str(tiny.checkpoint / "recipe.yaml")) == load_recipe(str(tiny.recipe))


def test_the_frozen_backbone_stays_frozen(tiny):
    assert_equal(load_codec(tiny.checkpoint).text_model.state_dict(), {
        name: value.float() for name, value in expected_backbone(tiny).items()
    })


def expected_backbone(tiny):
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(tiny.root / "checkpoints" / "tiny-t5").state_dict()


def test_training_learns_something(recipe, monkeypatch):
    """Not much in sixty steps, but the loss of the last is below that of the first."""
    losses = []
    undo_denoiser(recipe().folder)
    monkeypatch.setattr(training, "report", lambda step, loss, *_, **figures: losses.append(loss.item()))
    train_denoiser.main(recipe("train_denoiser.steps=60", "train_denoiser.batch_size=32"), quiet=True)
    assert len(losses) == 60
    assert sum(losses[-20:]) < sum(losses[:20])


# The command line


def command(stage, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / f"{stage}.py"), *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )


def test_the_command_trains_and_says_where(workplace, recipe):
    undo_denoiser(recipe().folder)
    run = command("train_denoiser", "tiny.yaml", "train_denoiser.steps=2", "--quiet")
    assert run.returncode == 0, run.stderr
    assert "trained in" in run.stdout
    assert str(Path("checkpoints/tiny")) in run.stdout
    assert "Traceback" not in run.stderr
    assert (recipe().folder / "model_index.json").exists()


def test_three_mistakes_are_all_reported_before_anything_begins(workplace, fingerprint):
    before = fingerprint(".")
    run = command(
        "train_autoencoder", "tiny.yaml", "autoencodr.width=8", "data.max_tokens=x", "train_denoiser.steps=0"
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: tiny.yaml: 3 problems")
    for part in ("autoencodr", "did you mean autoencoder?", "data.max_tokens", "train_denoiser.steps"):
        assert part in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert fingerprint(".") == before


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_tells_its_usage(name):
    usage = f"    latdiff {STAGES[name].command} "
    assert STAGES[name].help and importlib.import_module(f"latdiff.recipes.{name}").__doc__.count(usage) == 1


def test_the_batches_of_a_backbone_depend_on_the_step_alone(tiny, recipe):
    codec = load_codec(tiny.checkpoint)
    rows = [list(range(10, 40)), list(range(50, 70))]
    rows = [[*row, codec.tokenizer.eos_token_id] for row in rows]
    once, again, other = (
        pretrain_backbone.masked_batch(
            rows, codec.tokenizer, recipe("pretrain_backbone.mask_rates=[0.5]"), step
        )
        for step in (3, 3, 4)
    )
    assert all(itertools.starmap(torch.equal, zip(once, again, strict=True)))
    assert not torch.equal(once[0], other[0])
    assert [row[row >= 0].tolist() for row in once[2]] == rows  # the labels are the whole texts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recipe_sets_what_training_computes_in_and_figures_name_it(tiny, recipe, dtype):
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe(f"dtype={dtype}"), quiet=True)
    figures = json.loads((recipe().folder / "metrics.json").read_text(encoding="utf-8"))
    assert figures["training"]["dtype"] == dtype
    own = json.loads((tiny.checkpoint / "metrics.json").read_text(encoding="utf-8"))["training"]["dtype"]
    found, expected = weights(recipe().folder / "denoiser"), weights(tiny.checkpoint / "denoiser")
    assert all(torch.equal(found[name], expected[name]) for name in expected) == (dtype == own)


def test_output_and_a_home_folder_hold_what_a_run_writes(workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = ["output=~/runs", "backbone.path=~/my-t5", "train_autoencoder.steps=2", "train_denoiser.steps=2"]
    shutil.copytree("checkpoints/tiny-t5", tmp_path / "my-t5")
    train_denoiser.main(load_recipe("tiny.yaml", settings), quiet=True)
    assert open_checkpoint(tmp_path / "runs" / "tiny").denoiser.config.depth == 1


def test_wandb_without_a_key_runs_offline_and_says_so(recipe, monkeypatch, capsys):
    import wandb

    begun = []
    tracker = SimpleNamespace(
        init_trackers=lambda project, config, init_kwargs: begun.append(init_kwargs["wandb"]), trackers=[])
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for has_key in (False, True):
        monkeypatch.setattr(wandb, "login", lambda has_key=has_key, **_: has_key)
        for quiet in (False, True):
            begin_wandb(tracker, recipe("wandb_project=stories"), "denoiser", quiet)
    assert [run.pop("settings").silent for run in begun] == [False, True] * 2
    assert begun == [{"name": "tiny denoiser", "mode": "offline"}] * 2 + [{"name": "tiny denoiser"}] * 2
    assert capsys.readouterr().out.count("wandb has no API key: the run is logged to ./wandb") == 1


def test_wandb_prints_no_colours_where_none_are_wanted(recipe, monkeypatch):
    import click

    said = io.StringIO()
    said.isatty = lambda: True
    tracker = SimpleNamespace(
        trackers=[], init_trackers=lambda *_, **__: click.echo(click.style("begun", fg="red"), file=said))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for wanted in ("", "1"):
        monkeypatch.setenv("NO_COLOR", wanted)
        begin_wandb(tracker, recipe("wandb_project=stories"), "denoiser")
    assert said.getvalue() == "\x1b[31mbegun\x1b[0m\nbegun\n"
    click.globals.pop_context()


def test_what_wandb_refuses_is_one_sentence(recipe, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("permission denied\nand more")

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "init", refuse)
    undo_denoiser(recipe().folder)
    with pytest.raises(UserError, match=r"wandb_project is 'stories', .*permission denied\); set wandb_project= to"):
        train_denoiser.main(recipe("wandb_project=stories"), quiet=True)


def test_a_quiet_run_logs_the_texts_it_would_show_and_its_pictures_at_the_end(recipe, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    undo_denoiser(recipe().folder)
    capsys.readouterr()
    train_denoiser.main(recipe("wandb_project=stories", "train_denoiser.sample_every=2"), quiet=True)
    assert "sample" not in capsys.readouterr().out
    (media,) = Path("wandb").glob("offline-run-*/files/media")
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in (media / "table").glob("*.json")]
    whole = max(tables, key=lambda table: len(table["data"]))
    assert whole["columns"] == ["step", "what", "text"]
    assert [row[:2] for row in whole["data"]] == [[step, "sample"] for step in (2, 2, 2, 4, 4, 4)]
    drawn = {file.name.partition("_")[0] for file in (media / "images").glob("*.png")}
    assert drawn == {"curves", "trajectory", "reconstruction"}
    assert not list(recipe().folder.glob("*.png"))


def test_a_log_ends_with_its_stage(recipe, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "disabled")
    undo_denoiser(recipe().folder)
    monkeypatch.setattr(train_denoiser, "write_pipeline", lambda *_: begun.append(wandb.run is not None))
    begun = []
    train_denoiser.main(recipe("wandb_project=stories"), quiet=True)
    assert begun == [True] and wandb.run is None


def test_what_is_shown_is_printed_beside_the_bar(recipe, capsys):
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe("train_denoiser.sample_every=4"))
    assert capsys.readouterr().out.count("  sample  ") == 3


@pytest.mark.parametrize("project", ["", "stories"])
def test_a_run_logs_to_wandb_only_when_asked(workplace, recipe, monkeypatch, project):
    import wandb

    begun, init = [], wandb.init
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "init", lambda **settings: begun.append(settings) or init(**settings))
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe(f"wandb_project={project}"), quiet=True)
    assert [(run["project"], run["name"]) for run in begun] == ([(project, "tiny denoiser")] if project else [])
