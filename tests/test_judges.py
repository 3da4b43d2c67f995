"""Judges of real text: what they are fitted on, and that they say what they should."""

import math
from types import SimpleNamespace

import hub_layouts
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from latdiff import storyworld
from latdiff.evaluation.judges import (
    FluencyJudge,
    JudgeError,
    LabelJudge,
    MauveJudge,
    SeenTexts,
    SimilarityJudge,
)
from latdiff.heads.attribute import AttributeHead
from latdiff.lm import LanguageModelError

GOOD = ["a lovely plate of food", "lovely staff", "what a lovely place!", "the food is lovely", "so lovely", "lovely!"]
BAD = ["an awful plate of food", "awful staff", "what an awful place!", "the food is awful", "so awful", "awful!"]
TEXTS, LABELS = GOOD + BAD, ["good"] * 6 + ["bad"] * 6


# Labels


def test_a_judge_tells_labels_by_their_words():
    judge = LabelJudge(TEXTS, LABELS)
    assert judge.labels == ["bad", "good"]
    assert judge.predict(["some awful soup", "a lovely cake"]) == ["bad", "good"]
    assert (judge.accuracy_, judge.texts_) == (1.0, 12)
    assert "12 other texts, right on 1.000" in judge.describe()


def test_pairs_of_words_count():
    """Either label has the same words, in another order."""
    texts = ["man bites dog", "dog bites man"] * 10
    assert LabelJudge(texts, ["news", "no news"] * 10).predict(texts[:2]) == ["news", "no news"]


def test_accuracy_is_of_texts_held_out():
    """Every text has a word of its own and labels are tossed: learnt by heart, and worth nothing on others."""
    coin = torch.randint(2, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    judge = LabelJudge([f"word{i}" for i in range(200)], coin)
    assert judge.predict([f"word{i}" for i in range(200)]) == [str(label) for label in coin]
    assert judge.accuracy_ < 0.7


@pytest.mark.parametrize("labels", [["good"] * 12, ["good"] * 8 + ["bad"] * 4, LABELS[:-1]])
def test_too_few_labels_are_refused(labels):
    with pytest.raises(JudgeError, match="two labels and 5 texts of each"):
        LabelJudge(TEXTS, labels)


def head_that_saw(pipe, texts):
    from latdiff.heads.inputs import fingerprints

    weight = torch.zeros(2, *pipe.codec.latent_shape)
    return AttributeHead.from_weights(["bad", "good"], weight, torch.zeros(2), name="taste", codec_digest="abc",
                                      fitted_on=fingerprints(texts))


def test_a_judge_keeps_off_what_its_head_was_fitted_on(pipe):
    more = [f"{text} {i}" for i, text in enumerate(TEXTS)]
    judge = LabelJudge.apart_from([head_that_saw(pipe, TEXTS)], TEXTS + more, LABELS + LABELS)
    assert judge.texts_ == 12
    with pytest.raises(JudgeError, match=r"texts of their own: among the 6 that .* none has the label bad"):
        LabelJudge.apart_from([head_that_saw(pipe, BAD)], [text.upper() for text in TEXTS], LABELS)


def test_a_judge_keeps_off_what_any_that_it_has_to_has_seen(pipe):
    more = [f"{text} {i}" for i, text in enumerate(TEXTS * 2)]
    trained_on = SeenTexts("taste", ["bad", "good"], [text.upper() for text in more[:12]])
    judge = LabelJudge.apart_from([trained_on, head_that_saw(pipe, TEXTS)], TEXTS + more, LABELS * 3)
    assert judge.texts_ == 12


def test_a_head_that_does_not_know_its_texts_has_no_judge(pipe):
    with pytest.raises(JudgeError, match="no record of the texts"):
        LabelJudge.apart_from([head_that_saw(pipe, [])], TEXTS, LABELS)


# Fluency


@pytest.fixture
def language_model(tiny):
    """A GPT-2 with random weights and the tiny tokenizer, saved to a folder; -> (folder, model)."""

    def build(folder, **settings):
        tokenizer = AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer")
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=40, n_embd=8, n_layer=1, n_head=1, bos_token_id=0,
                            eos_token_id=1, **settings)
        model = GPT2LMHeadModel(config).eval()
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        return tokenizer, model

    return build


