"""A checkpoint measured: figures that can be known beforehand, and the shape of every row."""

import json
from types import SimpleNamespace

import pytest
import torch

from latdiff import storyworld
from latdiff.codecs import t5
from latdiff.config import DataConfig, Recipe, load_recipe
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.diffusion.gaussian import GaussianDiffusion
from latdiff.evaluation import report
from latdiff.evaluation.rows import (
    MOST_COMBINATIONS,
    Evaluation,
    denoising,
    label_combinations,
    reconstruction,
)
from latdiff.evaluation.scoring import Scorer
from latdiff.heads.attribute import AttributeHead

TEXTS = [story.text for story in storyworld.sample(6, 11)]


# Reconstruction


def test_a_codec_that_gives_texts_back_is_perfect(codec, monkeypatch):
    """Decoding made perfect: whoever has the clean latents knows the text."""
    latents = codec.encode(TEXTS)

    def lookup(given, **options):
        return [TEXTS[i] if d < 1e-3 else "?" for d, i in zip(*torch.cdist(
            given.flatten(1), latents.flatten(1)).min(1), strict=True)]

    monkeypatch.setattr(codec, "decode", lookup)
    measured = reconstruction(codec, TEXTS)
    assert measured["exact_match"] == 1
    assert measured["under_noise"] == {"0.25": 0, "0.5": 0, "1.0": 0}
    assert measured["n"] == 6


def test_texts_too_long_are_counted_and_left_out(codec):
    measured = reconstruction(codec, [*TEXTS, "harbor " * 300])
    assert (measured["n"], measured["too_long"]) == (6, 1)


def test_noise_depends_on_the_seed(codec, monkeypatch):
    seen = []
    monkeypatch.setattr(
        codec, "decode", lambda latents, **options: seen.append(latents) or [""] * len(latents)
    )
    for seed in (0, 0, 1):
        reconstruction(codec, TEXTS, seed)
    first, again, other = seen[:4], seen[4:8], seen[8:]
    assert all(map(torch.equal, first, again))
    noises = [latents - codec.encode(TEXTS) for latents in first]
    spread = [noise.std().item() for noise in noises]
    assert spread[:3] == pytest.approx([0.25, 0.5, 1.0], rel=0.3)
    assert spread[3] == 0
    assert not torch.equal(first[0], other[0])


def test_token_accuracy_counts_what_the_decoder_ranks_first(codec, monkeypatch):
    latents = codec.encode(TEXTS)
    right = iter(range(1000))

    def logits(model, features, labels, mask=None):
        # every third token right, whatever the padding
        flat = torch.tensor([next(right) % 3 == 0 for _ in range(labels.numel())]).view_as(labels)
        guess = torch.where(flat, labels, labels + 1).clamp(min=0)
        return torch.nn.functional.one_hot(guess, codec.text_model.config.vocab_size + 1).float()

    monkeypatch.setattr(t5, "decoder_logits", logits)
    assert codec.token_accuracy(latents, TEXTS, batch_size=4) == pytest.approx(1 / 3, abs=0.03)


# Denoising


def test_the_error_of_a_denoiser_that_predicts_no_velocity(pipe):
    """Its estimate is alpha z, whose error is (1 - alpha2)^2 E[x0^2] + alpha2 sigma^2."""
    texts = [story.text for story in storyworld.sample(300, 4)]
    with torch.no_grad():
        pipe.denoiser.out.weight.zero_()
        pipe.denoiser.out.bias.zero_()
    measured = denoising(pipe, [*texts, "harbor " * 300])
    assert measured["n"] == 300
    assert measured["times"] == sorted(measured["times"]) and measured["sigma"] == sorted(measured["sigma"])
    power = pipe.codec.encode(texts).square().mean().item()
    expected = [sigma**4 * power + (1 - sigma**2) * sigma**2 for sigma in measured["sigma"]]
    assert measured["errors"] == pytest.approx(expected, rel=0.1)


def test_the_denoiser_is_conditioned_on_its_first_estimate(pipe, monkeypatch):
    calls, estimate = [], GaussianDiffusion.denoise

    def recorded(self, z, t, cond=None, x_prev=None):
        calls.append((x_prev, estimate(self, z, t, cond, x_prev)))
        return calls[-1][1]

    monkeypatch.setattr(GaussianDiffusion, "denoise", recorded)
    denoising(pipe, TEXTS, batch_size=2)
    for (nothing, first), (second, _) in zip(calls[::2], calls[1::2], strict=True):
        assert nothing is None and second is first


# Sampling


