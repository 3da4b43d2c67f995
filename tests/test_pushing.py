"""What is pushed to the hub comes back from it by its id, and nothing goes along that others should not see."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from fake_hub import FakeHub
from huggingface_hub import ModelCard
from sentence_models import sentence_codec
from toy_pipes import random_head

from latdiff import cli, load_head
from latdiff.errors import UserError
from latdiff.heads.inputs import HeadError
from latdiff.hub import HubError

PROGRAM = """
from latdiff import LatentTextDiffusionPipeline, cli, load_codec, load_head, open_checkpoint

pipe, head = open_checkpoint("tiny"), load_head("tiny/heads/tense")
print(pipe.push_to_hub("ada/stories", heads=[head], token="secret"))
head.push_to_hub("ada/tense", private=True, token="secret")
pipe.codec.push_to_hub("ada/codec", token="secret")
cli.main(["publish", "tiny", "--to-hub", "ada/published", "--quiet"])
pipe.push_to_hub("ada/published")

assert open_checkpoint("ada/stories").codec.digest == pipe.codec.digest == load_codec("ada/codec").digest
for found in (load_head("ada/tense"), load_head("ada/stories", subfolder="heads/tense")):
    assert (found.weight == head.weight).all() and found.codec_digest == pipe.codec.digest
assert isinstance(LatentTextDiffusionPipeline.from_pretrained("ada/published"), LatentTextDiffusionPipeline)
cli.main(["check-checkpoint", "ada/published"])
guides = ["--guide", "ada/tense=past:1", "--guide", "sentiment=positive:1"]
cli.main(["sample", "ada/published", "--num-samples", "1", "--json", "--quiet", *guides])
"""
DOTTED = ("ada/..", "ada/.", "../x", "ada/x.", "ada/-x", "ada/a--b", "ada/a..b", "ada/x.git", "ada/x\n", "ada/é")
PARTS = {"autoencoder/config.json", "denoiser/config.json", "model_index.json", "scheduler/scheduler_config.json",
         "text_model/model.safetensors", "tokenizer/tokenizer.json", "versions.json", "README.md"}


@pytest.fixture(scope="module")
def pushed(checkpoint, tmp_path_factory):
    """A hub that PROGRAM, in a process of its own with a token, has pushed to and opened from; `said` is its output."""
    place = tmp_path_factory.mktemp("pushing")
    folder = shutil.copytree(checkpoint, place / "tiny")
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / "latents.json").write_text("{}", encoding="utf-8")
    index = json.loads((folder / "text_model" / "config.json").read_text(encoding="utf-8"))
    (folder / "text_model" / "config.json").write_text(json.dumps(index | {"_name_or_path": "/home/ada/t5"}))
    with FakeHub() as hub:
        settings = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}
        settings |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / "home"), "HF_TOKEN": "mine"}
        done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=place, env=settings, capture_output=True, text=True,
                              check=False)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(files=hub.files, private=hub.private, tokens=hub.tokens, said=done.stdout.splitlines(),
                           place=place)


def test_what_was_pushed_opens_by_its_id_with_heads(pushed):
    address, published, *checked, row = pushed.said
    assert "/ada/stories/commit/" in address and published.startswith("tiny -> http")
    assert any("checksums" in line for line in checked)
    assert set(json.loads(row)["guides"]) == {"tense", "sentiment"}


def test_a_pipeline_brings_its_parts_and_the_heads_that_it_was_given(pushed):
    files = set(pushed.files["ada/stories"])
    assert files > PARTS | {"heads/tense/config.json", "heads/tense/model.safetensors"}
    assert not [file for file in files if "sentiment" in file or file.startswith("train/")]
    assert set(pushed.files["ada/tense"]) == {"config.json", "model.safetensors", "README.md"}


def test_a_published_checkpoint_brings_recipe_card_figures_and_all_heads(pushed):
    files = set(pushed.files["ada/published"])
    assert files > PARTS | {"recipe.yaml", "metrics.json", "checksums.txt", "heads/sentiment/config.json"}
    card = pushed.files["ada/published"]["README.md"].decode()
    assert "latdiff sample ada/published --num" in card and 'open_checkpoint("ada/published")' in card


def test_nothing_goes_along_that_others_should_not_see(pushed):
    for files in pushed.files.values():
        assert not [path for path in files if path.startswith("train/") or path == "samples.txt"]
        for content in files.values():
            assert str(pushed.place).encode() not in content and b"/home/ada" not in content
    assert pushed.private == {"ada/stories": False, "ada/tense": True, "ada/codec": False, "ada/published": False}
    assert pushed.tokens == {"Bearer secret", "Bearer mine"}


def test_each_has_a_card_that_says_how_to_open_it(pushed):
    for name, call in (("stories", 'open_checkpoint("ada/stories")'), ("tense", 'load_head("ada/tense")'),
                       ("codec", 'load_codec("ada/codec")')):
        card = ModelCard(pushed.files[f"ada/{name}"]["README.md"].decode())
        assert call in card.text and card.data.library_name == "latdiff" and f"# {name}\n" in card.text


def test_mistakes_are_refused_before_anything_is_pushed(pipe, head, refused, writers, tmp_path):
    for name in ("stories", "a/b/c", "/tmp/x", "ada/", None, *DOTTED):
        with pytest.raises(HubError, match=r"is no hub id, must be owner/name, such as ada/stories"):
            head.push_to_hub(name)
    with pytest.raises(UserError, match="was fitted on latents of codec other, but the codec here is"):
        pipe.push_to_hub("ada/x", heads=[random_head("other")])
    with pytest.raises(UserError, match="would upload all that lies in the folder"):
        pipe.save_pretrained(tmp_path / "x", push_to_hub=True)
    with pytest.raises(HubError, match=r"the codec's language_model is '.*llama\d*', a folder here, .* codec/config"):
        sentence_codec(writers.llama, writers.encoder).push_to_hub("ada/x")
    assert "give the path of a folder that does not exist yet, or --to-hub owner/name" in refused("publish")
    assert "give --to-hub owner/name as well" in refused("publish", tmp_path / "y", "--private")
    assert "is no hub id" in refused("publish", tmp_path / "y", "--to-hub", "stories")
    assert not (tmp_path / "y").exists() and not (tmp_path / "x").exists()


def test_nothing_is_written_for_a_name_of_dots(pipe, tmp_path, monkeypatch):
    """Which would lead out of the folder that is uploaded."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in DOTTED:
        with pytest.raises(HubError, match="is no hub id"):
            pipe.push_to_hub(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/tmp/x", "../../x", "..", ".x", "a/b", "a\\b", "a\0b", "a\nb", "", 61 * "x", None])
def test_the_name_of_a_head_is_no_path_to_write_to(pipe, head, tmp_path, monkeypatch, name):
    head.save(tmp_path / "mood")
    config = tmp_path / "mood" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"name": name}), encoding="utf-8")
    head.name = name
    monkeypatch.setattr("latdiff.hub.tempfile", None)  # nothing is written
    for call in (lambda: load_head(tmp_path / "mood"), lambda: pipe.push_to_hub("ada/x", heads=[head]),
                 lambda: head.save(tmp_path / "other")):
        with pytest.raises(HeadError, match=r"a head's name is .*, must be of 1 to 60 letters that can be shown"):
            call()
    assert not (tmp_path / "other").exists()


