"""The `latdiff` command: what it prints and what it writes."""

import json
import shlex
import shutil
import warnings

import pytest
import torch
import yaml
from denoisers import random_denoiser

from latdiff import LatentTextDiffusionPipeline, cli, load_head, storyworld
from latdiff.cli.sampling import side_by_side
from latdiff.codecs.t5 import TextCodec

# sample


def test_sample_prints_a_text_a_line_and_the_same_for_the_same_seed(latdiff):
    first, again = (latdiff("sample", "--num-samples", 3, "--seed", 0) for _ in range(2))
    assert first.count("\n") == 3
    assert first == again


def test_another_seed_gives_other_samples(latdiff):
    # told apart by the head's probability: texts of a model this small may well be the same
    flags = ("sample", "--num-samples", 2, "--json", "--guide", "sentiment=positive")
    rows = [[json.loads(line) for line in latdiff(*flags, "--seed", seed).splitlines()] for seed in (0, 1)]
    first, other = ([row["guides"]["sentiment"]["prob"] for row in found] for found in rows)
    assert first != other


def test_sample_is_the_pipelines_own(latdiff, pipe):
    expected = pipe(num_samples=2, generator=torch.Generator().manual_seed(4)).texts
    assert latdiff("sample", "--num-samples", 2, "--seed", 4) == "".join(f"{text}\n" for text in expected)


def test_sample_as_json(latdiff, checkpoint):
    printed = latdiff("sample", "--num-samples", 2, "--seed", 5, "--json", "--guide", "sentiment=positive:2.5",
                      "--guide", "tense=past")
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    for row in rows:
        assert set(row) == {"text", "cut", "seed", "index", "guides"}
        assert row["seed"] == 5
        assert set(row["guides"]) == {"sentiment", "tense"}
        assert row["guides"]["sentiment"]["target"] == "positive"
        assert row["guides"]["sentiment"]["scale"] == 2.5
        assert row["guides"]["tense"]["scale"] == load_head(checkpoint / "heads" / "tense").usual_scale("x0")
        assert 0 <= row["guides"]["sentiment"]["prob"] <= 1


def test_sample_as_json_without_guides(latdiff):
    (row,) = map(json.loads, latdiff("sample", "--num-samples", 1, "--json").splitlines())
    assert row["guides"] == {}


def test_decode_names_how_texts_are_written(latdiff, pipe):
    flags = ("--num-samples", 2, "--seed", 4)
    out = pipe(num_samples=2, generator=torch.Generator().manual_seed(4), decode_options="ld4lg")
    rows = [json.loads(line) for line in latdiff("sample", *flags, "--decode", "ld4lg", "--json").splitlines()]
    assert [row["text"] for row in rows] == out.texts
    assert [row["cut"] for row in rows] == out.cut
    assert latdiff("sample", *flags, "--decode", "greedy") == latdiff("sample", *flags)
    assert latdiff("sample", *flags) != latdiff("sample", *flags, "--decode", "ld4lg")


def test_an_edit_is_written_as_decode_says(latdiff, pipe, checkpoint):
    guide = load_head(checkpoint / "heads" / "tense").toward("past")
    out = pipe.edit(["A story."], [guide], generator=torch.Generator().manual_seed(0), decode_options="ld4lg")
    printed = latdiff("edit", "--text", "A story.", "--guide", "tense=past", "--decode", "ld4lg", "--json")
    assert [json.loads(printed)[key] for key in ("text", "cut")] == [out.texts[0], out.cut[0]]


@pytest.mark.parametrize("flags", [["sample"], ["edit", "--text", "A.", "--guide", "tense=past"]], ids=lambda f: f[0])
def test_an_unknown_decoding_names_the_known_ones(refused, flags):
    assert refused(*flags, "--decode", "ld4") == "no decoding 'ld4', only greedy, ld4lg; did you mean ld4lg?"


