"""The `latdiff` command: what it prints, what it writes, and a sentence for every mistake."""

import json
import shutil

import pytest
import torch
import yaml

from latdiff import LatentTextDiffusionPipeline, cli, load_head, storyworld
from latdiff.denoiser import LatentDenoiser


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """The tiny checkpoint with two heads, fitted by the command itself."""
    folder = shutil.copytree(tiny.checkpoint, tmp_path_factory.mktemp("cli") / "tiny")
    for name in ("sentiment", "tense"):
        cli.main(["fit-head", str(folder), "--quiet", "--data", "storyworld", "--label-column", name,
                  "--name", name, "--limit", "80"])  # fmt: skip
    return folder


@pytest.fixture
def latdiff(checkpoint, capsys):
    """latdiff(command, *flags) -> what was printed"""

    def run(command, *flags, folder=checkpoint):
        capsys.readouterr()
        cli.main([command, str(folder), "--quiet", *map(str, flags)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(latdiff, checkpoint, fingerprint):
    """refused(command, *flags) -> the sentence of the error; the checkpoint is left as it was."""

    def run(command, *flags, folder=checkpoint):
        before = fingerprint(checkpoint)
        with pytest.raises(SystemExit) as error:
            latdiff(command, *flags, folder=folder)
        assert fingerprint(checkpoint) == before
        said = error.value.code  # a text here is printed, and the exit status is 1
        assert isinstance(said, str)
        assert said.startswith("error: ")
        assert "Traceback" not in said
        return said.removeprefix("error: ")

    return run


@pytest.fixture
def reviews(tmp_path):
    def write(rows):
        path = tmp_path / "reviews.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write


def rows_of(labels, each=6):
    stories = storyworld.sample(each * len(labels), 5)
    return [{"text": story.text, "label": labels[i % len(labels)]} for i, story in enumerate(stories)]


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
                      "--guide", "tense=past")  # fmt: skip
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


def test_a_conditional_model_is_told_on_the_command_line(latdiff, pipe, tmp_path, monkeypatch):
    call = LatentTextDiffusionPipeline.__call__
    settings = {"codec_digest": pipe.codec.digest(), "classes": ["calm", "wild"]}
    denoiser = LatentDenoiser(3, 4, width=16, depth=1, heads=2, **settings)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    pipe.register_modules(denoiser=denoiser)
    pipe.save_pretrained(tmp_path)
    rows = latdiff("sample", "--cond", "calm", "--cond", "wild", "--json", folder=tmp_path).splitlines()
    assert [json.loads(row)["cond"] for row in rows] == ["calm", "wild"]
    asked = {}

    def listening(self, **given):
        asked.update(given)
        return call(self, **given)

    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", listening)
    flags = ("--cond", "calm", "--guidance-scale", 2, "--candidates", 2, "--num-samples", 3, "--json")
    assert [json.loads(row)["cond"] for row in latdiff("sample", *flags, folder=tmp_path).splitlines()] == ["calm"] * 3
    assert (asked["cond"], asked["guidance_scale"], asked["candidates"], asked["num_samples"]) == ("calm", 2, 2, 3)
    with pytest.raises(SystemExit, match="must be one of calm, wild"):
        latdiff("sample", "--cond", "clam", folder=tmp_path)


def test_two_columns():
    assert cli.side_by_side("one two three", "four", width=8) == "one two   |  four\nthree     |  "


def test_scheduler_and_steps_change_what_is_written(latdiff, pipe):
    from latdiff.pipeline import make_scheduler

    pipe.scheduler = make_scheduler("unipc", pipe.scheduler.config.trained_betas)
    expected = pipe(num_samples=2, num_inference_steps=6, generator=torch.Generator().manual_seed(0)).texts
    assert (
        latdiff("sample", "--num-samples", 2, "--scheduler", "unipc", "--steps", 6).splitlines() == expected
    )


def test_sampling_leaves_the_checkpoint_as_it_was(latdiff, checkpoint, fingerprint):
    before = fingerprint(checkpoint)
    latdiff("sample", "--num-samples", 1, "--guide", "tense=past", "--scheduler", "ddim")
    assert fingerprint(checkpoint) == before


def test_guides_take_a_mode_several_labels_and_labels_to_avoid(latdiff, reviews, checkpoint):
    latdiff("fit-head", "--data", reviews(rows_of(["calm", "dull", "wild"])), "--name", "mood")
    printed = latdiff("sample", "--num-samples", 1, "--json", "--mode", "denoiser", "--guide", "mood=calm+wild:2",
                      "--avoid", "tense=past")  # fmt: skip
    steered = json.loads(printed)["guides"]
    assert (steered["mood"]["target"], steered["mood"]["scale"]) == ("calm+wild", 2)
    assert steered["tense"]["target"] == "present"
    assert steered["mood"]["mode"] == steered["tense"]["mode"] == "denoiser"
    shutil.rmtree(checkpoint / "heads" / "mood")


def test_a_head_of_numbers_steers_to_a_number(latdiff, checkpoint):
    printed = latdiff("fit-head", "--data", "storyworld", "--label-column", "length", "--name", "sentences",
                      "--number", "--limit", 60)  # fmt: skip
    assert "cross-validated R2" in printed
    row = json.loads(latdiff("sample", "--num-samples", 1, "--json", "--guide", "sentences=4.5"))
    assert row["guides"]["sentences"]["target"] == "4.5"
    assert 0 <= row["guides"]["sentences"]["prob"] <= 1
    shutil.rmtree(checkpoint / "heads" / "sentences")


def test_a_noise_aware_head_is_read_at_z(latdiff, checkpoint):
    printed = latdiff("fit-head", "--data", "storyworld", "--label-column", "tense", "--name", "time", "--noise-aware",
                      "--limit", 60, "--regularisation", "cv", "--features", "both")  # fmt: skip
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


# fit-head


def test_fit_head_writes_a_head_and_says_how_good_it_is(latdiff, checkpoint, reviews):
    labels = ["calm", "wild", "dull"]
    printed = latdiff("fit-head", "--data", reviews(rows_of(labels)), "--name", "mood")
    try:
        head = load_head(checkpoint / "heads" / "mood")
        assert head.labels == sorted(labels)
        for part in ("mood", "18 texts", "calm, dull, wild", f"{head.accuracy_:.3f}", str(checkpoint)):
            assert part in printed
        assert len(latdiff("sample", "--num-samples", 1, "--guide", "mood=wild").splitlines()) == 1
    finally:
        shutil.rmtree(checkpoint / "heads" / "mood")


def test_columns_have_names_of_their_own(latdiff, checkpoint, reviews):
    data = reviews([{"body": row["text"], "meta": {"tone": row["label"]}} for row in rows_of(["up", "down"])])
    latdiff(
        "fit-head", "--data", data, "--name", "tone", "--text-column", "body", "--label-column", "meta.tone"
    )
    assert load_head(checkpoint / "heads" / "tone").labels == ["down", "up"]
    shutil.rmtree(checkpoint / "heads" / "tone")


# evaluate


def test_evaluate_writes_every_figure(latdiff, checkpoint, tmp_path, fingerprint):
    before = fingerprint(checkpoint)
    file = tmp_path / "figures" / "metrics.json"
    printed = latdiff("evaluate", "--json", file, "--num-samples", 4, "--scale", 2, "--seed", 1, "--seeds", 2,
                      "--samplers", "ddim:2", "renoise:3")  # fmt: skip
    document = json.loads(file.read_text(encoding="utf-8"))
    assert {"checkpoint", "machine", "unseen", "reconstruction", "unconditional", "guided", "composed"} <= set(document)
    assert document["seeds"] == [1, 2]
    assert set(document["sd"]) >= {"reconstruction", "unconditional", "guided", "composed"}
    assert document["sd"]["unconditional"][1]["distinct"] >= 0
    assert 0 <= document["reconstruction"]["bleu"] <= 100
    for picture in ("metrics-lengths.png", "metrics-reconstruction.png"):
        assert (file.parent / picture).read_bytes().startswith(b"\x89PNG")
    assert document["checkpoint"] == "tiny"
    assert 0 <= document["reconstruction"]["exact_match"] <= 1
    assert set(document["reconstruction"]["under_noise"]) == {"0.25", "0.5", "1.0"}
    assert [(row["scheduler"], row["steps"]) for row in document["unconditional"]] == [
        ("ddim", 2),
        ("renoise", 3),
    ]
    for row in document["unconditional"]:
        assert {"n", "validity", "errors", "distinct", "memorised", "seconds"} <= set(row)
        assert {"self_bleu", "word_histogram", "coherence", "independence", "texts_per_second"} <= set(row)
        assert list(row["distinct_ngrams"]) == ["1", "2", "3", "4"]
        assert set(row["slot_tv"]) == {"mean", "floor"}
    targets = [(row["attribute"], row["target"], row["scale"], row["n"]) for row in document["guided"]]
    assert targets == [
        ("sentiment", "negative", 2, 2), ("sentiment", "positive", 2, 2), ("tense", "past", 2, 2),
        ("tense", "present", 2, 2),
    ]  # fmt: skip
    assert all({"success", "validity", "slot_tv"} <= set(row) for row in document["guided"])
    assert len(document["composed"]) == 4
    for row in document["composed"]:
        assert set(row["targets"]) == {"sentiment", "tense"}
        assert {"n", "success", "validity"} <= set(row)
    assert str(file) in printed
    assert "steered by sentiment" in printed
    assert fingerprint(checkpoint) == before


def test_a_sweep_of_scales_is_measured_drawn_and_put_on_the_card(latdiff, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    shutil.rmtree(copy / "heads" / "tense")
    flags = ("--num-samples", 2, "--seeds", 1, "--samplers", "ddim:1", "--sweep-scale", 1, 4)
    latdiff("evaluate", "--json", copy / "metrics.json", *flags, folder=copy)
    sweep = json.loads((copy / "metrics.json").read_text(encoding="utf-8"))["sweep"]
    assert [(row["mode"], row["scale"]) for row in sweep] == [
        (mode, scale) for mode in ("x0", "denoiser", "monte-carlo") for scale in (1, 4)
    ]
    assert all({"success", "validity", "slot_tv_floors"} <= set(row) for row in sweep)
    assert (copy / "metrics-control-sentiment.png").read_bytes().startswith(b"\x89PNG")
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "| mode | scale |" in card and "metrics-control-sentiment.png" in card and "metrics-lengths.png" in card


def test_a_judge_of_ones_own_and_fluency(latdiff, checkpoint, reviews, tmp_path, tiny):
    """Real text has no oracle: other labelled texts give a judge, a language model the fluency."""
    copy, file = shutil.copytree(checkpoint, tmp_path / "copy"), tmp_path / "m.json"
    for name in ("sentiment", "tense"):
        shutil.rmtree(copy / "heads" / name)
    rows = [row | {"mood": "merry" if i % 2 else "grim"} for i, row in enumerate(rows_of(["a", "b"], each=30))]
    latdiff("fit-head", "--data", reviews(rows[:30]), "--label-column", "mood", "--name", "mood", folder=copy)
    flags = ("--num-samples", 4, "--seeds", 1, "--samplers", "ddim:1", "--sweep-scale", 1, "--fluency", tiny.ar,
             "--mauve", tiny.ar)  # fmt: skip
    printed = latdiff("evaluate", "--json", file, *flags, "--judge", f"mood={reviews(rows)}:mood", folder=copy)
    document = json.loads(file.read_text(encoding="utf-8"))
    scorers = document["scorers"]
    assert "on 30 other texts" in scorers["judges"]["mood"]  # the 30 that the head knows are left out
    assert scorers["fluency"] == scorers["mauve"] == str(tiny.ar)
    assert document["unseen"]["perplexity"] > 1
    assert 0 <= document["unconditional"][0]["mauve"] <= document["unseen"]["mauve"] <= 1
    for row in document["guided"]:
        assert row["judge"] == f"mood: {scorers['judges']['mood']}"
        assert row["perplexity"] > 1
    assert all(row["perplexity"] > 1 for row in document["sweep"] + document["unconditional"])
    assert "mood is judged by" in printed and ", perplexity " in printed and ", MAUVE " in printed
    latdiff("evaluate", "--json", file, "--num-samples", 2, "--samplers", "ddim:1", "--seeds", 1, folder=copy)
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["scorers"] == {} and "sweep" not in again  # they would not be of these rows


@pytest.mark.parametrize("where", ["in the checkpoint", "elsewhere"])
def test_evaluate_keeps_what_training_measured_and_nothing_of_another_checkpoint(latdiff, checkpoint, tmp_path, where):
    trained = {
        "training": {"denoiser_steps": 6},
        "reconstruction": {"training_minutes": 1.5, "exact_match": 7},
    }
    plain = shutil.copytree(checkpoint, tmp_path / "plain")
    shutil.rmtree(plain / "heads")
    (plain / "metrics.json").write_text(json.dumps(trained | {"sweep": []}), encoding="utf-8")
    file = (plain if where == "in the checkpoint" else tmp_path) / "metrics.json"
    if where == "elsewhere":
        other = {"training": {"denoiser_steps": 7}, "reconstruction": {"training_minutes": 2.5}, "by_class": []}
        file.write_text(json.dumps(other), encoding="utf-8")
    latdiff("evaluate", "--json", file, "--num-samples", 2, "--samplers", "ddim:1", "--seeds", 1, folder=plain)
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["training"] == trained["training"]
    assert document["reconstruction"]["training_minutes"] == 1.5
    assert document["reconstruction"]["exact_match"] <= 1
    assert document["guided"] == document["composed"] == []
    assert not {"sweep", "by_class"} & set(document)


def test_rivals_are_held_to_the_same_figures(latdiff, tiny, tmp_path):
    """A language model beside its own recipe, and a file beside one that is named."""
    ours, theirs = tmp_path / "ar.json", tmp_path / "file.json"
    printed = latdiff("evaluate", "--json", ours, "--num-samples", 4, "--seeds", 2, "--top-p", 0.9, folder=tiny.ar)
    stories = [story.text for story in storyworld.sample(8, 5)]
    (tmp_path / "stories.txt").write_text("\n".join(stories), encoding="utf-8")
    flags = ("--num-samples", 4, "--seeds", 2, "--recipe", tiny.ar / "recipe.yaml")
    latdiff("evaluate", "--json", theirs, *flags, folder=tmp_path / "stories.txt")
    of_model, of_file = (json.loads(file.read_text(encoding="utf-8")) for file in (ours, theirs))
    assert of_model["unconditional"][0]["sampler"] == "nucleus 0.9" and "4 samples, nucleus 0.9" in printed
    (row,) = of_file["unconditional"]
    assert row["file"] == "stories.txt" and row["validity"] == 1 and row["samples"] == stories[:4]
    of_writing = {"sampler", "seconds", "texts_per_second"}
    assert set(row) - {"file"} == set(of_model["unconditional"][0]) - of_writing
    assert "reconstruction" not in of_file and "by_class" not in of_file


def test_a_rival_is_controlled_by_taking_the_best_of_its_texts(latdiff, checkpoint, tiny, tmp_path):
    file = tmp_path / "ar.json"
    flags = ("--num-samples", 4, "--seeds", 1, "--rerank", f"{checkpoint}:3")
    printed = latdiff("evaluate", "--json", file, *flags, folder=tiny.ar)
    rows = json.loads(file.read_text(encoding="utf-8"))["reranked"]
    assert [(row["attribute"], row["target"], row["n"], row["best_of"], row["judge"]) for row in rows] == [
        (name, label, 2, 3, "oracle")
        for name, labels in (("sentiment", ("negative", "positive")), ("tense", ("past", "present")))
        for label in labels
    ]
    assert "best of 3 by the head of tense: right" in printed


@pytest.mark.parametrize("words", ["checkpoints/x", "checkpoints/x:1", ":4", "checkpoints/x:many"])
def test_a_malformed_rerank(refused, tmp_path, tiny, words):
    assert repr(words) in refused("evaluate", "--json", tmp_path / "m.json", "--rerank", words, folder=tiny.ar)


def test_reranking_without_heads(refused, tiny, tmp_path):
    flags = ("--num-samples", 2, "--seeds", 1, "--rerank", f"{tiny.checkpoint}:2")
    assert "fit-head" in refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tiny.ar)


def test_a_file_of_texts_needs_to_be_told_what_it_should_be_like(refused, tmp_path):
    (tmp_path / "texts.txt").write_text("one", encoding="utf-8")
    said = refused("evaluate", "--json", tmp_path / "m.json", folder=tmp_path / "texts.txt")
    assert "--recipe storyworld" in said


def test_one_text_a_seed_has_no_figures_of_pairs(latdiff, tiny, tmp_path):
    latdiff("evaluate", "--json", tmp_path / "m.json", "--num-samples", 1, "--seeds", 2, folder=tiny.ar)
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN
    assert "self_bleu" not in document["unconditional"][0]


def test_a_file_with_too_few_texts_for_all_seeds(refused, tmp_path, tiny):
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree", encoding="utf-8")
    flags = ("--num-samples", 2, "--seeds", 2, "--recipe", tiny.ar / "recipe.yaml")
    said = refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tmp_path / "texts.txt")
    assert "holds 3 texts, and seed 1 takes those from 3 to 4" in said