TWO = ["I walked to the harbor.", "On a wet Monday, Lucy and her uncle hurried to the old barn to bake."]


def test_perplexity_is_what_transformers_own_loss_says(tmp_path, language_model):
    tokenizer, model = language_model(tmp_path)
    nats, counts = [], []
    for text in TWO:
        ids = torch.tensor([[0, *tokenizer(text).input_ids]])
        counts.append(ids.shape[1] - 1)
        nats.append(model(ids, labels=ids).loss.item() * counts[-1])
    measured = FluencyJudge(tmp_path).perplexity(TWO)
    assert measured["tokens"] == pytest.approx(math.exp(sum(nats) / sum(counts)), rel=1e-4)
    own = [math.exp(n / c) for n, c in zip(nats, counts, strict=True)]
    assert measured["texts"] == pytest.approx(sum(own) / 2, rel=1e-4)


def test_a_model_that_knows_nothing_has_the_vocabularys_perplexity(tmp_path, language_model):
    tokenizer, model = language_model(tmp_path)
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    model.save_pretrained(tmp_path)
    measured = FluencyJudge(tmp_path).perplexity([*TWO, ""])
    assert measured["tokens"] == pytest.approx(len(tokenizer), rel=1e-4)
    assert measured["texts"] == pytest.approx(len(tokenizer), rel=1e-4)


def test_a_text_is_scored_the_same_beside_any_other_and_cut_where_the_model_ends(tmp_path, language_model):
    language_model(tmp_path)
    judge = FluencyJudge(tmp_path)
    nats, counts = judge.losses([*TWO, "harbor " * 300])
    alone = torch.cat([judge.losses([text])[0] for text in TWO])
    torch.testing.assert_close(nats[:2], alone, rtol=1e-4, atol=1e-3)
    assert counts[2] == 39


def test_a_beginning_that_the_tokenizer_writes_itself_is_not_scored(tmp_path, language_model, monkeypatch):
    language_model(tmp_path)
    judge = FluencyJudge(tmp_path)
    expected, own = judge.losses(TWO), judge.tokenizer

    class Beginning:
        def __call__(self, texts, **_):
            return SimpleNamespace(input_ids=[[0, *row] for row in own(texts).input_ids])

        def __getattr__(self, name):
            return getattr(own, name)

    judge.tokenizer = Beginning()
    nats, counts = judge.losses(TWO)
    torch.testing.assert_close(nats, expected[0])
    assert torch.equal(counts, expected[1])


@pytest.mark.parametrize("path", ["nowhere", "{tmp}/empty"])
def test_a_language_model_that_is_not_there_is_refused_in_a_sentence(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LanguageModelError, match="language model"):
        FluencyJudge(path.format(tmp=tmp_path))


def test_texts_of_the_corpus_are_likelier_than_noise_to_a_model_trained_on_it(tiny):
    judge = FluencyJudge(tiny.ar)
    words = ["harbor uncle the of bake", "barn barn Monday wet to"]
    assert judge.perplexity(words)["tokens"] > judge.perplexity(TWO)["tokens"] > 1


# MAUVE


