"""`latdiff evaluate`: every figure, every kind of rival, and a sentence for every mistake."""

import json
import shutil
from pathlib import Path

import pytest

from latdiff import storyworld
from latdiff.config import load_recipe
from latdiff.data.corpus import load_corpus
from latdiff.evaluation.generators import LanguageModelGenerator


def test_evaluate_writes_every_figure(latdiff, checkpoint, tmp_path, fingerprint):
    before = fingerprint(checkpoint)
    file = tmp_path / "figures" / "metrics.json"
    printed = latdiff("evaluate", "--json", file, "--num-samples", 4, "--scale", 2, "--seed", 1, "--seeds", 2,
                      "--samplers", "ddim:2", "renoise:3")
    document = json.loads(file.read_text(encoding="utf-8"))
    assert {"checkpoint", "machine", "unseen", "reconstruction", "unconditional", "guided", "composed"} <= set(document)
    assert "likelihood" not in document and "likelihood" not in printed
    assert list(document["unseen"]["brier"]) == list(document["unconditional"][0]["brier"]) == [*"1234", "mean"]
    assert document["seeds"] == [1, 2]
    assert set(document["sd"]) == {"unconditional", "guided", "composed"}  # texts are brought back once
    assert document["sd"]["unconditional"][1]["distinct"] >= 0
    assert 0 <= document["reconstruction"]["bleu"] <= 100
    assert len(document["denoising"]["errors"]) == len(document["denoising"]["times"])
    for picture in ("metrics-lengths.png", "metrics-reconstruction.png", "metrics-denoising.png"):
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
    ]
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


def test_a_judge_of_ones_own_and_fluency(latdiff, checkpoint, reviews, tmp_path, tiny, rows_of):
    """Real text has no oracle: other labelled texts give a judge, a language model the fluency."""
    copy, file = shutil.copytree(checkpoint, tmp_path / "copy"), tmp_path / "m.json"
    for name in ("sentiment", "tense"):
        shutil.rmtree(copy / "heads" / name)
    rows = [row | {"mood": "merry" if i % 2 else "grim"} for i, row in enumerate(rows_of(["a", "b"], each=30))]
    latdiff("fit-head", "--data", reviews(rows[:30]), "--label-column", "mood", "--name", "mood", folder=copy)
    flags = ("--num-samples", 4, "--seeds", 1, "--samplers", "ddim:1", "--sweep-scale", 1, "--fluency", tiny.ar,
             "--mauve", tiny.ar)
    others = [{"review": row["text"], "mood": row["mood"]} for row in rows]
    printed = latdiff("evaluate", "--json", file, *flags, "--judge", f"mood={reviews(others)}:mood:review", folder=copy)
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
    assert not {"reconstruction", "denoising"} & set(of_file) and "by_class" not in of_file


def test_a_language_model_is_measured_in_nats_beyond_the_worlds_and_others_are_silent(latdiff, tiny, tmp_path):
    file, flags = tmp_path / "m.json", ("--num-samples", 4, "--seeds", 2)
    printed = latdiff("evaluate", "--json", file, *flags, folder=tiny.ar)
    document = json.loads(file.read_text(encoding="utf-8"))
    recipe = load_recipe(str(tiny.recipe))
    unseen = load_corpus(recipe.data, recipe.seed).valid[:4]
    row, own = document["likelihood"], LanguageModelGenerator(tiny.ar).log_prob(unseen).values
    world = [storyworld.log_prob(text) for text in unseen]
    assert (row["n"], row["left_out"], row["kind"]) == (4, 0, "exact")
    assert row["nats"] == pytest.approx(-own.mean().item())
    assert row["excess"]["mean"] == pytest.approx(sum(world) / 4 - own.mean().item()) and row["excess"]["mean"] > 100
    assert row["excess"]["standard_error"] > 0
    assert "likelihood" not in document["sd"]  # it is the same at every seed
    assert "likelihood of 4 unseen texts: " in printed and " over the world's own " in printed
    (tmp_path / "stories.txt").write_text("\n".join(unseen), encoding="utf-8")
    assert "likelihood" not in latdiff("evaluate", "--json", file, "--num-samples", 2, "--seeds", 1, "--recipe",
                                       tiny.ar / "recipe.yaml", folder=tmp_path / "stories.txt")
    assert "likelihood" not in json.loads(file.read_text(encoding="utf-8"))


def test_a_rival_is_controlled_by_taking_the_best_of_its_texts(latdiff, checkpoint, tiny, tmp_path, monkeypatch):
    file = tmp_path / "ar.json"
    flags = ("--num-samples", 4, "--seeds", 1, "--rerank", f"{checkpoint}:3")
    asked, generate = [], LanguageModelGenerator.generate
    monkeypatch.setattr(LanguageModelGenerator, "generate", lambda *given: asked.append(given[2]) or generate(*given))
    printed = latdiff("evaluate", "--json", file, *flags, folder=tiny.ar)
    assert asked == [4, 6]  # unsteered ones, and two times three that all choose among
    rows = json.loads(file.read_text(encoding="utf-8"))["reranked"]
    sentiments, tenses = ("negative", "positive"), ("past", "present")
    assert [(row["targets"], row["n"], row["best_of"], row["judge"]) for row in rows] == [
        *(({"sentiment": label}, 2, 3, "oracle") for label in sentiments),
        *(({"tense": label}, 2, 3, "oracle") for label in tenses),
        *(({"sentiment": one, "tense": two}, 1, 3, "oracle") for one in sentiments for two in tenses),
    ]
    assert "best of 3 by the head of tense: right" in printed
    assert "best of 3 by the head of sentiment and of tense: right" in printed


