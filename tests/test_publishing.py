"""`latdiff publish`: the copy is whole or not there, and what is wrong with a checkpoint is said of that itself."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from latdiff import cli
from latdiff.checkpoints import CheckpointError
from latdiff.publishing import publish


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint, with two heads, to damage."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def change(file, **given):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | given), encoding="utf-8")


def refusal(*arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(["publish", *map(str, arguments), "--quiet"])
    return error.value.code


# Whole or not at all


@pytest.mark.parametrize("stop, status", [
    (KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), "small could not be written (No space left"),
])
@pytest.mark.parametrize("at", ["safetensors.torch.save_file", "latdiff.evaluation.card.write_card"])
def test_what_fails_or_is_stopped_leaves_nothing_behind(copy, tmp_path, monkeypatch, at, stop, status):
    def stopped(*_, **__):
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr(at, stopped)
        code = refusal(copy, tmp_path / "small")
    assert code == status if isinstance(status, int) else status in code
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]
    cli.main(["publish", str(copy), str(tmp_path / "deep" / "small")])
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["small"]


def test_whoever_may_read_a_copy_may_read_its_weights(copy, tmp_path):
    publish(copy, tmp_path / "small")
    files = [file for file in (tmp_path / "small").rglob("*") if file.is_file()]
    assert len({file.stat().st_mode for file in files}) == 1 and any(file.suffix == ".safetensors" for file in files)


def test_a_copy_is_never_made_in_the_checkpoint_itself(copy, tmp_path, fingerprint):
    before = fingerprint(copy)
    (tmp_path / "link").symlink_to(copy)
    for output in (copy / "heads" / "out", copy / "out", tmp_path / "link" / "out"):
        with pytest.raises(CheckpointError, match="itself; name a folder outside of it"):
            publish(copy, output)
    (tmp_path / "nowhere").symlink_to("none")
    with pytest.raises(CheckpointError, match="exists; name a folder that does not"):
        publish(copy, tmp_path / "nowhere")
    assert fingerprint(copy) == before


# Damaged checkpoints, and those of strangers


def cut_off(folder):
    (file,) = (folder / "denoiser").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-50])


def figures(content):
    return lambda folder: (folder / "metrics.json").write_text(content, encoding="utf-8")


def head(content):
    return lambda folder: (folder / "heads" / "tense" / "config.json").write_text(content, encoding="utf-8")


DAMAGES = {
    "a loop of links": (lambda folder: (folder / "heads" / "loop").symlink_to(".."), r"heads/loop is a link to \.\.,"),
    "two links to each other": (lambda folder: [
        (folder / "heads" / one / "loop").symlink_to(f"../{other}")
        for one, other in (("tense", "sentiment"), ("sentiment", "tense"))], "sentiment/loop is a link to ../tense"),
    "a link to nothing": (lambda folder: (folder / "heads" / "x").symlink_to("y"), "heads/x is a link to y, and"),
    "a pipe": (lambda folder: os.mkfifo(folder / "heads" / "x"), "heads/x is no file that may be read"),
    "half a head": (head('{"kind": '), "head in {copy}/heads/tense is cut short or damaged"),
    "a head that is a list": (head("[1]"), "head in {copy}/heads/tense is cut short or damaged"),
    "an older head": (head('{"labels": []}'), "{copy}/heads/tense was written by an older latdiff; fit it again"),
    "half a configuration": (lambda folder: (folder / "scheduler" / "config.json").write_text('{"a": '),
                             "{copy}/scheduler/config.json is cut short or damaged"),
    "a configuration that is a list": (lambda folder: (folder / "denoiser" / "config.json").write_text("[1]"),
                                       "denoiser/config.json is cut short or damaged: it holds a list"),
    "weights cut short": (cut_off, "safetensors is cut short or damaged"),
    "half a recipe": (lambda folder: (folder / "recipe.yaml").write_text("a: [b"),
                      "{copy}/recipe.yaml is not readable YAML"),
    "no recipe": (lambda folder: (folder / "recipe.yaml").unlink(), "{copy} has no recipe.yaml, .* push_to_hub"),
    "half of the figures": (figures('{"a": ['), "{copy}/metrics.json exists but holds no figures"),
    "deep figures": (figures('{"a": ' * 600 + "1" + "}" * 600), "{copy}/metrics.json is damaged: maximum recursion"),
} | {f"other figures {number}": (figures(content), "{copy}/metrics.json holds figures that no evaluation has written")
     for number, content in enumerate([
         '{"unseen": [1], "unconditional": [1]}', '{"reconstruction": 5}', '{"reconstruction": {"n": 1}}',
         '{"sweep": [{"attribute": "x"}]}', '{"unconditional": 5}', '{"seeds": 5}', '{"scorers": []}',
         '{"unconditional": [{"samples": [5], "n": 1, "distinct": 1, "memorised": 0}]}', '{"sd": {"a": 1}}'])}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_said_and_leaves_nothing(copy, tmp_path, name):
    damage, said = DAMAGES[name]
    damage(copy)
    code = refusal(copy, tmp_path / "small")
    assert isinstance(code, str) and code.startswith("error: ") and re.search(said.format(copy=copy), code)
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]


def test_a_head_that_cannot_go_to_the_hub_is_named_where_it_lies(copy):
    head('{"labels": []}')(copy)
    assert f"the head in {copy}/heads/tense was written by an older latdiff" in refusal(copy, "--to-hub", "ada/x")


def test_an_edited_card_is_named_by_the_copy_in_which_it_stays(copy, tmp_path):
    (copy / "README.md").write_text("# Mine\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"^small/README.md has been edited since"):
        cli.main(["publish", str(copy), str(tmp_path / "small")])


def test_weights_of_no_numbers_are_copied(copy, tmp_path):
    (file,) = (copy / "denoiser").glob("*.safetensors")
    save_file(load_file(file) | {"empty": torch.zeros(0, 5)}, file, metadata={"format": "pt"})
    publish(copy, tmp_path / "small")
    assert load_file(tmp_path / "small" / "denoiser" / file.name)["empty"].shape == (0, 5)


# Paths, and texts that look like them


def test_only_settings_are_cut_to_names_and_no_texts(copy, tmp_path):
    texts, row = ["/ is a slash.", "~ is a tilde/mark."], {"n": 2, "sampler": "a", "distinct": 1.0, "memorised": 0.0}
    asked = [{"attribute": "tone", "target": "/s", "targets": {"a": "~/b"}, "n": 2, "success": 1.0, "scale": 1.0}]
    change(copy / "metrics.json", unconditional=[row | {"samples": texts}], guided=asked, adopted_from="~/runs/first",
           scorers={"fluency": "/home/me/gpt2", "judges": {"tone": "/home/me/judge"}})
    cli.main(["publish", str(copy), str(tmp_path / "small")])
    found = json.loads((tmp_path / "small" / "metrics.json").read_text(encoding="utf-8"))
    assert found["unconditional"][0]["samples"] == texts and found["guided"] == asked
    assert found["scorers"] == {"fluency": "gpt2", "judges": {"tone": "judge"}} and found["adopted_from"] == "first"
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert all(f"\n- {text}\n" in card for text in texts)


def test_columns_and_classes_of_a_recipe_are_no_paths(copy, tmp_path):
    recipe = copy / "recipe.yaml"
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    words = {"text_column": "/text", "condition_column": "~label", "classes": ["/s", "~", "01"], "splits": ["/a", "b"]}
    given["data"] |= words | {"source": "/home/me/a.csv", "extra_sources": ["~/b.csv", "wmt/wmt14"]}
    recipe.write_text(yaml.safe_dump(given), encoding="utf-8")
    publish(copy, tmp_path / "small")
    data = yaml.safe_load((tmp_path / "small" / "recipe.yaml").read_text(encoding="utf-8"))["data"]
    assert data == given["data"] | {"source": "a.csv", "extra_sources": ["b.csv", "wmt/wmt14"]}
