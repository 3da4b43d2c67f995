"""`latdiff check-checkpoint`: a line for every part, every problem at once, what was published, written with what."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file
from sentence_models import other, perceiver_codec, sentence_codec

import latdiff
from latdiff import cli
from latdiff.checkpoints import CheckpointError
from latdiff.checksums import changed_files
from latdiff.codecs.files import save_codec
from latdiff.pipelines.checking import check_checkpoint
from latdiff.publishing import publish
from latdiff.versions import recorded_versions


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint, with two heads, to damage."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def published(checkpoint, tmp_path):
    cli.main(["publish", str(checkpoint), str(tmp_path / "small")])
    return tmp_path / "small"


def line_of(checked, part):
    (line,) = (line for line in checked.lines if line.startswith(part + " "))
    return line


def test_every_part_has_its_line(copy, pipe, capsys):
    cli.main(["check-checkpoint", str(copy)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "tokenizer", "text_model", "autoencoder", "latents", "denoiser", "scheduler", "heads/sentiment", "heads/tense",
        "written by", "checksums",
    ]
    said = "\n".join(lines)
    assert re.search(r"denoiser +LatentDenoiser, [\d,]{5,} weights, float32, of codec " + pipe.codec.digest, said)
    assert re.search(r"latents +\[3, 4\] of codec " + pipe.codec.digest + ", computed again", said)
    assert re.search(r"heads/tense +labels past, present, \d+ weights, float32, of codec " + pipe.codec.digest, said)
    assert f"written by           latdiff {latdiff.__version__}, torch " in said
    assert re.search(r"diffusers [\w.]+ on 2\d{3}-\d\d-\d\d", said) and "checksums            not recorded" in said


def test_all_problems_are_told_at_once(copy, capsys):
    (copy / "scheduler" / "scheduler_config.json").write_text("{", encoding="utf-8")
    for file, change in (("denoiser/config.json", {"codec_digest": "0123456789abcdef"}),
                         ("heads/tense/config.json", {"codec_digest": "fedcba9876543210"}),
                         ("heads/sentiment/config.json", {"kind": "vector"})):
        given = json.loads((copy / file).read_text(encoding="utf-8"))
        (copy / file).write_text(json.dumps(given | change), encoding="utf-8")
    (copy / "denoiser" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SystemExit) as error:
        cli.main(["check-checkpoint", str(copy)])
    said = str(error.value.code)
    assert "5 problems" in said.splitlines()[0] and len(said.splitlines()) == 6
    for words in ("0123456789abcdef, but the codec here is", "fedcba9876543210, but", "its kind is 'vector'",
                  "scheduler", "could run code (denoiser/diffusion_pytorch_model.bin)"):
        assert words in said
    assert "autoencoder  " in capsys.readouterr().out


@pytest.mark.parametrize(("part", "said"), [
    ("tokenizer", "tokenizer is missing; copy the whole folder again"),
    ("text_model", "text_model is missing; copy the whole folder again"),
    ("scheduler", "scheduler is missing; copy the whole folder again"),
    ("scheduler/scheduler_config.json", "scheduler_config.json is missing; copy the folder again"),
    ("denoiser/config.json", "config.json is missing; copy the folder again"),
])
def test_what_is_missing_of_a_copy_is_said_once(copy, part, said):
    shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    (problem,) = check_checkpoint(copy).problems
    assert problem.endswith(said) and str(copy / part) in problem


@pytest.mark.parametrize("content", ["{", "[]", '{"_class_name": 3}'])
def test_a_broken_index_is_listed_once(copy, content):
    (copy / "model_index.json").write_text(content, encoding="utf-8")
    (problem,) = check_checkpoint(copy).problems
    assert "model_index.json" in problem


def test_a_codec_without_its_tokenizer_is_an_incomplete_copy(copy):
    (copy / "model_index.json").unlink()
    shutil.rmtree(copy / "tokenizer")
    (problem,) = check_checkpoint(copy).problems
    assert problem.endswith("is incomplete: no tokenizer; copy the whole folder again")


@pytest.mark.parametrize("part", ["text_model", "autoencoder", "denoiser", "heads/tense"])
def test_weights_that_were_changed_are_found(copy, part):
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if tensors[name].dim() > 1)
    tensors[name][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    (problem,) = check_checkpoint(copy).problems
    assert "finite" in problem


@pytest.mark.parametrize("part", ["text_model", "autoencoder"])
def test_weights_of_another_codec_are_found(copy, part):
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if tensors[name].dim() > 1)
    save_file(tensors | {name: tensors[name] + 1}, file, metadata={"format": "pt"})
    (problem,) = check_checkpoint(copy).problems
    assert "by its weights, but was saved as" in problem


def test_a_published_copy_is_the_one_that_was_published(published):
    checked = check_checkpoint(published)
    assert checked.problems == [] and line_of(checked, "checksums").endswith("all as published")
    assert "published in half precision" in line_of(checked, "latents")
    assert "float16" in line_of(checked, "denoiser")
    cli.main(["fit-head", str(published), "--quiet", "--data", "storyworld", "--label-column", "tense", "--limit", "80",
              "--name", "late"])
    (published / "README.md").write_text("mine", encoding="utf-8")
    assert check_checkpoint(published).problems == []  # what comes later, or every evaluation writes
    (published / "recipe.yaml").write_text("name: other\n", encoding="utf-8")
    (published / "scheduler" / "scheduler_config.json").unlink()
    problems = check_checkpoint(published).problems
    assert "recipe.yaml is not the file that was published; copy the folder again" in problems
    assert "scheduler/scheduler_config.json was published, but is missing; copy the folder again" in problems


@pytest.mark.parametrize("name", ["/etc/hostname", "../copy/recipe.yaml", "heads/../../x"])
def test_checksums_open_no_other_file(copy, name):
    (copy / "checksums.txt").write_text(f"{'0' * 64}  {name}\nrubbish\n", encoding="utf-8")
    assert changed_files(copy) == [
        f"{name} was published, but is missing; copy the folder again",
        "checksums.txt, line 2: is no checksum and name of a file; copy the folder again",
    ]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"latdiff": 1}'])
def test_versions_that_are_not_recorded(tmp_path, content):
    if content is not None:
        (tmp_path / "versions.json").write_text(content, encoding="utf-8")
    assert recorded_versions(tmp_path) == "not recorded"


@pytest.mark.parametrize("make", [sentence_codec, perceiver_codec])
def test_a_codec_alone_with_the_models_that_it_names(writers, tmp_path, make):
    save_codec(make(writers.llama, writers.encoder, rank=4), tmp_path)
    checked = check_checkpoint(tmp_path)
    assert checked.problems == []
    assert "LlamaForCausalLM" in line_of(checked, "  language model") and "BertModel" in line_of(checked, "  encoder")
    assert line_of(checked, "latents").endswith("computed again") and "weights" in line_of(checked, "codec/adapter")


def test_a_codec_whose_models_are_others(writers, tmp_path):
    from sentence_models import bert

    encoder = shutil.copytree(writers.encoder, tmp_path / "encoder")
    save_codec(sentence_codec(writers.llama, encoder), tmp_path / "codec")
    shutil.rmtree(encoder)
    other(bert, encoder, seed=1)
    (problem,) = check_checkpoint(tmp_path / "codec").problems
    assert "is not the one that the codec was trained with" in problem


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no pipeline .* and no codec"):
        check_checkpoint(tmp_path)


def test_links_that_lead_out_of_a_checkpoint_are_found(copy, tmp_path):
    (tmp_path / "victim").mkdir()
    (copy / "heads" / "tone").symlink_to("../../victim")
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to("../nowhere")
    (copy / "again.yaml").symlink_to("recipe.yaml")  # within it
    said = " ".join(check_checkpoint(copy).problems)
    assert f"{copy / 'README.md'} is a link to {tmp_path / 'nowhere'}, outside the checkpoint; put a copy" in said
    assert f"{copy / 'heads' / 'tone'} is a link to {tmp_path / 'victim'}, outside" in said
    assert "again.yaml" not in said


@pytest.mark.parametrize("link", ["heads", "heads/tone"])
def test_a_head_is_not_written_through_a_link_out_of_the_checkpoint(copy, tmp_path, refused, link):
    shutil.rmtree(copy / "heads")
    (tmp_path / "victim").mkdir()
    (copy / link).parent.mkdir(exist_ok=True)
    (copy / link).symlink_to(tmp_path / "victim")
    said = refused("fit-head", "--data", "storyworld", "--label-column", "sentiment", "--name", "tone", folder=copy)
    assert "tone would be written to" in said and "leads out of it; put a folder in the place of the link" in said
    assert not list((tmp_path / "victim").iterdir())


def test_what_a_link_leads_to_is_not_published(copy, tmp_path):
    (tmp_path / "secret.txt").write_text("mine", encoding="utf-8")
    (copy / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CheckpointError, match=r"notes.txt is a link to .*secret.txt, outside the checkpoint"):
        publish(copy, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    (copy / "notes.txt").unlink()
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    cached = shutil.copytree(copy, tmp_path / "hub" / "snapshots" / "1")
    (tmp_path / "hub" / "blobs").mkdir()
    shutil.move(cached / "recipe.yaml", tmp_path / "hub" / "blobs" / "a")
    (cached / "recipe.yaml").symlink_to("../../blobs/a")
    publish(cached, tmp_path / "small")
    assert (tmp_path / "small" / "recipe.yaml").read_bytes() == (copy / "recipe.yaml").read_bytes()