class Fixed:
    """A pipeline that writes given texts."""

    def __init__(self, pipe, write):
        self.scheduler, self.write, self.calls, self.codec, self.kept = pipe.scheduler, write, [], pipe.codec, []

    def __call__(self, num_samples, generator, keep, guides=(), num_inference_steps=None):
        self.kept.append(keep)
        self.calls.append(
            (num_samples, guides, num_inference_steps, generator.initial_seed(), self.scheduler)
        )
        texts = self.write(num_samples, guides)
        return SimpleNamespace(texts=texts, latents=self.codec.encode(texts))


def evaluate(pipe, write, recipe=None, train=(), keep=1.0):
    """An Evaluation of eight samples a figure."""
    corpus = Corpus(list(train), TEXTS)
    fixed = Fixed(pipe, write)
    return Evaluation(fixed, Scorer(recipe or Recipe(), corpus), num_samples=8, seed=3, keep=keep), fixed


def stories(seed=0, **attributes):
    return lambda n, guides=(): [story.text for story in storyworld.sample(n, seed, **attributes)]


def head(name, labels, pipe):
    return AttributeHead.from_weights(list(labels), torch.zeros(len(labels), 3, 4), torch.zeros(len(labels)), name=name)


def test_true_stories_are_valid_and_the_row_has_every_figure(pipe):
    measured, fixed = evaluate(pipe, stories(), train=stories()(2))
    row = measured.unconditional("ddim", 7)
    assert (row["scheduler"], row["steps"], row["n"]) == ("ddim", 7, 8)
    assert row["validity"] == 1
    assert row["errors"] == {}
    assert row["distinct"] == 1
    assert row["round_trip"] == pytest.approx(0, abs=1e-5)
    assert row["memorised"] == 0.25
    assert 0 < row["slot_tv"]["floor"] < 1
    assert row["slot_tv"]["mean"] == pytest.approx(row["slot_tv"]["floor"], abs=0.25)
    assert row["seconds"] >= 0
    assert row["samples"] == stories()(8)
    ((n, guides, steps, seed, scheduler),) = fixed.calls
    assert (n, list(guides), steps, seed) == (8, [], 7, 3)
    assert type(scheduler).__name__ == "DDIMScheduler"
    json.dumps(row)


@pytest.mark.parametrize("keep", [1, 0.5])
def test_every_text_is_of_those_that_are_kept(pipe, keep):
    measured, fixed = evaluate(pipe, stories(), keep=keep)
    rows = [measured.unconditional("ddim", 7), *measured.guided(head("tense", ("past", "present"), pipe), 1.0)]
    assert fixed.kept == [keep] * len(rows) and rows[0]["n"] == 8
    assert rows[0].get("keep", 1) == keep


def test_the_pipelines_own_scheduler_is_put_back(pipe):
    own = pipe.scheduler
    measured, fixed = evaluate(pipe, stories())
    measured.unconditional("unipc", 2)
    assert fixed.scheduler is own


def test_broken_texts_are_not_valid_and_their_errors_are_named(pipe):
    measured, _ = evaluate(pipe, lambda n, guides: ["harbor harbor"] * n)
    row = measured.unconditional("ddpm", 2)
    assert row["validity"] == 0
    assert set(row["errors"]) <= set(storyworld.ERRORS)
    assert max(row["errors"].values()) == 1
    assert row["distinct"] == 1 / 8


def test_the_oracle_judges_what_was_steered(pipe):
    """The pipeline writes positive stories whatever was asked for."""
    measured, fixed = evaluate(pipe, stories(sentiment="positive"))
    rows = measured.guided(head("sentiment", ("negative", "positive"), pipe), scale=2.0)
    assert [(row["attribute"], row["target"], row["scale"], row["n"]) for row in rows] == [
        ("sentiment", "negative", 2.0, 4), ("sentiment", "positive", 2.0, 4),
    ]
    assert [row["success"] for row in rows] == [0, 1]
    assert all(row["validity"] == 1 and row["judge"] == "oracle" for row in rows)
    assert all({"mean", "floor"} <= set(row["slot_tv"]) for row in rows)
    assert [(g.title, g.scale) for call in fixed.calls for g in call[1]] == [
        ("sentiment=negative", 2.0),
        ("sentiment=positive", 2.0),
    ]


