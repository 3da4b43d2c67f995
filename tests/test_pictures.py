"""`latdiff plot`: which pictures there are of a checkpoint, what they are drawn from, and why there are no others."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from latdiff import cli
from latdiff.errors import UserError
from latdiff.evaluation import pictures
from latdiff.evaluation.card import write_card
from latdiff.evaluation.pictures import Subject, draw
from latdiff.evaluation.report import update_metrics
from latdiff.progress import read_curves

ROW = {"n": 4, "distinct": 1.0, "memorised": 0.0, "word_histogram": [0, 1, 3]}
MEASURED = {
    "checkpoint": "tiny", "seeds": [0], "machine": "an abacus", "unseen": ROW,
    "unconditional": [ROW | {"scheduler": "ddpm", "steps": 3, "samples": ["A."]}],
    "denoising": {"times": [0.1, 0.9], "errors": [0.0, 0.8]},
    "sweep": [{"attribute": "tense", "mode": "x0", "scale": scale, "n": 4, "success": 0.5, "worst": 0.5} | ROW
              for scale in (1.0, 2.0)],
}


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint with two heads, to draw into."""
    return shutil.copytree(checkpoint, tmp_path / "mine")


def drawn(printed):
    """Name -> file, or why there is none, of what the command prints."""
    rows = [line.split(maxsplit=1) for line in printed.splitlines() if "card" not in line]
    return {name: said.removeprefix("-> ") for name, said in rows}


def titles(monkeypatch):
    found = {}
    for name in ("plot_latents", "plot_trajectory", "plot_curves"):
        monkeypatch.setattr(pictures, name, lambda what, path, *more, name=name: found.update({name: what}))
    return found


def test_a_trained_checkpoint_has_its_pictures_in_its_card(latdiff, copy):
    found = drawn(latdiff("plot", folder=copy))
    for name in ("curves", "latents", "trajectory", "reconstruction"):
        assert found[name] == str(copy / f"metrics-{name}.png")
        assert (copy / f"metrics-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert found["denoising"] == f"not drawn: not measured; `latdiff evaluate {copy}` does that"
    assert "--sweep-scale" in found["control"]
    text = ModelCard.load(copy / "README.md").text
    assert text.count("![") == 4 and "![trajectory](metrics-trajectory.png)\n\nWhere a head steers" in text


def test_what_was_measured_is_drawn_with_it_and_the_folder_of_output_gets_all(latdiff, copy, fingerprint, tmp_path):
    update_metrics(copy, MEASURED)
    before = fingerprint(copy)
    found = drawn(latdiff("plot", "--output", tmp_path / "out", folder=copy))
    names = ["control-tense", "curves", "denoising", "latents", "lengths", "reconstruction", "trajectory"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"mine-{name}.png" for name in names]
    assert not [said for said in found.values() if said.startswith("not drawn")]
    assert fingerprint(copy) == before


def test_a_checkpoint_without_heads_says_how_to_fit_one(tiny, monkeypatch, tmp_path):
    seen = titles(monkeypatch)
    found = {one.name: one for one in draw(Subject(tiny.checkpoint, "mine", tmp_path / "mine.json"))}
    fit = "no heads of labels; fit one with `latdiff fit-head mine --data FILE --name NAME`"
    assert found["latents"].reason == fit
    assert found["trajectory"].path and seen["plot_trajectory"][-1].scores == {}
    assert list(seen["plot_curves"]) == ["autoencoder", "denoiser"]


def test_texts_of_a_world_are_labelled_exactly(checkpoint, monkeypatch, tmp_path):
    seen = titles(monkeypatch)
    subject = Subject(checkpoint, "mine", tmp_path / "mine.json")
    list(draw(subject, {"latents": pictures.latents}))
    assert [(one.head.name, one.source) for one in seen["plot_latents"]] == [
        ("sentiment", "texts of storyworld, labelled exactly"), ("tense", "texts of storyworld, labelled exactly")]
    for one in seen["plot_latents"]:
        assert len(one.latents) == len(one.labels) and set(one.labels) == set(one.head.classes_)


def test_texts_of_a_files_recipe_are_not_read_and_the_head_labels_the_models_own(copy, monkeypatch, tmp_path):
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("source: storyworld", "source: /etc/passwd"),
                      encoding="utf-8")
    seen = titles(monkeypatch)
    subject = Subject(copy, "mine", tmp_path / "mine.json")
    list(draw(subject, {"latents": pictures.latents}))
    (one, _) = seen["plot_latents"]
    assert one.source == "texts of the model's own, labelled by the head itself"
    assert one.labels.tolist() == one.head.predict(one.latents).tolist()


def test_texts_of_ones_own_are_drawn_for_their_head(latdiff, copy, reviews, rows_of, monkeypatch):
    seen, file = titles(monkeypatch), reviews(rows_of(["past", "present"]))
    latdiff("plot", "--labels", f"tense={file}", "--guide", "sentiment=negative", folder=copy)
    own, other = seen["plot_latents"]
    assert (own.head.name, own.source, len(own.labels)) == ("tense", "texts and labels that were given", 12)
    assert other.source.startswith("texts of storyworld")
    assert list(seen["plot_trajectory"][0].scores) == ["sentiment=negative"]


def test_a_language_model_has_curves_and_keeps_its_card(latdiff, tiny, tmp_path):
    copy = shutil.copytree(tiny.ar, tmp_path / "ar")
    before = (copy / "README.md").read_text(encoding="utf-8")
    found = drawn(latdiff("plot", folder=copy))
    assert found["curves"].endswith("metrics-curves.png")
    assert "no finished pipeline" in found["trajectory"]
    assert (copy / "README.md").read_text(encoding="utf-8") == before


