"""`latdiff list`: what is there to sample from, without loading any of it."""

import shutil
import subprocess
import sys

from latdiff import cli
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


def test_the_example_takes_a_pipeline_that_asks_for_nothing():
    rich = Listed("big", 25.0, "", "start", {"tone": ["bad", "good"]}, ["a model"])
    plain = Listed("small", 30.0, "", "none", {"words": [], "mood": ["low", "high"]}, [])
    assert example([rich, plain]) == "latdiff sample small --guide mood=high --num-samples 4 --seed 0"
    assert "--guide words=NUMBER" in described(plain)


def test_listing_does_not_load_torch():
    code = "import sys; from latdiff import cli; cli.main(['list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