def test_a_sweep_has_a_row_a_scale_and_the_means_over_the_labels(pipe):
    measured, fixed = evaluate(pipe, stories(sentiment="positive"))
    rows = measured.sweep(head("sentiment", ("negative", "positive"), pipe), "denoiser", [1.0, 4.0])
    assert [(row["mode"], row["scale"], row["n"]) for row in rows] == [("denoiser", 1.0, 8), ("denoiser", 4.0, 8)]
    assert all(row["success"] == 0.5 and row["worst"] == 0 and row["validity"] == 1 for row in rows)
    assert all(row["slot_tv_floors"] > 0.5 for row in rows)
    assert [g.mode for call in fixed.calls for g in call[1]] == ["denoiser"] * 4


def test_an_edit_that_changes_nothing_keeps_everything_and_never_succeeds(pipe, monkeypatch):
    measured, _ = evaluate(pipe, stories())
    monkeypatch.setattr(measured.pipe, "edit", lambda texts, *_, **__: SimpleNamespace(texts=texts), raising=False)
    row = measured.edited(head("sentiment", ("negative", "positive"), pipe), strength=0.5)
    assert (row["success"], row["validity"], row["kept"], row["n"]) == (0, 1, 1, 8)
    other = [story.text for story in storyworld.sample(4, 3, topic="pets", person="first")]
    monkeypatch.setattr(measured.pipe, "edit", lambda texts, *_, **__: SimpleNamespace(texts=other), raising=False)
    assert measured.edited(head("sentiment", ("negative", "positive"), pipe), strength=0.5)["kept"] < 0.5


def test_a_composition_succeeds_only_with_all_its_targets(pipe):
    measured, fixed = evaluate(pipe, stories(sentiment="positive", tense="past"))
    heads = [head("sentiment", ("negative", "positive"), pipe), head("tense", ("past", "present"), pipe)]
    rows = measured.composed(heads, scale=4.0)
    success = {tuple(row["targets"].values()): row["success"] for row in rows}
    assert success == {
        ("negative", "past"): 0, ("negative", "present"): 0, ("positive", "past"): 1, ("positive", "present"): 0,
    }
    assert [row["n"] for row in rows] == [2] * 4
    assert all(len(call[1]) == 2 for call in fixed.calls)