def test_a_column_of_ones_own(latdiff, tmp_path, tiny):
    stories = [story.text for story in storyworld.sample(3, 5)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"story": text}) for text in stories), encoding="utf-8")
    flags = ("--num-samples", 3, "--seeds", 1, "--recipe", tiny.ar / "recipe.yaml", "--text-column", "story")
    latdiff("evaluate", "--json", tmp_path / "m.json", *flags, folder=tmp_path / "texts.jsonl")
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["unconditional"][0]["samples"] == stories


@pytest.mark.parametrize("flags", [("--rerank", "x:2"), ("--top-p", 0.5), ("--recipe", "storyworld")])
def test_flags_that_mean_nothing_for_a_pipeline(refused, tmp_path, flags):
    assert f"{flags[0]} means nothing" in refused("evaluate", "--json", tmp_path / "m.json", *flags)


@pytest.mark.parametrize("flags", [("--samplers", "ddim:2"), ("--scale", 2), ("--decode", "greedy")])
def test_flags_that_mean_nothing_for_a_rival(refused, tmp_path, tiny, flags):
    said = refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tiny.ar)
    assert f"{flags[0]} means nothing" in said


def test_a_column_of_a_language_model(refused, tmp_path, tiny):
    said = refused("evaluate", "--json", tmp_path / "m.json", "--text-column", "story", folder=tiny.ar)
    assert "--text-column means nothing" in said


