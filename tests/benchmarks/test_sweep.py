"""A sweep: every row trained and measured, all mistakes at once, no row run twice."""

import json
import shutil
import sys

import pytest

from benchmarks import sweep
from latdiff.config import RecipeError
from latdiff.errors import UserError

ROWS = """
base: {base}
settings: [train_denoiser.steps=2]
rows:
  As it is: []
  x0, fewer steps: [diffusion.prediction=x0, train_denoiser.steps=1]
"""


MEASURED = {"samplers": ["ddim:2", "ddpm:2"], "num_samples": 6, "seeds": 1, "fluency": None, "mauve": None}


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """run(*flags) -> the document; the sweep's file is `rows.yaml` in the working directory."""
    monkeypatch.chdir(shutil.copytree(tiny.root, tmp_path / "work"))
    file = tmp_path / "work" / "rows.yaml"
    file.write_text(ROWS.format(base=tiny.recipe), encoding="utf-8")

    def run(*flags):
        words = ["rows.yaml", "autoencoder.path=checkpoints/tiny", "--json", "sweep.json", "--num-samples", "6",
                 "--samplers", *MEASURED["samplers"], "--quiet", *flags]
        monkeypatch.setattr(sys, "argv", ["sweep", *words])
        sweep.main()
        return json.loads((tmp_path / "work" / "sweep.json").read_text(encoding="utf-8"))

    return run


def test_every_row_is_trained_and_measured(run, tmp_path):
    document = run("--seeds", "2")
    assert [row["row"] for row in document["rows"]] == ["As it is", "x0, fewer steps"]
    for row, steps in zip(document["rows"], (2, 1), strict=True):
        assert row["training"]["denoiser_steps"] == steps
        assert [one["scheduler"] for one in row["unconditional"]] == ["ddim", "ddpm"]
        assert all({"validity", "slot_tv"} <= set(one) and "samples" not in one for one in row["unconditional"])
        assert "validity" in row["sd"]["unconditional"][0]
    folder = tmp_path / "work" / "checkpoints" / "rows-x0-fewer-steps-0"
    assert json.loads((folder / "denoiser" / "config.json").read_text(encoding="utf-8"))["prediction"] == "x0"
    assert not (folder / "train").exists()


def test_trainings_side_by_side_are_those_of_one_after_another(run, tmp_path):
    together = run("--trainings", "2", "--jobs", "2")["rows"]
    names = ["As it is", "x0, fewer steps"]
    assert [(row["row"], row["seed"]) for row in together] == [(name, seed) for name in names for seed in (0, 1)]
    (tmp_path / "work" / "sweep.json").unlink()
    for folder in (tmp_path / "work" / "checkpoints").glob("rows-*"):
        shutil.rmtree(folder)
    assert list(map(figures, run("--trainings", "2")["rows"])) == list(map(figures, together))
    assert figures(together[0]) != figures(together[1])


def figures(row):
    """What does not depend on the clock."""
    one = [{key: value for key, value in one.items() if key not in ("seconds", "texts_per_second")}
            for one in row["unconditional"]]
    return row["reconstruction"], one