@pytest.mark.parametrize("words", ["checkpoints/x", "checkpoints/x:1", ":4", "checkpoints/x:many"])
def test_a_malformed_rerank(refused, tmp_path, tiny, words):
    assert repr(words) in refused("evaluate", "--json", tmp_path / "m.json", "--rerank", words, folder=tiny.ar)


def test_reranking_without_heads(refused, tiny, tmp_path):
    flags = ("--num-samples", 2, "--seeds", 1, "--rerank", f"{tiny.checkpoint}:2")
    assert "fit-head" in refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tiny.ar)


def test_a_file_of_texts_needs_a_recipe_to_be_held_against(refused, tmp_path):
    (tmp_path / "texts.txt").write_text("one", encoding="utf-8")
    said = refused("evaluate", "--json", tmp_path / "m.json", folder=tmp_path / "texts.txt")
    assert "--recipe storyworld" in said


def test_one_text_a_seed_has_no_figures_of_pairs(latdiff, tiny, tmp_path):
    latdiff("evaluate", "--json", tmp_path / "m.json", "--num-samples", 1, "--seeds", 2, folder=tiny.ar)
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN
    assert not {"self_bleu", "brier"} & set(document["unconditional"][0])


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


def test_the_figures_of_a_file_go_beside_nothing_of_its_own(latdiff, tmp_path, tiny, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "texts.txt").write_text("one\ntwo", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    flags = ("--num-samples", 2, "--seeds", 1, "--recipe", tiny.ar / "recipe.yaml")
    assert "-> texts.txt.json" in latdiff("evaluate", *flags, folder="theirs/texts.txt")
    assert json.loads(Path("texts.txt.json").read_text(encoding="utf-8"))["checkpoint"] == "texts.txt"


@pytest.mark.parametrize("flags", [("--rerank", "x:2"), ("--top-p", 0.5), ("--recipe", "storyworld")])
def test_flags_that_mean_nothing_for_a_pipeline(refused, tmp_path, flags):
    assert f"does not take {flags[0]}; leave" in refused("evaluate", "--json", tmp_path / "m.json", *flags)


@pytest.mark.parametrize("flags", [("--samplers", "ddim:2"), ("--scale", 2), ("--decode", "greedy")])
def test_flags_that_mean_nothing_for_a_rival(refused, tmp_path, tiny, flags):
    said = refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tiny.ar)
    assert f"does not take {flags[0]}; leave" in said


def test_a_column_of_a_language_model(refused, tmp_path, tiny):
    said = refused("evaluate", "--json", tmp_path / "m.json", "--text-column", "story", folder=tiny.ar)
    assert "does not take --text-column" in said


def test_flags_that_mean_nothing_for_a_file(refused, tmp_path, tiny):
    (tmp_path / "texts.txt").write_text("one", encoding="utf-8")
    flags = ("--recipe", tiny.ar / "recipe.yaml", "--top-p", 0.5)
    said = refused("evaluate", "--json", tmp_path / "m.json", *flags, folder=tmp_path / "texts.txt")
    assert "does not take --top-p" in said


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_that_cannot_be(refused, tmp_path, tiny, share):
    assert "--top-p" in refused("evaluate", "--json", tmp_path / "m.json", "--top-p", share, folder=tiny.ar)
    assert "--keep" in refused("evaluate", "--json", tmp_path / "m.json", "--keep", share)


def test_what_share_is_kept_is_said(latdiff, tmp_path):
    flags = ("--json", tmp_path / "m.json", "--num-samples", 4, "--seeds", 1, "--samplers", "ddim:2", "--keep", 0.5)
    assert "ddim 2 steps, keep 0.5: " in latdiff("evaluate", *flags)
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert document["keep"] == document["unconditional"][0]["keep"] == 0.5


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


@pytest.mark.parametrize("sampler", ["ddim", "ddim:", "ddim:0", "ddim:x", "dim:5"])
def test_a_malformed_sampler(refused, tmp_path, sampler):
    assert repr(sampler) in refused("evaluate", "--json", tmp_path / "m.json", "--samplers", sampler)
    assert not (tmp_path / "m.json").exists()


def test_a_judge_that_cannot_judge(refused, reviews, tmp_path, rows_of):
    flags, labelled = ("evaluate", "--json", tmp_path / "m.json"), reviews(rows_of(["past", "present"]))
    assert "must be HEAD=DATA" in refused(*flags, "--judge", "tense")
    assert "heads and classes of labels there: sentiment, tense" in refused(*flags, "--judge", f"tens={labelled}")
    assert "no data 'none.jsonl'" in refused(*flags, "--judge", "tense=none.jsonl:label")
    assert "--judge HEAD=DATA:COLUMN:TEXT_COLUMN" in refused(*flags, "--judge", f"tense={labelled}:label:review")
    assert "none has the label negative, positive" in refused(*flags, "--judge", f"sentiment={labelled}")
    assert "no language model 'nothing'" in refused(*flags, "--fluency", "nothing")
    assert not (tmp_path / "m.json").exists()


def test_a_judges_column_is_missed_before_a_pipeline_loads(refused, reviews, checkpoint, tmp_path, rows_of):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "denoiser" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    labelled = f"tense={reviews(rows_of(['past', 'present']))}:stars"
    said = refused("evaluate", "--json", tmp_path / "m.json", "--judge", labelled, folder=copy)
    assert "column 'stars'" in said


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
