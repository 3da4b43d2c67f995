"""Stop, think, write on: what a text depends on, how plans are steered and chosen, what is saved, what is refused."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from sentence_models import TEXTS, sentence_codec
from star_models import widened

from latdiff import AttributeHead, StarPipeline, StarPlanner, open_checkpoint
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe
from latdiff.diffusion.sampling import SchedulerError, make_scheduler
from latdiff.errors import UserError
from latdiff.lm import LanguageModelError, read
from latdiff.models.writer import load_writer
from latdiff.pipelines import star
from latdiff.schedule import betas

K = 3
FIRST = ["The cat", "The owl is", "The"]
V0 = Path(__file__).parent / "fixtures" / "v0" / "pipeline"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pipeline(writers, codec, layout="gpt2", **settings):
    tokenizer, model = load_writer(str(getattr(writers, layout)))
    torch.manual_seed(1)
    planner = StarPlanner(*codec.latent_shape, prompt_dim=16, num_prompts=K, width=16, depth=1, heads=2,
                          codec_digest=codec.digest)
    made = StarPipeline(
        language_model=model, language_tokenizer=tokenizer, planner=widened(planner.eval(), 0.3), codec=codec,
        scheduler=make_scheduler("ddim", betas("tan-3")), **{"num_inference_steps": 2} | settings,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def codec(writers):
    return sentence_codec(writers.llama, writers.encoder)


@pytest.fixture
def pipe(writers, codec):
    return pipeline(writers, codec)


def head_of(codec, labels=("a", "b")):
    weight = torch.randn(len(labels), *codec.latent_shape, generator=seeded(5))
    return AttributeHead.from_weights(list(labels), weight, torch.zeros(len(labels)), name="mood",
                                      codec_digest=codec.digest)


# What a text is


def test_texts_go_on_from_their_first_words(pipe):
    out = pipe(FIRST, num_samples=2, generator=seeded(), max_new_tokens=8)
    assert len(out.texts) == len(out.continuations) == len(out.cut) == 6
    for first, text, rest in zip([one for one in FIRST for _ in range(2)], out.texts, out.continuations, strict=True):
        assert text.startswith(first) and text.endswith(rest)
    assert len(set(out.continuations)) > 3
    assert out.latents.shape == (6, *pipe.codec.latent_shape) and out.scores == {}
    assert pipe("The cat", generator=seeded(), max_new_tokens=8, return_dict=False)[0] == out.texts[:1]


def test_a_text_depends_on_its_seed_and_place_alone(pipe):
    whole = pipe(FIRST, generator=seeded(), max_new_tokens=8)
    assert pipe(FIRST, generator=seeded(), max_new_tokens=8, batch_size=1).texts == whole.texts
    assert pipe(FIRST[:2], generator=seeded(), max_new_tokens=8).texts == whole.texts[:2]
    assert pipe(FIRST[2:], generator=seeded(), max_new_tokens=8, first=2).texts == whole.texts[2:]
    assert pipe(FIRST, generator=seeded(7), max_new_tokens=8).texts != whole.texts
    alone = [pipe(one, generator=[seeded(place)], max_new_tokens=8).texts[0] for place, one in enumerate(FIRST)]
    assert pipe(FIRST, generator=[seeded(place) for place in range(3)], max_new_tokens=8).texts == alone


def test_a_text_that_reaches_its_limit_is_cut_and_one_that_ends_is_not(pipe):
    pipe.language_model.generation_config.eos_token_id = None
    assert pipe(FIRST, generator=seeded(), max_new_tokens=3).cut == [True] * 3
    end = pipe.language_tokenizer.eos_token_id
    pipe.language_model.generation_config.eos_token_id = end
    with torch.no_grad():
        pipe.language_model.transformer.ln_f.bias.add_(5 * pipe.language_model.lm_head.weight[end])
    out = pipe(FIRST, generator=seeded(), max_new_tokens=8)
    assert out.cut == [False] * 3 and out.continuations == [""] * 3 and out.texts == FIRST


def test_the_prefix_is_read_once(pipe, monkeypatch):
    counted = []
    monkeypatch.setattr(star, "read", lambda model, ids: counted.append(ids) or read(model, ids))
    pipe(FIRST, generator=seeded(), max_new_tokens=4, num_inference_steps=5)
    assert counted == [pipe.ids(FIRST)]


# Thinking


def test_the_plan_decides_what_is_written(pipe):
    found = {steps: pipe(FIRST, generator=seeded(), max_new_tokens=8, num_inference_steps=steps) for steps in (0, 1, 4)}
    assert len({tuple(out.texts) for out in found.values()}) == 3
    assert not found[0].latents.any() and found[4].latents.any()
    free, tied = (pipe(FIRST, generator=seeded(), guidance_scale=scale).latents for scale in (0.0, 1.0))
    assert not torch.equal(free, tied)
    same = pipe(["The cat", "The"], generator=[seeded(), seeded()], guidance_scale=0.0).latents
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=0)  # it knows nothing of the words


def test_what_is_read_of_a_plan_has_noise_unless_there_is_to_be_none(pipe):
    plans = torch.randn(2, *pipe.codec.latent_shape, generator=seeded(3))
    clean = [pipe.prompts(plans, [seeded(a), seeded(b)], 0.0) for a, b in ((0, 1), (2, 3))]
    noisy = [pipe.prompts(plans, [seeded(a), seeded(b)]) for a, b in ((0, 1), (2, 3))]
    assert torch.equal(*clean) and not torch.equal(*noisy)
    nothing = [pipe.prompts(None, [seeded(a), seeded(b)]) for a, b in ((0, 1), (2, 3))]
    assert torch.equal(*nothing) and torch.equal(nothing[0][0], nothing[0][1])
    texts = {renoise: pipe(FIRST, generator=seeded(), renoise=renoise, max_new_tokens=8) for renoise in (0.0, 0.5)}
    assert torch.equal(texts[0.0].latents, texts[0.5].latents) and texts[0.0].texts != texts[0.5].texts


@pytest.mark.filterwarnings("ignore:half of the steered latents")
@pytest.mark.parametrize("mode", ["x0", "denoiser", "monte-carlo"])
def test_guides_steer_the_plan(pipe, codec, mode):
    head = head_of(codec)
    call = {"generator": seeded(), "num_inference_steps": 3, "max_new_tokens": 2}
    with torch.inference_mode():  # a guide differentiates through the language model all the same
        out = pipe(FIRST, guides=head.toward("a", scale=0.5, mode=mode), **call)
    free = head.predict_proba(pipe(FIRST, **call | {"generator": seeded()}).latents)[:, 0]
    assert list(out.scores) == ["mood=a"]
    assert sum(out.scores["mood=a"]) > sum(free.tolist())


@pytest.mark.filterwarnings("ignore:half of the steered latents")
def test_of_several_thoughts_the_likeliest_is_followed(pipe, codec):
    guide = head_of(codec).toward("a", scale=0.0)
    one, four = (pipe(FIRST, guides=guide, thoughts=k, generator=seeded(), max_new_tokens=8) for k in (1, 4))
    better = [b >= a for a, b in zip(one.scores["mood=a"], four.scores["mood=a"], strict=True)]
    assert all(better) and one.scores != four.scores
    for place, same in enumerate(one.scores["mood=a"][i] == four.scores["mood=a"][i] for i in range(3)):
        if same:  # the first thought is the one that it has alone
            assert one.texts[place] == four.texts[place]
    few = pipe(FIRST[:2], guides=guide, thoughts=4, generator=seeded(), max_new_tokens=8, batch_size=1)
    assert few.texts == four.texts[:2]


def test_it_thinks_anew_where_sentences_end(pipe, monkeypatch):
    ends = pipe._sentence_ends
    assert {pipe.language_tokenizer.decode([one]) for one in ends} == {".", "!", "?"}
    monkeypatch.setattr(pipe, "_sentence_ends", set(range(3, 700)))  # so that some come
    pipe.language_model.generation_config.eos_token_id = None
    counted = []
    monkeypatch.setattr(star, "read", lambda model, ids: counted.append(ids) or read(model, ids))
    for sentences in (1, 2):
        counted.clear()
        out = pipe("The cat", generator=seeded(), max_new_tokens=12, sentences=sentences)
        before = [rows[0] for rows in counted]
        assert len(before) > 3 - sentences
        for shorter, longer in itertools.pairwise(before):
            more = longer[len(shorter) :]
            assert longer[: len(shorter)] == shorter and more[-1] in pipe._sentence_ends
            assert sum(one in pipe._sentence_ends for one in more) == sentences
        assert len(pipe.ids(out.texts)[0]) > 2
        alone = pipe(["The cat", *FIRST], generator=seeded(), max_new_tokens=12, sentences=sentences)
        assert alone.texts[0] == out.texts[0]


def test_a_text_that_thinks_anew_keeps_within_its_limits(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "_sentence_ends", set(range(200)))
    pipe.language_model.generation_config.eos_token_id = None
    out = pipe(FIRST, generator=seeded(), max_new_tokens=5, sentences=1)
    assert out.cut == [True] * 3
    whole = pipe("The cat", generator=seeded(), sentences=9)  # to the end of the context
    assert whole.cut == [True]


@pytest.mark.filterwarnings("ignore:half of the steered latents", "ignore:.* texts are cut")
def test_the_snippets_of_the_page_run_as_written(writers, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "star.md").read_text(encoding="utf-8")
    shutil.copytree(V0, tmp_path / "checkpoints" / "storyworld")
    made = pipeline(writers, load_codec(V0))
    made.save_pretrained(tmp_path / "checkpoints" / "star-storyworld")
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, names)
    assert len(names["out"].texts) == 2 and list(names["out"].scores) == ["sentiment=positive"]
    load_recipe("star-storyworld")


# Saving


@pytest.mark.parametrize("kind", ["sentence", "t5"])
def test_a_saved_pipeline_writes_what_it_wrote(writers, codec, tmp_path, kind):
    pipe = pipeline(writers, codec if kind == "sentence" else load_codec(V0))
    expected = pipe(FIRST, generator=seeded(), max_new_tokens=8)
    pipe.save_pretrained(tmp_path / "star")
    index = json.loads((tmp_path / "star" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StarPipeline" and index["planner"] == ["latdiff", "StarPlanner"]
    assert not [file for file in (tmp_path / "star").rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
    opened = open_checkpoint(tmp_path / "star"), StarPipeline.from_pretrained(tmp_path / "star")
    for again in opened:
        again.set_progress_bar_config(disable=True)
        found = again(FIRST, generator=seeded(), max_new_tokens=8)
        assert found.texts == expected.texts and found.cut == expected.cut
        assert again.codec.decode(expected.latents) == pipe.codec.decode(expected.latents)


def test_a_language_model_that_lacks_weights_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "star")
    weights = pipe.language_model.state_dict()
    del weights["transformer.h.0.mlp.c_fc.weight"]
    pipe.language_model.save_pretrained(tmp_path / "star" / "language_model", state_dict=weights)
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        open_checkpoint(tmp_path / "star")


# What is refused


def test_first_words_must_be_there_and_leave_room(pipe):
    for wrong, said in (("", "cond 0 of 1 is '', must be the first words"), (["The cat", " "], "cond 1 of 2 is ' '"),
                        ([], "cond is an empty list"), (None, "there is no cond"), (["The cat", 3], "cond 1 of 2 is 3"),
                        (" ".join(TEXTS), r"cond 0 of 1 has \d+ tokens, must have at most 44")):
        with pytest.raises(UserError, match=said):
            pipe(wrong)


def test_settings_out_of_range_are_refused(pipe, codec):
    for wrong, said in (
        ({"num_inference_steps": -1}, "num_inference_steps is -1, must be 0 or more"),
        ({"thoughts": 0}, "thoughts is 0"), ({"sentences": 0}, "sentences is 0"), ({"num_samples": 0}, "num_samples"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"), ({"batch_size": 0}, "batch_size is 0"),
        ({"renoise": 1.0}, "renoise is 1.0, must be at least 0 and below 1"),
        ({"top_p": 0.0}, "top_p is 0.0, must be above 0"), ({"top_p": "x"}, "top_p is 'x', must be a number"),
        ({"guidance_scale": "2"}, "guidance_scale, .* is '2', must"), ({"renoise": None}, "renoise is None, must be"),
        ({"guides": "mood"}, "guides holds 'mood'"),
        ({"thoughts": 2}, "thoughts is 2, but there is no head among the guides"),
        ({"guides": head_of(codec).toward("a"), "num_inference_steps": 0}, "which leaves guides no plan to steer"),
    ):
        with pytest.raises(UserError, match=said):
            pipe("The cat", **wrong)


def test_what_does_not_belong_together_is_refused(writers, pipe, codec):
    other = head_of(codec)
    other.codec_digest = "other"
    with pytest.raises(CheckpointError, match="head 'mood' was fitted on latents of codec other"):
        pipe("The cat", guides=other.toward("a"))
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    with pytest.raises(SchedulerError, match="the denoiser estimates x0"):
        pipe("The cat")
    with pytest.raises(CheckpointError, match="the planner was trained on latents of codec"):
        parts = {name: getattr(pipe, name) for name in ("language_model", "language_tokenizer", "planner", "scheduler")}
        StarPipeline(**parts, codec=load_codec(V0))
    pipe.language_tokenizer.eos_token = None
    with pytest.raises(LanguageModelError, match="has no end-of-text token"):
        StarPipeline(**parts, codec=codec)