def test_compare_shows_unsteered_texts_of_the_same_seed(latdiff):
    flags = ("--num-samples", 2, "--seed", 1, "--guide", "sentiment=negative:3")
    plain = latdiff("sample", *flags[:4]).splitlines()
    rows = [json.loads(line) for line in latdiff("sample", *flags, "--compare", "--json").splitlines()]
    assert [row["unsteered"] for row in rows] == plain
    assert [row["text"] for row in rows] == latdiff("sample", *flags).splitlines()
    beside = latdiff("sample", *flags, "--compare")
    assert beside.count("\n\n") == 2
    assert all(line.count("  |  ") == 1 for line in beside.splitlines() if line)


def test_the_command_line_gives_a_conditional_model_its_condition(latdiff, pipe, tmp_path, monkeypatch):
    call = LatentTextDiffusionPipeline.__call__
    pipe.register_modules(denoiser=random_denoiser(codec_digest=pipe.codec.digest, classes=["calm", "wild"]))
    pipe.save_pretrained(tmp_path)
    rows = latdiff("sample", "--cond", "calm", "--cond", "wild", "--json", folder=tmp_path).splitlines()
    assert [json.loads(row)["cond"] for row in rows] == ["calm", "wild"]
    asked = {}

    def listening(self, cond=None, num_samples=None, guides=(), **given):
        asked.update(given, cond=cond, num_samples=num_samples)
        return call(self, cond, num_samples, guides, **given)

    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", listening)
    flags = ("--cond", "calm", "--keep", 0.75, "--num-samples", 3, "--json")
    assert len(latdiff("sample", *flags, folder=tmp_path).splitlines()) == 3 and asked["keep"] == 0.75
    flags = ("--cond", "calm", "--guidance-scale", 2, "--candidates", 2, "--num-samples", 3, "--json")
    assert [json.loads(row)["cond"] for row in latdiff("sample", *flags, folder=tmp_path).splitlines()] == ["calm"] * 3
    assert (asked["cond"], asked["guidance_scale"], asked["candidates"], asked["num_samples"]) == ("calm", 2, 2, 3)
    assert asked["keep"] == 1
    with pytest.raises(SystemExit, match="must be one of calm, wild"):
        latdiff("sample", "--cond", "clam", folder=tmp_path)


def test_two_columns():
    assert side_by_side("one two three", "four", width=8) == "one two   |  four\nthree     |  "


def test_scheduler_and_steps_change_what_is_written(latdiff, pipe):
    from latdiff.diffusion.sampling import make_scheduler

    pipe.scheduler = make_scheduler("unipc", pipe.scheduler.config.trained_betas)
    expected = pipe(num_samples=2, num_inference_steps=6, generator=torch.Generator().manual_seed(0)).texts
    assert (
        latdiff("sample", "--num-samples", 2, "--scheduler", "unipc", "--steps", 6).splitlines() == expected
    )


def test_sampling_leaves_the_checkpoint_as_it_was(latdiff, checkpoint, fingerprint):
    before = fingerprint(checkpoint)
    latdiff("sample", "--num-samples", 1, "--guide", "tense=past", "--scheduler", "ddim")
    assert fingerprint(checkpoint) == before


def test_guides_take_a_mode_several_labels_and_labels_to_avoid(latdiff, reviews, checkpoint, rows_of):
    latdiff("fit-head", "--data", reviews(rows_of(["calm", "dull", "wild"])), "--name", "mood")
    printed = latdiff("sample", "--num-samples", 1, "--json", "--mode", "denoiser", "--guide", "mood=calm+wild:2",
                      "--avoid", "tense=past")
    steered = json.loads(printed)["guides"]
    assert (steered["mood"]["target"], steered["mood"]["scale"]) == ("calm+wild", 2)
    assert steered["tense"]["target"] == "present"
    assert steered["mood"]["mode"] == steered["tense"]["mode"] == "denoiser"
    shutil.rmtree(checkpoint / "heads" / "mood")


def test_a_head_of_numbers_steers_to_a_number(latdiff, checkpoint):
    printed = latdiff("fit-head", "--data", "storyworld", "--label-column", "length", "--name", "sentences",
                      "--number", "--limit", 60)
    assert "cross-validated R2" in printed
    row = json.loads(latdiff("sample", "--num-samples", 1, "--json", "--guide", "sentences=4.5"))
    assert row["guides"]["sentences"]["target"] == "4.5"
    assert 0 <= row["guides"]["sentences"]["prob"] <= 1
    shutil.rmtree(checkpoint / "heads" / "sentences")


