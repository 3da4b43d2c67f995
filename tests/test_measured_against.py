"""`latdiff evaluate` reads no file that only a checkpoint's own recipe names."""

import json
import shutil

import huggingface_hub
import pytest
import yaml

from latdiff import storyworld

FLAGS = ("--num-samples", 2, "--seeds", 1, "--json", "m.json")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with texts in it and beside it."""
    (tmp_path / "here").mkdir()
    texts = "\n".join(story.text for story in storyworld.sample(60, 5))
    for place in ("here/own.txt", "beside.txt"):
        (tmp_path / place).write_text(texts, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def naming(checkpoint, folder, source):
    """A copy of a checkpoint whose recipe names the source."""
    copy = shutil.copytree(checkpoint, folder)
    (copy / "metrics.json").unlink(missing_ok=True)  # it says which texts were learnt
    given = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    given["data"]["source"] = str(source)
    (copy / "recipe.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return copy


@pytest.mark.parametrize("source", ["../beside.txt", "{here}/../beside.txt", "a/../../beside.txt", "~/beside.txt"])
@pytest.mark.parametrize("kind", ["pipeline", "language model"])
def test_a_path_outside_is_read_only_where_it_is_asked_for(refused, latdiff, checkpoint, tiny, here, kind, source):
    source = source.format(here=here)
    folder = naming(checkpoint if kind == "pipeline" else tiny.ar, here / "theirs", source)
    said = refused("evaluate", *FLAGS, folder=folder)
    assert f"would have {source} read as its data, which lies outside the current folder" in said
    assert f"give --data {source}" in said and "\n" not in said
    assert not (here / "m.json").exists()
    latdiff("evaluate", *FLAGS, "--data", "../beside.txt", folder=folder)
    document = json.loads((here / "m.json").read_text(encoding="utf-8"))
    assert document["data"] == "beside.txt" and document["unseen"]["n"] == 2


def test_ones_own_recipe_is_followed_in_the_current_folder(latdiff, checkpoint, here):
    folder = naming(checkpoint, here / "mine", "own.txt")
    latdiff("evaluate", *FLAGS, folder=folder)
    document = json.loads((here / "m.json").read_text(encoding="utf-8"))
    assert "data" not in document and "validity" not in document["unconditional"][0]


def test_a_download_reads_no_file_here_unasked(refused, latdiff, checkpoint, here, tmp_path, monkeypatch):
    folder = naming(checkpoint, tmp_path / "cache", "own.txt")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folder))
    said = refused("evaluate", *FLAGS, folder="owner/name")
    assert "would have own.txt read as its data, a path here, though the checkpoint is from the hub" in said
    latdiff("evaluate", *FLAGS, "--data", "storyworld", folder="owner/name")
    assert "validity" in json.loads((here / "m.json").read_text(encoding="utf-8"))["unconditional"][0]