def encoder(folder, tokenizer, num_hidden_layers=1):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=num_hidden_layers,
                        num_attention_heads=1, intermediate_size=8, max_position_embeddings=40)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_texts_are_like_themselves_and_unlike_others(tiny, tmp_path):
    encoder(tmp_path, AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer"))
    judge = MauveJudge(tmp_path)
    stories = [story.text for story in storyworld.sample(120, 3)]
    alike, other = (judge.mauve(texts, stories[60:]) for texts in (stories[:60], [text.upper() for text in stories]))
    assert 0 <= other < 0.5 < alike <= 1
    assert judge.mauve(stories[60:], stories[60:]) == pytest.approx(1)
    assert judge.mauve(stories[60:], [text.upper() for text in stories[60:]]) == pytest.approx(other, abs=0.2)


def test_states_are_of_the_last_token_or_of_all_where_the_model_is_bidirectional(tmp_path, language_model):
    tokenizer, _ = language_model(tmp_path / "causal")
    encoder(tmp_path / "encoder", tokenizer)
    ids = torch.tensor([tokenizer(TWO[0]).input_ids])
    for kind, pooled in (("causal", lambda states: states[:, -1]), ("encoder", lambda states: states.mean(1))):
        judge = MauveJudge(tmp_path / kind)
        expected = pooled(judge.model(input_ids=ids.to(judge.model.device)).last_hidden_state).cpu()
        torch.testing.assert_close(judge.states([TWO[0], TWO[1] * 20])[:1], expected, atol=1e-5, rtol=1e-4)
        assert judge.states(["", TWO[0]]).isfinite().all()


def test_a_model_that_cannot_read_a_text_alone_is_refused_in_a_sentence(tiny):
    with pytest.raises(JudgeError, match="cannot read a text by itself"):
        MauveJudge(tiny.root / "checkpoints" / "tiny-t5")
    with pytest.raises(LanguageModelError, match="no language model 'nowhere'"):
        MauveJudge("nowhere")


# BERTScore


def test_a_text_is_nearest_to_itself(tmp_path, tiny):
    encoder(tmp_path, AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer"))
    judge = SimilarityJudge(tmp_path)
    first, second, third = GOOD[0], BAD[1], GOOD[2]
    assert judge.layer == 1
    assert judge.f1([first], [[first]]) == pytest.approx(1, abs=1e-4)
    assert judge.f1([first], [[second, first]]) == pytest.approx(1, abs=1e-4)  # the best of the references counts
    assert judge.f1([first, second], [[first], [third]]) < 1


def test_a_blank_text_is_near_to_nothing(tmp_path, tiny):
    encoder(tmp_path, AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer"))
    judge = SimilarityJudge(tmp_path)
    assert judge.f1(["", " \n"], [[GOOD[0]], [BAD[0], ""]]) == 0
    assert judge.f1([GOOD[0], ""], [["", GOOD[0]], [GOOD[0]]]) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_similarity_is_bert_scores_own_at_the_layer_that_it_knows(tmp_path, tiny, monkeypatch, kind):
    """bert-score knows encoders by name, here a folder's."""
    import bert_score

    folder = tmp_path / kind
    folder.mkdir()
    if kind == "bert":
        encoder(folder, AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer"), num_hidden_layers=3)
    else:
        getattr(hub_layouts, kind)(folder)
    monkeypatch.setitem(bert_score.model2layers, str(folder), 1)
    theirs = bert_score.BERTScorer(str(folder), num_layers=1, use_fast_tokenizer=True)
    theirs._tokenizer.model_max_length = 40
    judge = SimilarityJudge(folder)
    assert judge.layer == 1
    expected = theirs.score(GOOD, [[text, text.upper()] for text in BAD])[2].mean().item()
    assert judge.f1(GOOD, [[text, text.upper()] for text in BAD]) == pytest.approx(expected, abs=1e-5)


def test_an_encoder_without_a_weight_is_refused(tmp_path, tiny):
    encoder(tmp_path, AutoTokenizer.from_pretrained(tiny.checkpoint / "tokenizer"))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JudgeError, match=r"lacks 1 weights, the first is encoder.*; take a text encoder"):
        SimilarityJudge(tmp_path)


def test_an_encoder_that_is_not_there(tmp_path):
    with pytest.raises(JudgeError, match="BERTScore cannot read with"):
        SimilarityJudge(tmp_path)


def test_a_model_that_is_no_encoder(tmp_path, language_model):
    tokenizer, _ = language_model(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(JudgeError, match=r"cannot read a text by itself \(.+\); take a text encoder"):
        SimilarityJudge(tmp_path)
