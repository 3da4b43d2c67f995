"""Mistakes on the command line: each gets a sentence, and the checkpoint is left as it was."""

import json
import shutil
import warnings

import pytest

from latdiff import cli


def test_an_unknown_head(refused):
    said = refused("sample", "--guide", "sentimnt=positive")
    assert "sentimnt" in said
    assert "sentiment, tense" in said


def test_a_condition_that_the_model_was_not_trained_with(refused):
    assert "trained without conditions" in refused("sample", "--cond", "positive")


def test_an_unknown_label(refused):
    assert "did you mean positive?" in refused("sample", "--guide", "sentiment=positiv:2")


def test_an_edit_without_texts_or_direction(refused, tmp_path):
    assert "give --text once or more, or --data FILE" in refused("edit", "--guide", "tense=past")
    assert "give --guide HEAD=LABEL" in refused("edit", "--text", "A story.")
    assert "none.txt" in refused("edit", "--data", tmp_path / "none.txt", "--guide", "tense=past")
    assert "strength is 2.0" in refused("edit", "--text", "A story.", "--guide", "tense=past", "--strength", 2)


def test_settings_that_do_not_go_together(refused, reviews, rows_of):
    data = reviews(rows_of(["1", "2"]))
    assert "leave out --noise-aware" in refused("fit-head", "--data", data, "--name", "x", "--number", "--noise-aware")
    assert "--limit is 0" in refused("edit", "--data", data, "--guide", "tense=past", "--limit", 0)
    assert "must be finite" in refused("evaluate", "--json", data.parent / "m.json", "--sweep-scale", "nan")


def test_guides_of_one_head_are_all_reported(latdiff):
    with pytest.warns(UserWarning, match="pull against each other"):
        printed = latdiff("sample", "--num-samples", 1, "--json", "--guide", "tense=past", "--guide", "tense=present")
    assert list(json.loads(printed)["guides"]) == ["tense", "tense=present"]


def test_a_mode_that_the_head_cannot_be_read_in(refused):
    assert "fit it with noise_aware=True" in refused("sample", "--guide", "tense=past", "--mode", "noisy")


@pytest.mark.parametrize(
    "guide", ["sentiment", "sentiment=", "=positive", "sentiment=positive:", "sentiment=positive:x", "",
              "sentiment=positive:nan", "sentiment=positive:inf"],
)
def test_a_malformed_guide(refused, guide):
    said = refused("sample", "--guide", guide)
    assert repr(guide) in said
    assert "HEAD=LABEL" in said


def test_an_unknown_scheduler(refused):
    assert "did you mean ddim?" in refused("sample", "--scheduler", "ddimm")


@pytest.mark.parametrize(
    "flags", [("--num-samples", 0), ("--num-samples", -2), ("--steps", 0), ("--steps", -1)]
)
def test_numbers_below_one(refused, flags):
    assert "must be 1" in refused("sample", *flags)


@pytest.mark.parametrize("share", [0, 1e-12, 1.5, "inf"])
def test_a_share_that_cannot_be_kept_is_refused_before_anything_loads(refused, share, tmp_path):
    said = refused("sample", "--keep", share, folder=tmp_path)
    assert f"--keep is {float(share)}, must be at least 0.01 and at most 1" in said


@pytest.mark.parametrize("flags", [("--keep", 0.5), ("--candidates", 2)])
def test_texts_that_are_chosen_have_no_others_of_the_same_noise_beside_them(refused, flags):
    assert "--compare shows texts of the same noise" in refused("sample", "--compare", *flags)


@pytest.mark.parametrize("seed", ["-1", "x", str(2**63)])
def test_a_seed_that_no_generator_takes(latdiff, capsys, seed):
    with pytest.raises(SystemExit):
        latdiff("sample", f"--seed={seed}")
    assert "must be a whole number from 0" in capsys.readouterr().err


def test_more_steps_than_there_are(refused):
    assert "num_inference_steps is 5000, must be 1 to 1000" in refused("sample", "--steps", 5000)


@pytest.mark.parametrize("command", [("sample",), ("evaluate", "--json", "m.json")])
def test_a_checkpoint_that_is_not_there(refused, tmp_path, command):
    said = refused(*command, folder=tmp_path / "none")
    assert "no model_index.json" in said
    assert "latdiff train-diffusion" in said


@pytest.mark.parametrize("part", ["text_model", "autoencoder", "denoiser"])
def test_a_checkpoint_cut_short(refused, checkpoint, tmp_path, part):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    (weights,) = (damaged / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-30])
    assert "cut short or damaged" in refused("sample", folder=damaged)


def test_a_head_cut_short(refused, checkpoint, tmp_path):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = damaged / "heads" / "tense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "cut short or damaged" in refused("sample", "--guide", "tense=past", folder=damaged)


def test_a_head_of_another_checkpoint(refused, checkpoint, tmp_path):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    config = other / "heads" / "tense" / "config.json"
    digest = json.loads(config.read_text(encoding="utf-8"))["codec_digest"]
    config.write_text(
        config.read_text(encoding="utf-8").replace(digest, "0123456789abcdef"), encoding="utf-8"
    )
    said = refused("sample", "--guide", "tense=past", folder=other)
    assert digest in said
    assert "0123456789abcdef" in said