def test_mistakes_get_a_sentence(refused, reviews, rows_of, tmp_path, monkeypatch):
    assert "holds no finished pipeline" in refused("plot", folder=tmp_path)
    assert "--guide is 'sentiment'" in refused("plot", "--guide", "sentiment")
    assert "--labels is 'tense', must be HEAD=DATA" in refused("plot", "--labels", "tense")
    file = reviews(rows_of(["past", "present"]))
    assert "heads of labels there: sentiment, tense" in refused("plot", "--labels", f"tens={file}")
    with pytest.raises(SystemExit, match="name a folder for the pictures with --output"):
        cli.main(["plot", "english"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "install it with `pip install matplotlib`" in refused("plot")


def test_where_nothing_can_be_drawn_the_command_fails(latdiff, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no picture of .* could be drawn; above is why"):
        latdiff("plot", folder=tmp_path)
    assert capsys.readouterr().out.count("not drawn") == len(pictures.PICTURES)


DEEP = "[" * 100_000
LONG = 10**400


@pytest.mark.parametrize("figures", [
    {"unseen": [1], "unconditional": [1]},
    {"unseen": ROW | {"word_histogram": [0, 0]}, "unconditional": []},
    {"unseen": ROW | {"word_histogram": []}, "unconditional": [3]},
    {"reconstruction": {"n": 1}},
    {"reconstruction": 5},
    {"sweep": [{"attribute": "x"}]},
    {"denoising": {"times": [0.1], "errors": [LONG]}},
    DEEP,
    "[1]",
], ids=lambda figures: str(figures)[:40])
def test_figures_that_no_evaluation_wrote_are_not_drawn_and_all_else_is(tiny, figures, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(tiny.checkpoint / "metrics.jsonl", folder)
    content = figures if isinstance(figures, str) else json.dumps(MEASURED | {"reconstruction": None} | figures)
    (folder / "metrics.json").write_text(content, encoding="utf-8")
    wanted = {"curves": pictures.curves} | pictures.MEASURED
    found = {one.name: one for one in draw(Subject(folder, "mine", folder / "metrics.json"), wanted)}
    undrawn = {"unseen": "lengths", "sweep": "control"}
    bad = [undrawn.get(key, key) for key in figures if key != "unconditional"] if isinstance(figures, dict) else (
        list(pictures.MEASURED))
    assert found["curves"].path
    for name in pictures.MEASURED:
        assert bool(found[name].path) == (name not in {*bad, "reconstruction"})
    for name in bad:
        assert "metrics.json holds figures that no evaluation has written" in found[name].reason or (
            "metrics.json exists but holds no figures" in found[name].reason)


def test_a_card_is_not_written_of_figures_that_no_evaluation_wrote(copy):
    (copy / "metrics.json").write_text(json.dumps({"seeds": 5}), encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.json holds figures that no evaluation has written"):
        write_card(copy)


@pytest.mark.parametrize("line", [
    {"stage": "x", "step": 1, "loss": LONG}, {"stage": "x", "step": LONG, "loss": 1.0}, DEEP,
    {"stage": "x", "step": 1, "loss": 1e308}, {"stage": "x", "step": 1, "loss": "1"},
    {"stage": "x", "step": -3, "loss": 1.0},
], ids=lambda line: str(line)[:40])
def test_lines_that_no_training_wrote_are_left_out_of_the_curves(line, tmp_path):
    good = [{"stage": "denoiser", "step": step, "loss": 1.0 / step} for step in (1, 21)]
    lines = [one if isinstance(one, str) else json.dumps(one) for one in (*good, line)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert pictures.curves_of(read_curves(tmp_path / "metrics.jsonl")) == {"denoiser": ([1, 21], [1.0, 1 / 21])}


def test_pictures_of_the_working_directory_are_named_after_it(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"stage": "denoiser", "step": 1, "loss": 1.0}', encoding="utf-8")
    monkeypatch.chdir(folder)
    cli.main(["plot", ".", "--output", "../pics"])
    assert drawn(capsys.readouterr().out)["curves"] == "../pics/mine-curves.png"
    assert [file.name for file in (tmp_path / "pics").iterdir()] == ["mine-curves.png"]


def test_a_folder_of_pictures_whose_name_is_not_utf_8_is_printed_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "denoiser", "step": 1, "loss": 1.0}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cli.main(["plot", str(tmp_path), "--output", os.fsdecode(b"pics\xff")])
    assert drawn(capsys.readouterr().out)["curves"].startswith("pics\\udcff/")
    assert len(list(Path(os.fsdecode(b"pics\xff")).iterdir())) == 1


def test_more_stages_than_any_training_has_are_not_drawn(tmp_path):
    lines = [json.dumps({"stage": f"s{number}", "step": 1, "loss": 1.0}) for number in range(500)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (one,) = draw(Subject(tmp_path, "mine", tmp_path / "metrics.json"), {"curves": pictures.curves})
    assert one.path is None and "metrics.jsonl has 500 stages" in one.reason


def test_the_snippet_of_the_page_runs_as_written(checkpoint, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "plots.md").read_text(encoding="utf-8")
    shutil.copytree(checkpoint, tmp_path / "storyworld")
    monkeypatch.chdir(tmp_path)
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {})
    rows = [line for line in capsys.readouterr().out.splitlines() if "sentiment=positive" in line]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert all(f"| `{name}` |" in page for name in pictures.PICTURES if name != "control")