def test_a_noise_aware_head_is_read_at_z(latdiff, checkpoint):
    printed = latdiff("fit-head", "--data", "storyworld", "--label-column", "tense", "--name", "time", "--noise-aware",
                      "--limit", 60, "--regularisation", "cv", "--features", "both")
    assert "accuracy by noise level sigma, at z_t:  0.00: " in printed
    assert any(f", C {C}," in printed for C in ("0.001", "0.01", "0.1", "1", "10"))
    flags = ("sample", "--num-samples", 1, "--json", "--guide", "time=past")
    modes = [json.loads(latdiff(*flags, *more))["guides"]["time"]["mode"] for more in ((), ("--mode", "noisy"))]
    assert modes == ["x0", "noisy"]
    shutil.rmtree(checkpoint / "heads" / "time")


# edit


def test_edit_shows_before_and_after(latdiff, tmp_path):
    path = tmp_path / "texts.txt"
    texts = [story.text for story in storyworld.sample(3, 8)]
    path.write_text("\n".join(texts), encoding="utf-8")
    flags = ("--guide", "sentiment=positive:3", "--json")
    rows = [json.loads(line) for line in latdiff("edit", "--data", path, *flags, "--limit", 2).splitlines()]
    assert [row["before"] for row in rows] == texts[:2]
    assert all(set(row) == {"text", "before", "cut", "seed", "index", "guides"} for row in rows)
    (row,) = [json.loads(line) for line in latdiff("edit", "--text", texts[0], *flags).splitlines()]
    assert row["guides"]["sentiment"]["target"] == "positive"
    assert "  |  " in latdiff("edit", "--text", texts[0], "--guide", "sentiment=positive", "--strength", 0.2)


def test_an_edit_says_which_texts_do_not_come_back_without_one(latdiff, monkeypatch):
    text, flags = storyworld.sample(1, 8)[0].text, ("--guide", "sentiment=positive")
    with pytest.warns(UserWarning, match="1 of 1 texts do not come back from their latents word for word"):
        latdiff("edit", "--text", text, *flags)
    monkeypatch.setattr(TextCodec, "decode", lambda self, latents, **_: [text] * len(latents))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*do not come back")
        latdiff("edit", "--text", f" {text}", *flags)


# fit-head


def test_a_head_in_a_folder_of_its_own_says_how_to_steer_with_it(latdiff, reviews, rows_of, tmp_path):
    printed = latdiff("fit-head", "--data", reviews(rows_of(["calm", "not wild", "dull"])), "--name", "mood",
                      "--output", tmp_path / "mood")
    command = next(line for line in printed.splitlines() if line.startswith("steer with it: "))
    guide = shlex.split(command)[-2:]
    assert guide == ["--guide", f"{tmp_path / 'mood'}=not wild"]
    assert load_head(tmp_path / "mood").classes_.tolist() == ["calm", "dull", "not wild"]
    assert len(latdiff("sample", "--num-samples", 1, *guide).splitlines()) == 1


def test_a_head_of_numbers_is_steered_with_by_one_of_its_numbers(latdiff, reviews, rows_of, tmp_path):
    printed = latdiff("fit-head", "--data", reviews(rows_of([4, 1, 2, 3, 5])), "--name", "stars", "--number",
                      "--output", tmp_path / "stars")
    assert f"--guide {tmp_path / 'stars'}=4" in printed


def test_a_head_that_replaces_another_says_so(latdiff, reviews, rows_of, tmp_path):
    words = ["fit-head", "--data", reviews(rows_of(["calm", "wild"])), "--name", "mood", "--output", tmp_path / "mood"]
    first, again = latdiff(*words), latdiff(*words)
    assert "(replaces" not in first
    assert f"-> {tmp_path / 'mood'} (replaces the head that was there)" in again