def test_flags_that_mean_nothing_for_a_file(refused, tmp_path, tiny):
    (tmp_path / "texts.txt").write_text("one", encoding="utf-8")
    flags = ("--recipe", tiny.ar / "recipe.yaml", "--top-p", 0.5)
    assert "mean nothing" in refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tmp_path / "texts.txt")


@pytest.mark.parametrize("top_p", [0, 1.5])
def test_a_nucleus_that_cannot_be(refused, tmp_path, tiny, top_p):
    assert "--top-p" in refused("evaluate", "--json", tmp_path / "m.json", "--top-p", top_p, folder=tiny.ar)


def test_a_similarity_to_nothing(refused, tmp_path):
    assert "--bert-score" in refused("evaluate", "--json", tmp_path / "m.json", "--bert-score", "encoder")


@pytest.mark.parametrize("flag", ["--seeds", "--num-samples"])
def test_no_texts_to_measure(refused, tmp_path, flag):
    assert f"{flag} is 0" in refused("evaluate", "--json", tmp_path / "m.json", flag, 0)


def test_heads_of_another_codec_do_not_rerank(refused, checkpoint, tiny, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    config = copy / "heads" / "tense" / "config.json"
    stale = config.read_text(encoding="utf-8").replace('"codec_digest": "', '"codec_digest": "x')
    config.write_text(stale, encoding="utf-8")
    flags = ("--num-samples", 2, "--seeds", 1, "--rerank", f"{copy}:2")
    assert "fitted on latents of codec x" in refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tiny.ar)


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