def test_data_that_are_not_there(refused, tmp_path):
    assert "none.jsonl" in refused("fit-head", "--data", tmp_path / "none.jsonl", "--name", "x")


def test_data_of_one_class(refused, reviews, rows_of):
    assert "'good'" in refused("fit-head", "--data", reviews(rows_of(["good"])), "--name", "x")


def test_data_of_too_few_texts(refused, reviews, rows_of):
    assert "at least 5" in refused(
        "fit-head", "--data", reviews(rows_of(["good", "bad"], each=3)), "--name", "x"
    )


def test_data_without_the_column(refused, reviews, rows_of):
    said = refused(
        "fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", "x", "--label-column", "labl"
    )
    assert "did you mean label?" in said


def test_data_that_are_no_json(refused, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{oops', encoding="utf-8")
    assert "line 2" in refused("fit-head", "--data", tmp_path / "bad.jsonl", "--name", "x")


def test_data_too_long_for_the_autoencoder_are_left_out_and_counted(latdiff, checkpoint, reviews, rows_of):
    rows = rows_of(["a", "b"])
    rows[3]["text"] = "harbor " * 300
    try:
        assert "11 texts (1 too long, left out)" in latdiff("fit-head", "--data", reviews(rows), "--name", "x")
        rows[4]["text"] = rows[3]["text"]
        with pytest.warns(UserWarning, match="2 of 12 texts are too long for this codec .* knows short ones alone"):
            latdiff("fit-head", "--data", reviews(rows), "--name", "x")
    finally:
        shutil.rmtree(checkpoint / "heads" / "x")


@pytest.mark.parametrize(
    "flag", ["--limit=0", "--limit=-5", "--regularisation=0", "--regularisation=nan", "--regularisation=strong"]
)
def test_settings_of_the_fit_that_cannot_be(refused, reviews, flag, rows_of):
    said = refused("fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", "x", flag)
    assert flag.partition("=")[0] in said


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a=b"])
def test_a_name_that_no_guide_could_call(refused, reviews, name, rows_of):
    assert repr(name) in refused("fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", name)


def test_rows_without_a_label_or_a_text_are_left_out_and_counted(latdiff, checkpoint, reviews, rows_of):
    rows = [*rows_of(["a", "b"]), {"text": "Nobody read this."}, {"text": "Nor this.", "label": ""},
            {"text": " ", "label": "a"}]
    try:
        printed = latdiff("fit-head", "--data", reviews(rows), "--name", "x")
        assert "12 texts (0 too long, 1 without a text, 2 without a label, left out)" in printed
    finally:
        shutil.rmtree(checkpoint / "heads" / "x")


def test_numbers_that_are_not_whole_are_hardly_classes(latdiff, refused, checkpoint, reviews, rows_of):
    try:
        with pytest.warns(UserWarning, match=r"each of the 3 different ones becomes a class .* --number fits a head"):
            latdiff("fit-head", "--data", reviews(rows_of(["1.5", "2", "2.25"])), "--name", "x")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*--number")
            latdiff("fit-head", "--data", reviews(rows_of(["1.0", "2", "2.25"])), "--name", "x")
    finally:
        shutil.rmtree(checkpoint / "heads" / "x")
    few = reviews(rows_of([str(0.5 + number) for number in range(8)], each=2))
    assert "fit a head of numbers with --number" in refused("fit-head", "--data", few, "--name", "x")


def test_no_command_at_all(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main([])
    assert error.value.code == 2
    assert capsys.readouterr().err == (
        "latdiff: error: the following arguments are required: COMMAND\n`latdiff --help` lists the commands\n")


@pytest.mark.parametrize(("words", "said"), [
    ("sample x --num_samples 3", "--num_samples 3; did you mean --num-samples?"),
    ("sample x --num_inference_steps=5", "--num_inference_steps=5; did you mean --steps?"),
    ("fit-head x --data d --name n --lable-column y", "--lable-column y; did you mean --label-column?"),
    ("sample x --qqqq", "--qqqq"),
    ("train-ae storyworld --steps 5", "--steps; did you mean train_autoencoder.steps=5? Settings stand without dashes"),
    ("train-ae storyworld --quite", "--quite; settings stand without dashes, such as seed=3"),
    ("train-diffusion storyworld --seed=3", "--seed=3; did you mean seed=3? Settings stand without dashes"),
    ("train-diffusion storyworld --train_denoiser.step 9 seed=1", "did you mean train_denoiser.steps=9? Settings"),
    ("check-config storyworld --num-latents --quiet", "did you mean autoencoder.num_latents=...? Settings"),
])
def test_unknown_flags_name_the_one_that_was_meant(words, said, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(words.split())
    printed = capsys.readouterr().err
    assert error.value.code == 2
    command = f"latdiff {words.split()[0]}"
    assert printed.startswith(f"{command}: error: unrecognized arguments: --")
    assert printed.endswith(f"\n`{command} --help` shows its flags\n") and "usage" not in printed
    assert f"{said}\n" in printed or (said.endswith("Settings") and said in printed)
