"""The table of heads against their rivals: every row is there, and figures of texts whose figures are known."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from benchmarks import attributes as measure_attributes
from latdiff import storyworld
from latdiff.errors import UserError
from latdiff.pipelines.latent import LatentTextDiffusionPipeline


@pytest.fixture
def labelled(tmp_path):
    """A file of stories that no head has seen, for each of two attributes."""

    def write(attribute):
        rows = [{"text": story.text, "label": story.attributes[attribute]} for story in storyworld.sample(120, 99)]
        file = tmp_path / f"{attribute}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return write


def run(monkeypatch, folder, file, *flags):
    monkeypatch.setattr(sys, "argv", ["measure", str(folder), "--json", str(file), "--num-samples", "4", "--times", "1",
                                      "--best-of", "2", "--best", "3", *flags])
    measure_attributes.main()
    return json.loads(file.read_text(encoding="utf-8"))


def test_one_head_beside_its_rivals(checkpoint, labelled, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_attributes, "Writer", lambda path: SimpleNamespace(
        begun=lambda prompt: [], goes_on=lambda prompt, starts, seed: ["I was glad."] * len(starts)))
    monkeypatch.setattr(measure_attributes, "WellFormedJudge", lambda path: SimpleNamespace(share=lambda texts: 0.5))
    flags = ["--head", "sentiment", "--judge", labelled("sentiment"), "--fluency", str(tiny.ar), "--decode", "ld4lg",
             "--wellformed", "judge", "--mauve", str(tiny.ar)]
    document = run(monkeypatch, checkpoint, tmp_path / "m.json", *flags, "--prompt", "positive=Be glad.")
    rows = document["rows"]
    each = ["real texts", "unsteered", "steered", "best of 2"]
    assert [row["who"] for row in rows] == [*each, *each, "prompted"]
    assert [row["target"]["sentiment"] for row in rows] == ["negative"] * 4 + ["positive"] * 5
    assert all(0 <= row["right"] <= 1 and row["perplexity"] > 1 and row["seconds_a_text"] >= 0 for row in rows)
    assert document["decoding"] == "ld4lg" and document["wellformed"] == "judge"
    assert {row["well_formed"] for row in rows} == {0.5}
    assert rows[0]["right"] > 0.5 and rows[0]["distinct"] == 1
    assert [("mauve" in row) for row in rows] == [True, True, True, False] * 2 + [True]
    assert all(0 <= row.get("mauve", 0.5) <= 1 for row in rows) and document["mauve"] == str(tiny.ar)
    assert rows[-1]["distinct"] == 0.25 and rows[-1]["self_bleu"] == pytest.approx(100)
    assert [row["n"] for row in rows] == [4, 4, 4, 3] * 2 + [4]
    assert "held out" in document["judges"]["sentiment"]


def test_a_guide_is_on_in_every_sample_and_is_not_judged(checkpoint, labelled, tmp_path, monkeypatch):
    seen, call = [], LatentTextDiffusionPipeline.__call__
    spy = lambda pipe, *given, **settings: seen.append(settings["guides"]) or call(pipe, *given, **settings)  # noqa: E731
    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", spy)
    document = run(monkeypatch, checkpoint, tmp_path / "m.json", "--head", "sentiment", "--judge",
                   labelled("sentiment"), "--guide", "tense=past:5", "--target", "positive")
    titles = [[(guide.title, round(guide.scale, 1)) for guide in guides] for guides in seen]
    assert [len(one) for one in titles] == [1, 1, 2]  # unsteered, the pool of best of 2, steered
    assert all(one[0] == ("tense=past", 5.0) for one in titles) and titles[2][1][0] == "sentiment=positive"
    assert document["guides"] == ["tense=past:5"] and set(document["judges"]) == {"sentiment"}
    assert {row["target"]["sentiment"] for row in document["rows"]} == {"positive"}


def test_two_heads_are_steered_to_every_pair(checkpoint, labelled, tmp_path, monkeypatch):
    heads = ["--head", "sentiment", "--judge", labelled("sentiment"), "--head", "tense", "--judge", labelled("tense")]
    rows = run(monkeypatch, checkpoint, tmp_path / "m.json", *heads)["rows"]
    assert [tuple(row["target"].values()) for row in rows if row["who"] == "steered"] == [
        ("negative", "past"), ("negative", "present"), ("positive", "past"), ("positive", "present")]
    assert sum(row["who"] == "real texts" for row in rows) == 4  # of the same stories in both files
    for row in rows:
        assert set(row["right_of_each"]) == {"sentiment", "tense"}
        assert row["right"] <= min(row["right_of_each"].values())


def test_what_cannot_be_measured(checkpoint, labelled, tiny, tmp_path, monkeypatch):
    one = ["--head", "sentiment", "--judge", labelled("sentiment")]
    for flags, said in (
        (["--prompt", "negative=Be sad.", "--writer", str(tiny.ar)], "has no chat template"),
        (["--class-lm", str(tiny.ar)], "is conditioned on nothing, but the targets are negative, positive"),
        (["--prefixes", labelled("tense")], "do not go on from first words; leave it out"),
        (["--target", "postive"], "--target is of 'postive', must be of one of negative, positive; did you mean pos"),
        (["--prompt", "sad=Be sad."], "--prompt is of 'sad', must be of one of negative, positive"),
        (["--guide", "mood=good"], "no head in .*mood"),
        (["--fudge-data", labelled("tense")], "labels are past, present, but those of head 'sentiment' are negative"),
    ):
        with pytest.raises(UserError, match=said):
            run(monkeypatch, checkpoint, tmp_path / "m.json", *one, *flags)


@pytest.mark.parametrize("flags, said", [
    (["--head", "tense"], "1 --judge for 2 --head; give one for each"),
    (["--fudge-data", "a", "--fudge-data", "b"], "2 --fudge-data for 1 --head"),
    (["--prompt", "Be sad."], "--prompt is 'Be sad.', must be LABEL=TEXT"),
    (["--guide", "kind"], "--guide is 'kind', must be HEAD=LABEL"),
    (["--guide", "sentiment=positive"], "--guide is of the head 'sentiment', which --head steers"),
    (["--prefixes", "a", "--cond", "b"], "--prefixes is a condition, as --cond is"),
    (["--prefixes", "a", "--mauve", "m"], "--mauve compares texts with real ones of their label"),
    (["--head", "tense", "--judge", "b", "--mauve", "m"], "--mauve compares texts with real ones of their label"),
    (["--prefix-label", "a"], "--prefix-label is a, but there are no --prefixes"),
    (["--prefix-words", "3"], "--prefix-words is 3, but there are no --prefixes"),
    (["--prefixes", "a", "--prefix-words", "0"], "--prefix-words is 0, must be 1 or more"),
    (["--num-samples", "0"], "--num-samples is 0, must be 1 or more"),
    (["--best", "0"], "--best is 0, must be 1 or more"),
    (["--best-of", "8", "0"], "--best-of is 0, must be 1 or more"),
    (["--fudge-top", "0"], "--fudge-top is 0, must be 1 or more"),
    (["--fudge-limit", "-1"], "--fudge-limit is -1, must be 1 or more"),
    (["--fudge-samples", "0"], "--fudge-samples is 0, must be 1 or more"),
    (["--fudge-prompt", "a"], "there is no --fudge-data"),
    (["--plot", "a.svg"], "--plot draws control against fluency, which is not measured"),
    (["--plot", "a.txt"], "--plot is a.txt, must end in .svg, .png, .pdf"),
])
def test_what_is_refused_before_anything_loads(tmp_path, monkeypatch, flags, said):
    with pytest.raises(UserError, match=re.escape(said)):
        run(monkeypatch, tmp_path / "nothing", tmp_path / "m.json", "--head", "sentiment", "--judge", "none", *flags)
