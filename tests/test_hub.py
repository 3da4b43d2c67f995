"""Where a checkpoint lies: here, or on the hub."""

import os
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from latdiff import cli
from latdiff.checkpoints import folder_of, name_of
from latdiff.errors import UserError


@pytest.fixture
def hub(monkeypatch, checkpoint):
    """A hub that has one checkpoint, owner/tiny; what was asked of it."""
    asked = []

    def download(name, **_):
        asked.append(name)
        if name != "owner/tiny":
            raise OSError("404: no such repository")
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_folder_comes_first_and_is_not_looked_for_on_the_hub(hub, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    assert folder_of(checkpoint) == checkpoint
    assert str(folder_of("owner/tiny")) == "owner/tiny"
    assert folder_of("~/runs/one") == tmp_path / "runs" / "one"
    for path in ("checkpoints/none", "./none", "../none", "/none/at/all", "a/b/c", "none"):
        assert str(folder_of(path)) == path.removeprefix("./")
    assert hub == []


def test_a_hub_id_goes_wherever_a_folder_goes_heads_included(hub, checkpoint, capsys):
    cli.main(["sample", "owner/tiny", "--quiet", "--num-samples", "1", "--guide", "tense=past", "--seed", "3"])
    found = capsys.readouterr().out
    cli.main(["sample", str(checkpoint), "--quiet", "--num-samples", "1", "--guide", "tense=past", "--seed", "3"])
    assert found == capsys.readouterr().out
    assert hub == ["owner/tiny"]


def test_an_id_that_the_hub_does_not_have_is_one_sentence(hub):
    with pytest.raises(UserError, match=r"owner/none is no folder here, and could not be fetched .*404"):
        folder_of("owner/none")


@pytest.mark.parametrize(("kind", "said"), [
    (RepositoryNotFoundError, "owner/x is no folder here, and the hub has no such model, or it is private; look for a "
                              "typing mistake, or log in with `hf auth login`"),
    (GatedRepoError, f"owner/x is no folder here, and on the hub it is gated: ask for access at {ENDPOINT}/owner/x, "
                     "and log in with `hf auth login`"),
])
def test_what_the_hub_refuses_is_told_apart(kind, said, monkeypatch):
    def download(name, **_):
        raise kind("404 Client Error. (Request ID: a)", response=httpx.Response(404, request=httpx.Request("GET", "")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError) as refused:
        folder_of("owner/x")
    assert str(refused.value) == said


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_opened(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    folder.mkdir()
    with pytest.raises(UserError, match=r"a\\udcff is no name in UTF-8, .*; rename the folder"):
        folder_of(folder)


def test_a_checkpoint_is_called_by_the_last_name_of_its_path(tmp_path, monkeypatch):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("b")
    monkeypatch.chdir(tmp_path / "b" / "c")
    names = {".": "c", "..": "b", "owner/tiny": "tiny", "runs/v1.5/": "v1.5", tmp_path / "link": "link"}
    assert {given: name_of(given) for given in names} == names


def test_a_head_of_a_hub_id_has_a_folder_of_its_own(hub, checkpoint, fingerprint, tmp_path, monkeypatch, capsys):
    fit = ["fit-head", "owner/tiny", "--quiet", "--data", "storyworld", "--label-column", "tense", "--limit", "80",
           "--name", "time"]
    before = fingerprint(checkpoint)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"owner/tiny came with latdiff or from the hub, .* --output"):
        cli.main(fit)
    cli.main([*fit, "--output", "time"])
    assert fingerprint(checkpoint) == before
    capsys.readouterr()
    cli.main(["sample", "owner/tiny", "--quiet", "--num-samples", "1", "--guide", "./time=past"])
    assert capsys.readouterr().out.count("\n") == 1