def test_fit_head_writes_a_head_and_says_how_good_it_is(latdiff, checkpoint, reviews, rows_of):
    labels = ["calm", "wild", "dull"]
    printed = latdiff("fit-head", "--data", reviews(rows_of(labels)), "--name", "mood")
    try:
        head = load_head(checkpoint / "heads" / "mood")
        assert head.classes_.tolist() == sorted(labels)
        right = f"right on {100 * head.report['accuracy']:.1f} % of 18 cross-validated texts"
        accuracy = f"{right}, where the commonest label alone would be right on 33.3 %,"
        for part in ("mood", "18 texts", "calm, dull, wild", accuracy, str(checkpoint)):
            assert part in printed
        assert len(latdiff("sample", "--num-samples", 1, "--guide", "mood=wild").splitlines()) == 1
    finally:
        shutil.rmtree(checkpoint / "heads" / "mood")


def test_columns_have_names_of_their_own(latdiff, checkpoint, reviews, rows_of):
    data = reviews([{"body": row["text"], "meta": {"tone": row["label"]}} for row in rows_of(["up", "down"])])
    latdiff(
        "fit-head", "--data", data, "--name", "tone", "--text-column", "body", "--label-column", "meta.tone"
    )
    assert load_head(checkpoint / "heads" / "tone").classes_.tolist() == ["down", "up"]
    shutil.rmtree(checkpoint / "heads" / "tone")


def test_a_head_is_fitted_before_there_is_a_denoiser(latdiff, tiny, reviews, rows_of, tmp_path):
    folder = tmp_path / "codec-only"
    for part in ("tokenizer", "text_model", "autoencoder"):
        shutil.copytree(tiny.checkpoint / part, folder / part)
    data = reviews([*rows_of(["calm", "wild"]), *rows_of(["calm"])])
    printed = latdiff("fit-head", "--data", data, "--name", "mood", folder=folder)
    assert "the commonest label alone would be right on 66.7 %" in printed and "by noise" not in printed
    assert load_head(folder / "heads" / "mood").report["majority"] == 12 / 18
    printed = latdiff("fit-head", "--data", data, "--name", "aware", "--noise-aware", folder=folder)
    assert "accuracy by noise level sigma, at z_t" in printed


def test_a_label_may_hold_a_colon_and_a_number(latdiff, checkpoint, reviews, rows_of):
    latdiff("fit-head", "--data", reviews(rows_of(["10", "10:30", "a:b"])), "--name", "slot")
    try:
        for words, target, scale in (
            ("10:30", "10:30", None), ("10:30:2", "10:30", 2.0), ("10:2", "10", 2.0), ("10", "10", None),
            ("10:30.0", "10", 30.0), ("a:b", "a:b", None), ("10+a:b:3", "10+a:b", 3.0), ("10+10:30", "10+10:30", None),
        ):
            (line,) = latdiff("sample", "--num-samples", 1, "--json", "--guide", f"slot={words}").splitlines()
            found = json.loads(line)["guides"]["slot"]
            assert found["target"] == target
            assert scale is None or found["scale"] == scale
    finally:
        shutil.rmtree(checkpoint / "heads" / "slot")


# check-config


def test_check_config_prints_the_whole_recipe(tiny, capsys):
    cli.main(["check-config", str(tiny.recipe), "seed=3"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 3
    assert printed["autoencoder"]["num_latents"] == 3
    assert "diffusion" in printed  # defaults too


def test_check_config_prints_every_problem(tiny):
    with pytest.raises(SystemExit) as error:
        cli.main(["check-config", str(tiny.recipe), "sed=3", "denoiser.heads=5", "data.max_tokens=x"])
    assert str(error.value).startswith("error: ")
    assert str(error.value).count("\n  - ") == 2  # what belongs together is checked once each part is right


def test_of_several_processes_the_first_alone_does_what_they_do_not_share(monkeypatch, capsys):
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        cli.main(["check-config", "storyworld"])
        assert bool(capsys.readouterr().out) == printed


def test_an_error_of_one_of_several_processes_names_it(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match=r"process 1: error: .*no recipe"):
        cli.main(["train-ae", "nowhere"])
