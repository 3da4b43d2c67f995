"""Checkpoints on disk: what comes back is what was saved, and one that is damaged is refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latdiff import LatentTextDiffusionPipeline, cli, load_head
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe
from latdiff.pipelines.files import open_checkpoint
from latdiff.publishing import publish


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the checkpoint, to damage."""
    return shutil.copytree(tiny.checkpoint, tmp_path / "copy")


def test_a_saved_pipeline_writes_the_same_texts(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = LatentTextDiffusionPipeline.from_pretrained(tmp_path)
    expected, found = (p(num_samples=4, generator=seeded()) for p in (pipe, again))
    assert torch.equal(expected.latents, found.latents)
    assert expected.texts == found.texts
    assert again.config.num_inference_steps == 3


def test_nothing_in_a_checkpoint_can_run_code(tiny):
    kinds = {file.suffix for file in tiny.checkpoint.rglob("*") if file.is_file()}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".yaml", ".txt", ".md"}


def test_a_denoiser_of_another_codec_is_refused_with_both_digests(copy, pipe):
    config = copy / "denoiser" / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace(pipe.codec.digest, "0123456789abcdef"), "utf-8"
    )
    for load in (open_checkpoint, LatentTextDiffusionPipeline.from_pretrained):
        with pytest.raises(CheckpointError) as error:
            load(copy)
        assert "0123456789abcdef" in str(error.value)
        assert pipe.codec.digest in str(error.value)


def refusal(load, folder):
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


PARTS = ("tokenizer", "text_model", "autoencoder", "denoiser", "scheduler")


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    said = refusal(open_checkpoint, copy)
    assert part in said
    assert "incomplete" in said


@pytest.mark.parametrize("part", ["text_model", "autoencoder", "denoiser"])
def test_weights_cut_short(copy, part):
    (weights,) = (copy / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "cut short or damaged" in refusal(open_checkpoint, copy)


@pytest.mark.parametrize("part", ["text_model", "autoencoder", "denoiser"])
def test_weights_that_are_missing(copy, part):
    (weights,) = (copy / part).glob("*.safetensors")
    weights.unlink()
    assert "cut short or damaged" in refusal(open_checkpoint, copy)


def drop_one_weight(folder):
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(name for name, value in tensors.items() if value.dim() == 2)[0]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_single_weight_that_is_missing_is_named(copy, part):
    name = drop_one_weight(copy / part)
    for load in (open_checkpoint, LatentTextDiffusionPipeline.from_pretrained):
        said = refusal(load, copy)
        assert f"{part} lacks 1 of its weights, the first is {name}" in said


@pytest.mark.parametrize("wrong", ["bla", None, ["x0"]])
def test_a_denoiser_that_predicts_what_there_is_not(copy, wrong):
    file = copy / "denoiser" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"prediction": wrong}), encoding="utf-8")
    for load in (open_checkpoint, LatentTextDiffusionPipeline.from_pretrained):
        said = refusal(load, copy)
        assert f"{copy / 'denoiser'} is cut short or damaged" in said
        assert f"prediction is {wrong!r}, must be v or x0" in said


def test_a_codec_lacking_a_weight(copy):
    name = drop_one_weight(copy / "autoencoder")
    assert f"autoencoder lacks 1 of its weights, the first is {name}" in refusal(load_codec, copy)


def test_a_text_model_lacking_a_weight(copy):
    name = drop_one_weight(copy / "text_model")
    assert f"lacks 1 weights, the first is {name}" in refusal(open_checkpoint, copy)


@pytest.mark.parametrize("part, value", [("autoencoder", "nan"), ("denoiser", "inf"), ("text_model", "nan")])
def test_weights_that_are_not_finite(copy, part, value):
    (file,) = (copy / part).glob("*.safetensors")
    kept = load_file(file)
    name = next(name for name in sorted(kept) if kept[name].dim() > 1)
    kept[name][0, 0] = float(value)
    save_file(kept, file, metadata={"format": "pt"})
    said = refusal(open_checkpoint, copy)
    assert "has weights that are not finite, the first is" in said
    assert part.replace("_", " ") in said if part == "text_model" else f"{part} has weights" in said and name in said


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_weights_of_another_shape(copy, part):
    config = copy / part / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(settings | {"width": 32}), encoding="utf-8")
    refusal(open_checkpoint, copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"_class_name": 5}'])
def test_a_damaged_index(copy, content):
    (copy / "model_index.json").write_text(content, encoding="utf-8")
    refusal(open_checkpoint, copy)


def test_no_pipeline_there_names_those_beside(copy):
    said = refusal(open_checkpoint, copy.parent / "cpoy")
    assert "no model_index.json" in said
    assert "finished ones beside it: copy" in said
    assert "latdiff train-diffusion" in said


@pytest.mark.parametrize("part", ["tokenizer", "text_model", "autoencoder"])
def test_a_codec_with_a_part_missing(copy, part):
    shutil.rmtree(copy / part)
    said = refusal(load_codec, copy)
    assert part in said
    assert ("latdiff train-ae" if part == "autoencoder" else "copy the whole folder again") in said