# Mistakes


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


def test_settings_that_do_not_go_together(refused, reviews):
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
)  # fmt: skip
def test_a_malformed_guide(refused, guide):
    said = refused("sample", "--guide", guide)
    assert repr(guide) in said
    assert "HEAD=LABEL" in said


def test_an_unknown_scheduler(refused):
    assert "did you mean ddim?" in refused("sample", "--scheduler", "ddimm")


@pytest.mark.parametrize("sampler", ["ddim", "ddim:", "ddim:0", "ddim:x", "dim:5"])
def test_a_malformed_sampler(refused, tmp_path, sampler):
    assert repr(sampler) in refused("evaluate", "--json", tmp_path / "m.json", "--samplers", sampler)
    assert not (tmp_path / "m.json").exists()


def test_a_judge_that_cannot_judge(refused, reviews, tmp_path):
    flags, labelled = ("evaluate", "--json", tmp_path / "m.json"), reviews(rows_of(["past", "present"]))
    assert "must be HEAD=DATA" in refused(*flags, "--judge", "tense")
    assert "heads and classes of labels there: sentiment, tense" in refused(*flags, "--judge", f"tens={labelled}")
    assert "no data 'none.jsonl'" in refused(*flags, "--judge", "tense=none.jsonl:label")
    assert "none has the label negative, positive" in refused(*flags, "--judge", f"sentiment={labelled}")
    assert "no language model 'nothing'" in refused(*flags, "--fluency", "nothing")
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    "flags", [("--num-samples", 0), ("--num-samples", -2), ("--steps", 0), ("--steps", -1)]
)
def test_numbers_below_one(refused, flags):
    assert "must be 1" in refused("sample", *flags)