def test_without_an_oracle_the_labels_own_words_count(pipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {source: mine.txt}", encoding="utf-8")
    words = ["A cheap PUB", "a pub", "an inn", "none"]
    measured, _ = evaluate(pipe, lambda n, guides: words[:n], load_recipe(str(path)))
    rows = {row["target"]: row for row in measured.guided(head("place", ("inn", "pub"), pipe), 1.0)}
    assert rows["pub"]["success"] == 0.5
    assert rows["inn"]["success"] == 0.25
    assert "words" in rows["pub"]["judge"]
    assert "validity" not in rows["pub"]
    assert "validity" not in measured.unconditional("ddpm", 2)


def test_an_attribute_that_the_oracle_does_not_know_is_judged_by_its_words(pipe):
    measured, _ = evaluate(pipe, lambda n, guides: ["so gloomy", "bright"] * (n // 2))
    rows = measured.guided(head("light", ("bright", "gloomy"), pipe), 1.0)
    assert [row["success"] for row in rows] == [0.5, 0.5]
    assert "right 0.500 where the label's own words stand in the text" in report.summary({"guided": rows})


def test_the_summary_carries_every_row(pipe):
    measured, _ = evaluate(pipe, stories(sentiment="positive"))
    heads = [head("sentiment", ("negative", "positive"), pipe), head("tense", ("past", "present"), pipe)]
    document = {
        "unconditional": [measured.unconditional("ddim", 7)],
        "guided": [row for h in heads for row in measured.guided(h, 2.0)],
        "composed": measured.composed(heads, 2.0),
    }
    said = report.summary(document)
    assert "ddim 7 steps: valid 1.000" in said and "round trip 0.00 sd" in said
    assert "steered by sentiment: right 0.500 (worst 0.000), valid 1.000, 8 samples at scale 2" in said
    assert "steered by tense:" in said
    assert "steered by sentiment and tense at once" in said
    other = measured.composed([heads[0], head("topic", ("music", "pets"), pipe)], 2.0)
    said = report.summary({"composed": document["composed"] + other})
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "steered by sentiment and tense at once", "steered by sentiment and topic at once",
    ]


def test_a_head_with_labels_of_its_own_is_not_the_oracles_business(pipe, tiny):
    recipe = load_recipe(str(tiny.recipe))
    scorer = Scorer(recipe, load_corpus(recipe.data, recipe.seed))
    evaluation = Evaluation(pipe, scorer, num_samples=2, seed=0)
    weight = torch.zeros(2, *pipe.codec.latent_shape)
    head = AttributeHead.from_weights(["grim", "merry"], weight, torch.zeros(2), name="sentiment",
                                      codec_digest=pipe.codec.digest)
    rows = evaluation.guided(head, 1.0)
    assert [row["judge"] for row in rows] == ["the label's words stand in the text"] * 2
    assert all("validity" not in row for row in rows)


# Conditional models


class Obedient:
    """Writes what it is conditioned on: a story of that sentiment, or the source itself in capitals."""

    def __init__(self, pipe):
        self.scheduler, self.codec, self.calls = pipe.scheduler, pipe.codec, []

    def __call__(self, generator, cond, keep=1.0, **settings):
        self.calls.append(settings)
        if cond[0] in storyworld.ATTRIBUTES["sentiment"]:
            return SimpleNamespace(texts=stories(sentiment=cond[0])(len(cond)))
        return SimpleNamespace(texts=[text.upper() for text in cond])


def test_every_class_of_a_conditional_model_has_a_row(pipe):
    data = DataConfig(condition="label", condition_column="sentiment")
    corpus, obedient = Corpus([], TEXTS, classes=["negative", "positive"]), Obedient(pipe)
    rows = Evaluation(obedient, Scorer(Recipe(data=data), corpus), num_samples=8, seed=3).by_class(2.0)
    assert [(row["target"], row["success"], row["n"], row["judge"]) for row in rows] == [
        ("negative", 1, 4, "oracle"), ("positive", 1, 4, "oracle"),
    ]
    assert obedient.calls == [{"guidance_scale": 2.0}] * 2
    said = report.summary({"by_class": rows})
    assert said == "conditioned on sentiment, guidance scale 2: right 1.000 (worst 1.000), valid 1.000, 8 samples"


def test_what_is_written_for_a_source_is_held_against_its_own_text(pipe):
    sources = [*TEXTS[:5], "harbor " * 200]  # the last is too long
    corpus = Corpus([], [*TEXTS[:4], *TEXTS[4:6]], valid_conditions=sources)
    recipe, obedient = Recipe(data=DataConfig(source="pairs.csv", condition="text")), Obedient(pipe)
    alike = lambda texts, of: float(texts[0].lower() == of[0][0].lower())  # noqa: E731
    near = SimpleNamespace(path="an encoder", layer=6, f1=alike)
    scorer = Scorer(recipe, corpus, similarity=near)
    row = Evaluation(obedient, scorer, num_samples=8, seed=3).by_source(1.0, candidates=5)
    assert scorer.scorers() == {"bert_score": "an encoder, layer 6"}
    assert row["bert_score"] == row["rouge"]["rouge2"] == 1
    assert (row["n"], row["candidates"], row["unchanged"]) == (5, 5, 0)
    assert row["bleu"] == row["bleu_of_sources"] == row["sources_as_they_are"] == pytest.approx(100)
    assert row["samples"][0] == [TEXTS[0], TEXTS[0].upper(), TEXTS[0]]
    assert obedient.calls == [{"guidance_scale": 1.0, "candidates": 5}]
    said = report.summary({"by_source": [row]})
    assert said.startswith("conditioned on a source, guidance scale 1, best of 5: BLEU 100.0, SARI 100.0 (unchanged ")
    assert "BERTScore 1.000" in said


def test_a_source_with_several_texts_is_given_once_and_held_against_all_of_them(pipe):
    corpus = Corpus([], [TEXTS[1], TEXTS[0], TEXTS[2]], valid_conditions=[TEXTS[0], TEXTS[0], TEXTS[2]])
    recipe, obedient = Recipe(data=DataConfig(source="pairs.csv", condition="text")), Obedient(pipe)
    row = Evaluation(obedient, Scorer(recipe, corpus), num_samples=8, seed=3).by_source(1.0, candidates=1)
    assert (row["n"], row["references"]) == (2, 1.5)
    assert row["bleu"] == row["sources_as_they_are"] == pytest.approx(100)
    assert row["samples"] == [[TEXTS[0], TEXTS[0].upper(), TEXTS[1]], [TEXTS[2], TEXTS[2].upper(), TEXTS[2]]]


def test_pairs_of_many_labels_are_drawn_and_not_multiplied_out():
    few, many = (SimpleNamespace(classes_=[str(n) for n in range(count)]) for count in (3, 100))
    assert len(label_combinations([few, few], 0)) == len(set(label_combinations([few, few], 1))) == 9
    drawn = label_combinations([many, many], 0)
    assert len(drawn) == len(set(drawn)) == MOST_COMBINATIONS
    assert drawn == label_combinations([many, many], 0) != label_combinations([many, many], 1)
    assert max(len({pair[side] for pair in drawn}) for side in (0, 1)) > 50
