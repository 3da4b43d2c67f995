"""A vocabulary of one's own, padded batches, and span corruption."""

import random
import re

import hub_layouts
import pytest
import sentence_models
import torch
from transformers import AutoTokenizer, T5Tokenizer

from latdiff.data.tokens import (
    IGNORED,
    NUM_SENTINELS,
    corrupt_spans,
    labels_of,
    lead_in,
    length_report,
    limit_for,
    pad,
    plain_ids,
    span_marks,
    tokenize,
    train_vocabulary,
    unknown_characters,
    unknown_share,
)
from latdiff.errors import UserError

TEXTS = [
    f"{name} walked to the {place} and felt {mood}."
    for name in ("Ann", "Ben", "Zoë")
    for place in ("lake", "market", "old bridge")
    for mood in ("glad", "tired, but proud", "lost")
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    return folder, train_vocabulary(TEXTS, folder, 80)


def test_texts_come_back_from_their_ids(vocabulary):
    _, tokenizer = vocabulary
    ids = tokenize(tokenizer, TEXTS)
    assert tokenizer.batch_decode(list(ids), skip_special_tokens=True) == TEXTS
    assert all(row[-1] == tokenizer.eos_token_id and row.count(tokenizer.eos_token_id) == 1 for row in ids)


def test_pieces_and_characters_that_the_tokenizer_does_not_know(vocabulary):
    _, tokenizer = vocabulary
    strange = ["Ann 天", "天 Ben 地"]
    ids = tokenize(tokenizer, strange)
    assert unknown_share(tokenizer, tokenize(tokenizer, TEXTS)) == 0
    assert unknown_share(tokenizer, ids) == 3 / sum(map(len, ids))
    assert unknown_characters(tokenizer, TEXTS + strange) == ["天", "地"]  # the commonest first
    assert unknown_characters(tokenizer, strange, most=1) == ["天"]
    assert unknown_characters(tokenizer, TEXTS) == []


@pytest.mark.parametrize("layout", [*hub_layouts.LAYOUTS, sentence_models.bert, sentence_models.llama,
                                    sentence_models.gpt2], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("within", [True, False])
def test_no_text_smuggles_a_mark_in(layout, within, tmp_path):
    layout(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    whole = set(tokenizer.all_special_tokens) | {"<extra_id_0>", "<extra_id_7>", "</s>", "<pad>", "[SEP]", "<|end|>"}
    texts = [f"Ann {mark} Ben{mark}{mark} {mark}" for mark in sorted(whole)]
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if tokenizer.unk_token_id is not None:
        marks |= {id_ for id_ in tokenizer.convert_tokens_to_ids(["▁<extra_id_0>", "▁<extra_id_7>"])}
        marks -= {tokenizer.unk_token_id}
    plain = plain_ids(tokenizer, ["Ann walked"], add_special_tokens=within)[0]
    around = [one for one in plain if one in marks]
    assert plain == tokenizer("Ann walked", add_special_tokens=within).input_ids
    for row in plain_ids(tokenizer, texts, add_special_tokens=within):
        assert [one for one in row if one in marks] == around


def test_a_mark_that_a_vocabulary_cannot_spell_is_an_unknown_piece(vocabulary):
    _, tokenizer = vocabulary
    (row,) = tokenize(tokenizer, ["Ann </s> Ben"])
    assert tokenizer.unk_token_id in row and row.index(tokenizer.eos_token_id) == len(row) - 1
    assert "Ben" in tokenizer.decode(row)
    assert unknown_share(tokenizer, [row]) > 0


def test_a_tokenizer_of_bytes_knows_every_piece(tmp_path):
    hub_layouts.bart(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert unknown_share(tokenizer, tokenize(tokenizer, ["Ann", "天地"])) == 0


def test_nothing_is_cut(vocabulary):
    _, tokenizer = vocabulary
    text = " ".join(TEXTS * 40)
    (row,) = tokenize(tokenizer, [text])
    assert tokenizer.decode(row, skip_special_tokens=True) == text


@pytest.mark.parametrize("texts, most, whole", [(1, 1, 1), (100, 99, 100), (101, 100, 101), (700, 693, 700)])
def test_the_limit_for_a_share_of_the_texts_is_the_least_that_keeps_it(texts, most, whole):
    ids = [[7] * length for length in random.Random(0).sample(range(1, texts + 1), texts)]
    assert (limit_for(ids, 99), limit_for(ids, 100)) == (most, whole)
    assert sum(len(row) <= most for row in ids) >= 0.99 * texts > sum(len(row) < most for row in ids)


def test_the_report_on_lengths_names_the_setting():
    ids = [[7] * 20] * 198 + [[7] * 31, [7] * 500]
    assert length_report(ids) == (
        "99 % of the training texts have at most 20 tokens; data.max_tokens=500 would keep all of them")


def test_a_saved_vocabulary_reads_the_same(vocabulary):
    folder, tokenizer = vocabulary
    again = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    unseen = ["Zoë felt proud of the bridge", "the the the"]
    assert tokenize(again, unseen) == tokenize(tokenizer, unseen)


def test_the_layout_is_t5s(vocabulary):
    _, tokenizer = vocabulary
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert len(tokenizer) == 80 + NUM_SENTINELS
    sentinels = span_marks(tokenizer)
    assert len(set(sentinels)) == NUM_SENTINELS
    assert tokenizer.unk_token_id not in sentinels
    assert not {token for row in tokenize(tokenizer, TEXTS) for token in row} & set(sentinels)


def test_a_vocabulary_too_large_for_the_texts_becomes_as_large_as_they_allow(tmp_path):
    tokenizer = train_vocabulary(TEXTS, tmp_path, 100_000)
    assert 80 < len(tokenizer) < 1000
    assert tokenizer.batch_decode(list(tokenize(tokenizer, TEXTS)), skip_special_tokens=True) == TEXTS


SIGNS = "天地玄黄宇宙洪荒日月盈昃"


@pytest.mark.parametrize("kind", ["words", "no spaces"])
@pytest.mark.parametrize("others", [[], TEXTS])
def test_texts_of_any_length_are_counted(tmp_path, kind, others):
    """sentencepiece by itself passes over all that has more than 4,192 bytes."""
    rng, joint = random.Random(0), " " if kind == "words" else ""
    words = ["alpha", "beta", "gamma"] if joint else list(SIGNS)
    texts = [joint.join(rng.choices(words, k=1500)) + f"{joint}Ω{i}" for i in range(10)]
    tokenizer = train_vocabulary(texts + others, tmp_path, 120)
    assert unknown_share(tokenizer, tokenize(tokenizer, texts + others)) == 0
    if joint:
        assert {"▁alpha", "▁gamma"} <= set(tokenizer.tokenize(texts[0]))
    assert tokenizer.decode(tokenize(tokenizer, texts[:1])[0], skip_special_tokens=True) == texts[0]


def test_where_a_long_text_is_cut_does_not_matter_to_the_vocabulary(tmp_path):
    whole, lines = (train_vocabulary(texts, tmp_path / name, 120).get_vocab()
                    for name, texts in (("whole", [" ".join(TEXTS * 20), *TEXTS]), ("lines", TEXTS * 21)))
    assert whole == lines


def test_every_character_of_the_texts_is_known_as_it_stands(tmp_path):
    """None is taken for another one that looks like it, and decomposed accents are two characters."""
    texts = ["He said… “no” ½ cup, ﬁne™", "你好，世界！（真的）１２３", "Cafe\u0301 de\u0301ja\u0300 vu", "a\u200bb"]
    texts = [f"{text} {number}" for number in range(30) for text in texts]
    tokenizer = train_vocabulary(texts, tmp_path, 300)
    ids = tokenize(tokenizer, texts)
    assert unknown_share(tokenizer, ids) == 0
    assert tokenizer.batch_decode(list(ids), skip_special_tokens=True) == texts


def test_a_character_that_sentencepiece_keeps_for_itself_is_the_only_one_that_is_not_known(tmp_path):
    texts = [f"bars ▂▅▇ {number}" for number in range(30)]
    assert unknown_characters(train_vocabulary(texts, tmp_path, 60), texts) == ["▅"]


def test_more_characters_than_pieces_are_refused(tmp_path):
    texts = [chr(0x4E00 + number) * 3 for number in range(200)]
    with pytest.raises(UserError, match=r"backbone\.vocab_size is 80, .*vocab_size=(\d+) or more") as said:
        train_vocabulary(texts, tmp_path, 80)
    tokenizer = train_vocabulary(texts, tmp_path, int(re.search(r"vocab_size=(\d+)", str(said.value))[1]))
    assert unknown_share(tokenizer, tokenize(tokenizer, texts)) == 0


def test_frequent_words_are_one_piece(tmp_path):
    tokenizer = train_vocabulary(TEXTS, tmp_path, 150)
    assert "▁walked" in tokenizer.tokenize("Ann walked")


def test_pad_fills_on_the_right():
    ids, mask = pad([[5, 6, 1], [7, 1]], 0)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    assert mask.dtype == torch.bool


def test_labels_pass_over_padding_and_nothing_else():
    ids, mask = pad([[5, 0, 1], [7, 1]], 0)
    assert labels_of(ids, mask).tolist() == [[5, 0, 1], [7, 1, IGNORED]]
    assert ids.tolist() == [[5, 0, 1], [7, 1, 0]]


# Span corruption: body tokens are 10, 11, ..., sentinels 900, 901, ...

BODY = list(range(10, 110))
SENTINELS = list(range(900, 900 + NUM_SENTINELS))


def corrupted(rate, seed=0, sentinels=SENTINELS):
    return corrupt_spans([*BODY, 1], rate, sentinels, random.Random(seed))


def test_nothing_is_masked_at_rate_zero():
    assert corrupted(0.0) == [*BODY, 1]


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5, 0.7])
def test_about_the_rate_is_masked_and_never_more(rate):
    shares = [1 - sum(token in BODY for token in corrupted(rate, seed)) / len(BODY) for seed in range(50)]
    assert max(shares) <= rate + 1e-9
    assert sum(shares) / len(shares) > 0.6 * rate  # spans may fall upon one another


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_a_sentinel_stands_for_each_gap_in_order(rate):
    row = corrupted(rate)
    used = [token for token in row if token in SENTINELS]
    assert used == SENTINELS[: len(used)]
    assert len(used) >= 2
    kept = [token for token in row if token in BODY]
    assert kept == sorted(kept)
    # a sentinel where, and only where, something is missing
    bodies = [9, *(token if token in BODY else None for token in row[:-1]), 110]
    for before, token, after in zip(bodies, bodies[1:], bodies[2:], strict=False):
        if token is None:
            assert before is not None
            assert after - before > 1
        elif before is not None:
            assert token == before + 1


def test_the_end_stays():
    assert all(corrupted(0.9, seed)[-1] == 1 for seed in range(20))
    assert corrupt_spans([1], 0.5, SENTINELS, random.Random(0)) == [1]


def test_corruption_depends_on_the_random_numbers_alone():
    assert corrupted(0.3, seed=1) == corrupted(0.3, seed=1)
    assert corrupted(0.3, seed=1) != corrupted(0.3, seed=2)


def test_more_spans_than_sentinels_still_end_well():
    row = corrupted(0.5, sentinels=SENTINELS[:3])
    assert [token for token in row if token >= 900] == SENTINELS[:3]
    assert row[-1] == 1


# What stands for a hidden span is the tokenizer's to say


@pytest.mark.parametrize("layout", hub_layouts.LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_hidden_span_has_a_token_of_the_tokenizers_own(layout, tmp_path):
    layout(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    marks, (row,) = span_marks(tokenizer), tokenize(tokenizer, hub_layouts.TEXTS[:1])
    hidden = corrupt_spans(row, 0.4, marks, random.Random(0), lead_in(tokenizer))
    stand_ins = [token for token in hidden if token in marks]
    assert len(stand_ins) > 3
    assert stand_ins == marks[: len(stand_ins)]
    assert tokenizer.unk_token_id not in hidden
    names = tokenizer.convert_ids_to_tokens(stand_ins[:2])
    assert [name.lstrip("▁") for name in names] in (["<extra_id_0>", "<extra_id_1>"], ["<mask>", "<mask>"])
    empty = tokenize(tokenizer, [""])[0]
    assert [*hidden[: lead_in(tokenizer)], hidden[-1]] == empty  # <s> and </s> are never hidden


def test_the_lead_in_stays():
    rows = [corrupt_spans([7, 8, *BODY, 1], 0.9, SENTINELS, random.Random(seed), lead=2) for seed in range(20)]
    assert all(row[:2] == [7, 8] and row[-1] == 1 for row in rows)


def test_a_tokenizer_is_asked_for_its_marks_once(vocabulary, monkeypatch):
    _, tokenizer = vocabulary
    given, kind, asked = span_marks(tokenizer), type(tokenizer), []
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *texts, **settings: asked.append(self) or call(
        self, *texts, **settings))
    other = T5Tokenizer(vocab=tokenizer._vocab_scores[:70], extra_ids=NUM_SENTINELS)
    for one in (tokenizer, other):
        found = [(span_marks(one), lead_in(one)) for _ in range(5)]
        assert found == 5 * [found[0]] and len(found[0][0]) == NUM_SENTINELS
    assert span_marks(tokenizer) == given
    assert len(asked) <= 5  # and not 22


def test_a_tokenizer_that_can_hide_nothing_is_refused(tmp_path):
    tokenizer = train_vocabulary(TEXTS, tmp_path, 80)
    bare = T5Tokenizer(vocab=tokenizer._vocab_scores[:60], extra_ids=0)
    with pytest.raises(UserError, match=r"neither <extra_id_0> nor a mask token; set .*mask_rates=\[0\]"):
        span_marks(bare)
