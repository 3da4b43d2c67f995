"""`latdiff list`: what is there to sample from, without loading any of it."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest

from latdiff import cli
from latdiff.checkpoints import folder_size
from latdiff.cli.listing import described, example
from latdiff.fetch import MODELS
from latdiff.pipelines import listing
from latdiff.pipelines.listing import Listed, pipelines_along, pipelines_here, pipelines_in


def test_what_comes_with_latdiff_is_listed_with_the_labels_of_its_heads():
    along = {one.name: one for one in pipelines_along()}
    assert along["english"].heads["sentiment"] == ["negative", "positive"]
    assert along["english"].condition == "start" and along["storyworld"].condition == "none"
    assert list(along["storyworld"].heads) == ["sentiment", "topic"] and not along["storyworld"].missing
    assert all(10 < one.megabytes < 30 for one in along.values())


def test_models_that_a_pipeline_lacks_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "models_here", lambda: dict.fromkeys(MODELS, False))
    (english,) = (one for one in pipelines_along() if one.name == "english")
    assert sorted(english.missing) == sorted(MODELS)
    assert "needs smollm2-135m-instruct and all-minilm-l6-v2: latdiff fetch" in described(english)


def test_checkpoints_of_the_working_directory_are_listed_and_a_damaged_one_stops_nothing(tiny, tmp_path, monkeypatch,
                                                                                        capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["list"])
    assert "./checkpoints: none yet; `latdiff train-diffusion storyworld` makes one" in capsys.readouterr().out
    shutil.copytree(tiny.checkpoint, tmp_path / "checkpoints" / "mine")
    broken = tmp_path / "checkpoints" / "broken"
    (broken / "heads" / "x").mkdir(parents=True)
    for file in ("model_index.json", "heads/x/config.json", "recipe.yaml"):
        (broken / file).write_text("[" * 5, encoding="utf-8")
    assert [(one.name, one.kind) for one in pipelines_here()] == [
        ("checkpoints/broken", "unknown"), ("checkpoints/mine", "LatentTextDiffusionPipeline")]
    cli.main(["list"])
    said = capsys.readouterr().out
    assert "  checkpoints/mine " in said and "english" in said and "--guide sentiment=negative|positive" in said
    assert [one.name for one in pipelines_in(tmp_path / "checkpoints")] == ["broken", "mine"]


def bomb(names="abcdefghi"):
    """YAML that grows by a factor of nine with each alias."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]" for before, one in itertools.pairwise(names)]
    return "\n".join([*lines, "data: {condition: *i}"])


@pytest.mark.parametrize("recipe", [
    bomb(), "[" * 20_000, "data: {condition: start}\n" + "".join(f"k{number}: 1\n" for number in range(300_000)), None,
], ids=["aliases", "brackets", "keys", "pipe"])
def test_a_recipe_from_anyone_keeps_the_list_neither_busy_nor_waiting(recipe, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "P"}', encoding="utf-8")
    if recipe is None:
        os.mkfifo(folder / "recipe.yaml")
    else:
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    code = "import sys; from latdiff.pipelines.listing import *; print(*pipelines_in(Path(sys.argv[1])))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == f"{Listed('bad', folder_size(folder) / 1e6, 'P', '', {}, [])}\n"


@pytest.mark.parametrize("file", ["model_index.json", "heads/x/config.json", "codec/config.json"])
def test_a_pipe_in_place_of_settings_is_not_waited_for(file, tmp_path):
    place = tmp_path / "bad" / file
    place.parent.mkdir(parents=True)
    (tmp_path / "bad" / "model_index.json").touch()
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    code = "import sys; from latdiff.pipelines.listing import *; print(pipelines_in(Path(sys.argv[1]))[0].kind)"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "unknown\n"


@pytest.mark.parametrize("given", ["\ud800", "\x1b[2Jgone\nCheckpoints:", "x" * 90_000, "x" * 5_000_000],
                         ids=lambda given: ascii(given)[:20])
def test_names_from_anyone_can_be_printed_on_one_short_line(given, tmp_path):
    folder = tmp_path / "bad"
    (folder / "heads" / "x").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": given}), encoding="utf-8")
    (folder / "heads" / "x" / "config.json").write_text(json.dumps({"labels": [given, given]}), encoding="utf-8")
    (one,) = pipelines_in(tmp_path)
    said = described(one)
    assert said.replace("\n", "").isprintable() and said.count("\n") == 1 and len(said) < 250


def test_the_example_takes_a_pipeline_that_asks_for_nothing():
    rich = Listed("big", 25.0, "", "start", {"tone": ["bad", "good"]}, ["a model"])
    plain = Listed("small", 30.0, "", "none", {"words": [], "mood": ["low", "high"]}, [])
    assert example([rich, plain]) == "latdiff sample small --guide mood=high --num-samples 4 --seed 0"
    assert "--guide words=NUMBER" in described(plain)


def test_listing_does_not_load_torch():
    code = "import sys; from latdiff import cli; cli.main(['list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