def test_more_steps_than_there_are(refused):
    assert "num_inference_steps is 5000, must be 1 to 1000" in refused("sample", "--steps", 5000)


@pytest.mark.parametrize("command", [("sample",), ("evaluate", "--json", "m.json")])
def test_a_checkpoint_that_is_not_there(refused, tmp_path, command):
    said = refused(*command, folder=tmp_path / "none")
    assert "no model_index.json" in said
    assert "make train-diffusion" in said


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


def test_data_of_one_class(refused, reviews):
    assert "'good'" in refused("fit-head", "--data", reviews(rows_of(["good"])), "--name", "x")


def test_data_of_too_few_texts(refused, reviews):
    assert "at least 5" in refused(
        "fit-head", "--data", reviews(rows_of(["good", "bad"], each=3)), "--name", "x"
    )


def test_data_without_the_column(refused, reviews):
    said = refused(
        "fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", "x", "--label-column", "labl"
    )
    assert "did you mean label?" in said


def test_data_that_are_no_json(refused, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{oops', encoding="utf-8")
    assert "line 2" in refused("fit-head", "--data", tmp_path / "bad.jsonl", "--name", "x")


def test_data_too_long_for_the_autoencoder_are_left_out_and_counted(latdiff, checkpoint, reviews):
    rows = rows_of(["a", "b"])
    rows[3]["text"] = "harbor " * 300
    try:
        assert "11 texts (1 too long, left out)" in latdiff("fit-head", "--data", reviews(rows), "--name", "x")
    finally:
        shutil.rmtree(checkpoint / "heads" / "x")


@pytest.mark.parametrize(
    "flag", ["--limit=0", "--limit=-5", "--regularisation=0", "--regularisation=nan", "--regularisation=strong"]
)
def test_settings_of_the_fit_that_cannot_be(refused, reviews, flag):
    said = refused("fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", "x", flag)
    assert flag.partition("=")[0] in said


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a=b"])
def test_a_name_that_no_guide_could_call(refused, reviews, name):
    assert repr(name) in refused("fit-head", "--data", reviews(rows_of(["a", "b"])), "--name", name)


@pytest.mark.parametrize("content", ["{oops", "[]"])
def test_figures_that_cannot_be_added_to(refused, tmp_path, content):
    file = tmp_path / "metrics.json"
    file.write_text(content, encoding="utf-8")
    assert "metrics.json exists but holds no figures" in refused(
        "evaluate", "--json", file, "--num-samples", 1
    )
    assert file.read_text(encoding="utf-8") == content


def test_evaluating_without_the_recipe(refused, checkpoint, tmp_path):
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "recipe.yaml").unlink()
    assert "recipe.yaml" in refused("evaluate", "--json", tmp_path / "m.json", folder=bare)


def test_no_command_at_all(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main([])
    assert error.value.code == 2
    assert "usage: latdiff" in capsys.readouterr().err