def test_one_training_that_fails_costs_none_beside_it(run, tmp_path):
    folder = tmp_path / "work" / "checkpoints" / "rows-as-it-is-0" / "autoencoder"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{", encoding="utf-8")
    (folder / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"1 of 2 trainings failed\nrows-as-it-is-0: "):
        run("--jobs", "2")
    document = json.loads((tmp_path / "work" / "sweep.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in document["rows"]] == ["x0, fewer steps"]


def test_a_judge_that_is_not_there_is_reported_before_anything_is_trained(run, tmp_path):
    with pytest.raises(UserError, match="no language model 'nowhere'"):
        run("--fluency", "nowhere")
    assert not list((tmp_path / "work" / "checkpoints").glob("rows-*"))


def test_a_sweep_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    whole = run()
    file = tmp_path / "work" / "sweep.json"
    file.write_text(json.dumps(whole | {"rows": whole["rows"][:1]}), encoding="utf-8")
    trained = []
    last = whole["rows"][1]
    monkeypatch.setattr(sweep, "run", lambda one, *rest: trained.append(one.row) or last)
    assert [row["row"] for row in run()["rows"]] == ["As it is", "x0, fewer steps"]
    assert trained == ["x0, fewer steps"]


def test_a_row_of_the_same_name_with_other_settings_is_refused(run, tmp_path):
    row = {"row": "As it is", "seed": 0, "settings": ["train_denoiser.steps=9"]}
    done = {"sweep": "rows"} | MEASURED | {"rows": [row]}
    (tmp_path / "work" / "sweep.json").write_text(json.dumps(done), encoding="utf-8")
    with pytest.raises(UserError, match="was run with"):
        run()


def test_rows_that_were_measured_otherwise_are_not_added_to(run):
    run()
    with pytest.raises(UserError, match=r"num_samples was 6, is 5; seeds was 1, is 2"):
        run("--num-samples", "5", "--seeds", "2")


def test_the_rows_as_a_table(run, capsys):
    row = run()["rows"][0]
    head, _, first, second = capsys.readouterr().out.splitlines()[-4:]
    assert [cell.strip() for cell in head.split("|")[1:5]] == ["", "exact", "at .5 sd", "ddim 2 steps: valid"]
    tv = row["unconditional"][1]["slot_tv"]
    assert [cell.strip() for cell in first.split("|")][1::7] == ["As it is", f"{tv['mean'] / tv['floor']:.3f}"]
    assert second.startswith("| x0, fewer steps | ")
    one = row["unconditional"][0]
    broken = row | {"unconditional": [one | {"perplexity": 2.0}]}, row | {"unconditional": [one]}  # no text, no token
    broken = [one | {"row": name} for one, name in zip(broken, "ab", strict=True)]
    assert sweep.table({"rows": broken}).splitlines()[-1].split("|")[6].strip() == "-"
    two = [row | {"reconstruction": row["reconstruction"] | {"exact_match": share}} for share in (0.1, 0.3)]
    assert sweep.table({"rows": two}).splitlines()[-1].split("|")[2].strip() == "0.200 ± 0.141"


@pytest.mark.parametrize("found", ['{"rows": []}', '{"sweep": "rows", "rows": [{"row": "As it is"}]}'])
def test_figures_of_something_else_are_not_added_to(run, tmp_path, found):
    (tmp_path / "work" / "sweep.json").write_text(found, encoding="utf-8")
    with pytest.raises(UserError, match="no rows of rows with a seed each"):
        run()


def test_a_seed_has_its_own_folder_and_stands_in_its_settings(tmp_path, tiny):
    file = tmp_path / "rows.yaml"
    row = '{a: ["autoencoder.path=checkpoints/of-{seed}"]}'
    file.write_text(f"base: {tiny.recipe}\nrows: {row}\n", encoding="utf-8")
    found = [(one.seed, one.recipe.name, one.recipe.autoencoder.path) for one in sweep.load_sweep(file, ["seed=4"], 2)]
    assert found == [(4, "rows-a-4", "checkpoints/of-4"), (5, "rows-a-5", "checkpoints/of-5")]


@pytest.mark.parametrize(("flag", "value"), [("--jobs", "0"), ("--trainings", "0"), ("--seeds", "-1")])
def test_counts_below_one_are_refused(run, flag, value):
    with pytest.raises(UserError, match=f"{flag} is {value}, must be 1 or more"):
        run(flag, value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{a: [denoiser.widht=3], b: [train_denoiser.steps=0]}", "2 of 2 rows"),
        ("{A b: [], a-B: []}", "the folder of two rows"),
        ("[a, b]", "is no sweep"),
    ],
)
def test_all_mistakes_are_said_before_a_row_is_trained(tmp_path, tiny, rows, said):
    file = tmp_path / "rows.yaml"
    file.write_text(f"base: {tiny.recipe}\nrows: {rows}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=said):
        sweep.load_sweep(file, [])


@pytest.mark.parametrize("path", sorted((sweep.Path(sweep.__file__).parent / "sweeps").glob("*.yaml")))
def test_the_sweeps_that_come_with_it_can_be_run(path):
    assert len(sweep.load_sweep(path, [])) > 1