def test_a_codec_cut_short(copy):
    (weights,) = (copy / "autoencoder").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "cut short or damaged" in refusal(load_codec, copy)


# A small copy


def test_a_published_copy_is_half_as_large_and_opens_in_float32(tiny, pipe, tmp_path):
    publish(tiny.checkpoint, tmp_path / "small")
    copied = open_checkpoint(tmp_path / "small")
    for name in ("denoiser", "autoencoder", "text_model"):
        given, found = getattr(pipe, name).state_dict(), getattr(copied, name).state_dict()
        assert all(found[key].dtype == value.dtype for key, value in given.items())
        for key, value in given.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3)
    assert copied.codec.digest == pipe.codec.digest
    assert not (tmp_path / "small" / "train").exists()

    def size(folder):
        return sum(file.stat().st_size for file in folder.rglob("*.safetensors") if "train" not in file.parts)

    assert size(tmp_path / "small") < 0.8 * size(tiny.checkpoint)  # of networks this small vectors are a good part


def test_a_published_copy_names_no_path_of_where_it_was_made(copy, tmp_path):
    figures = json.loads((copy / "metrics.json").read_text(encoding="utf-8"))
    (copy / "metrics.json").write_text(json.dumps(figures | {"adopted_from": "~/runs/first"}), encoding="utf-8")
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    for here, there in (("source: storyworld", "source: /home/me/stories.csv"), ("output: ", "output: /home/me/")):
        recipe = recipe.replace(here, there)
    (copy / "recipe.yaml").write_text(recipe, encoding="utf-8")
    cli.main(["publish", str(copy), str(tmp_path / "small")])
    assert load_recipe(str(tmp_path / "small" / "recipe.yaml")).data.source == "stories.csv"
    assert json.loads((tmp_path / "small" / "metrics.json").read_text(encoding="utf-8")) == (
        figures | {"adopted_from": "first"})
    for file in (tmp_path / "small").rglob("*"):
        if file.suffix in (".md", ".json", ".yaml"):
            assert "/home/me" not in file.read_text(encoding="utf-8") and str(tmp_path) not in file.read_text("utf-8")
    assert "latdiff sample small " in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_published(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="holds no finished pipeline"):
        publish(tmp_path / "nothing", tmp_path / "small")
    with pytest.raises(CheckpointError, match="exists; name a folder that does not"):
        publish(tiny.checkpoint, tmp_path)


def test_what_comes_with_latdiff_is_opened_by_its_name(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_head("english/heads/sentiment").classes_.tolist() == ["negative", "positive"]
    with pytest.raises(CheckpointError, match=r"englsh holds no finished pipeline .*; did you mean english\?"):
        open_checkpoint("englsh")
    shutil.copytree(tiny.checkpoint, tmp_path / "along" / "stories")
    monkeypatch.setattr("latdiff.checkpoints.SHIPPED", tmp_path / "along")
    for pipe in (LatentTextDiffusionPipeline.from_pretrained("stories"), open_checkpoint("stories")):
        pipe.set_progress_bar_config(disable=True)
        assert len(pipe(num_samples=2).texts) == 2


def test_a_hub_id_is_left_to_diffusers(monkeypatch):
    asked = []

    def download(name, **_):
        asked.append(name)
        raise FileNotFoundError

    monkeypatch.setattr(LatentTextDiffusionPipeline, "download", download)
    with pytest.raises(FileNotFoundError):
        LatentTextDiffusionPipeline.from_pretrained("owner/name")
    assert asked == ["owner/name"]  # a str, which is all that the hub takes


@pytest.mark.parametrize("path", ["checkpoints/nope", "runs/nope", "nope", "./nope", "runs/deep/nope", "runs/empty"])
def test_a_folder_that_holds_no_pipeline_is_not_looked_for_on_the_hub(path, tmp_path, monkeypatch):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path)):
        with pytest.raises(CheckpointError, match=r"nope|empty") as error:
            LatentTextDiffusionPipeline.from_pretrained(given)
        assert "holds no finished pipeline (no model_index.json)" in str(error.value)


def test_a_pipeline_of_another_name_is_proposed(tiny):
    with pytest.raises(CheckpointError, match=r"did you mean tiny\?"):
        LatentTextDiffusionPipeline.from_pretrained(tiny.checkpoint.with_name("tinny"))


def test_a_published_copy_holds_the_pipeline_and_nothing_that_lies_beside_it(copy, tmp_path):
    for name in ("reviews.csv", "notes.txt", ".unfinished", "metrics-latents.png"):
        (copy / name).write_text("mine", encoding="utf-8")
    publish(copy, tmp_path / "small")
    names = {file.name for file in (tmp_path / "small").iterdir()}
    assert "metrics-latents.png" in names and "model_index.json" in names
    assert not names & {"reviews.csv", "notes.txt", ".unfinished", "train", "samples.txt"}
