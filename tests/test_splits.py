"""Texts cut between words: where, how often, and that their ids are those of the whole text."""

import pytest
from sentence_models import STORIES

from latdiff.data.splits import LEFT, split_ids, split_texts
from latdiff.lm import load_tokenizer


@pytest.fixture(params=["llama", "t5"])
def tokenizer(request, writers):
    from latdiff.config.reading import BUNDLED

    path = {"llama": writers.llama, "t5": BUNDLED / "t5-mini"}[request.param]
    return load_tokenizer(path, lambda reason: ValueError(reason))


def test_every_text_is_cut_at_different_places_and_nothing_is_lost():
    found = split_texts(STORIES, 4, 0)
    assert len(found) == 4 * len(STORIES) == len(set(found))
    for place, one in enumerate(found):
        assert one.text == STORIES[place // 4]
        assert len(one.behind.split()) >= LEFT
    assert {len(one.before.split()) for one in found} >= {1, 2, 3, 20}


def test_the_places_of_a_text_depend_on_it_and_the_seed_alone():
    whole = split_texts(STORIES, 2, 0)
    assert split_texts(STORIES[3:5], 2, 0) == whole[6:10]
    assert split_texts(STORIES, 2, 1) != whole
    assert [len(split_texts([text], 4, 0)) for text in ("one two", "one two three", "a b c d")] == [0, 1, 2]


def test_ids_of_both_parts_are_those_of_the_whole_text(tokenizer):
    splits = split_texts(STORIES[:9], 3, 0)
    for one, (before, behind) in zip(splits, split_ids(tokenizer, splits), strict=True):
        assert before + behind == [*tokenizer(one.text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        assert tokenizer.decode(before) == one.before


def test_a_text_that_is_cut_within_a_token_is_left_out(tokenizer, monkeypatch):
    splits = split_texts(STORIES[:1], 2, 0)

    class Merging:
        """Gives a word other ids where another one follows."""

        eos_token_id, unk_token_id, all_special_ids = 1, None, ()

        def convert_tokens_to_ids(self, tokens):
            return [None] * len(tokens)

        def __call__(self, texts, **settings):
            rows = [list(range(2, 2 + len(text.split()))) for text in texts]
            return type("Ids", (), {"input_ids": [[99, *row] if texts[0] == splits[0].before else row
                                                  for row in rows]})

    assert split_ids(Merging(), splits) == [None, None]