def test_heads_are_pushed_one_or_several_each_of_its_own_name(pipe, head, monkeypatch):
    monkeypatch.setattr("latdiff.hub._upload", lambda folder, *_: sorted(
        str(file.relative_to(folder)) for file in folder.glob("heads/*/config.json")))
    other = random_head(pipe.codec.digest)
    other.name = "Größe in m"
    assert pipe.push_to_hub("ada/x", heads=head) == ["heads/mood/config.json"]
    assert pipe.push_to_hub("ada/x", heads=iter([head, other])) == [
        "heads/Größe in m/config.json", "heads/mood/config.json"]
    with pytest.raises(UserError, match=r"two of the heads are called 'mood', .* with head.name = "):
        pipe.push_to_hub("ada/x", heads=[head, random_head(pipe.codec.digest)])
    for wrong in ("tone", ["tone"], 5, None, [None]):
        with pytest.raises(UserError, match=r"heads has .*, must be fitted heads: heads=\[load_head\(...\)\]"):
            pipe.push_to_hub("ada/x", heads=wrong)


def test_a_link_out_of_the_checkpoint_is_not_published_to_the_hub(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "tiny")
    (folder / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(SystemExit, match=r"notes\.txt is a link to /etc/hostname, outside the checkpoint"):
        cli.main(["publish", str(folder), "--to-hub", "ada/x"])


def test_a_hub_that_cannot_be_reached_is_one_sentence(checkpoint):
    with pytest.raises(HubError, match=r"ada/x could not be pushed to \(.*offline.*\); `hf auth login` logs in"):
        load_head(checkpoint / "heads" / "tense").push_to_hub("ada/x")
