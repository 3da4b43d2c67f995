"""The texts of the recipe english: what is trained on, what heads and judges get, and nothing in two of them."""

import csv
import gzip
import json

import pytest
from latdiff.recipes import english_texts

from latdiff.errors import UserError


def rows(kind, labels, count=60, **more):
    return [{"text": f"the {kind} number {i} has some words", "label": labels[i % len(labels)]} | more
            for i in range(count)]


@pytest.fixture
def sets(tmp_path):
    """Small data sets under the names that the public ones have; one of them is gzipped."""
    headlines = [{"text": "a long one", "title": f"Title {i} Of An Item (Reuters)", "label": ["World", "Sports"][i % 2]}
                 for i in range(30)]
    toxic = [{"text": f"comment {i // 2} said {'badly' if i % 2 else 'well'}", "label": "toxic" if i % 2 else "neutral",
              "pair": i // 2} for i in range(60)]
    files = {
        "yelp_shen/test": [*rows("review", ["positive", "negative"]), {"text": "_num_ stars to this place"},
                           {"text": "too short"}, {"text": "это не по английски"}],
        "yelp_shen/valid": [*rows("new review", ["positive", "negative"], 10), *rows("review", ["positive"], 3),
                             {"text": "The review number 9, has some words!", "label": "positive"}],
        "paradetox/train": toxic,
        "ag_news/train": headlines,
        "ag_news/test": headlines[:4],
        "caption_styles/train": rows("caption", ["humorous"]),
        "multi30k_captions/train": [{"text": "A man on a hill."}],
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    (tmp_path / "tatoeba").mkdir()
    with gzip.open(tmp_path / "tatoeba" / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps({"text": f"I saw {i} birds today."}) + "\n" for i in range(60)))
    return tmp_path


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_kind_is_there_and_what_is_held_out_stays_out(sets, tmp_path):
    out = tmp_path / "english"
    counts = english_texts.put_together(sets, out)
    assert counts == {"review": 60, "comment": 48, "headline": 24, "caption": 49, "remark": 48}
    train, valid = read(out / "train.jsonl"), read(out / "valid.jsonl")
    known = {row["text"] for row in train}
    assert len(train) == len(known) == sum(counts.values())
    assert {row["kind"] for row in train} == {row["kind"] for row in valid} == set(english_texts.KINDS)
    assert not known & {row["text"] for row in valid}
    assert all("_num_" not in text and "(Reuters)" not in text and text != "too short" for text in known)
    assert all(text.isascii() for text in known)
    judged = {row["text"] for row in read(out / "sentiment-judge.jsonl")}
    assert judged == {f"the new review number {i} has some words" for i in range(10)}  # a file of unseen texts
    for attribute in ("sentiment", "toxicity", "topic", "kind"):
        heads, judges = read(out / f"{attribute}-head.jsonl"), read(out / f"{attribute}-judge.jsonl")
        assert {row["text"] for row in heads} <= known
        assert judges and not known & {row["text"] for row in judges}
        assert len({row["label"] for row in heads}) > 1
    again = tmp_path / "again"
    english_texts.put_together(sets, again)
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in out.iterdir())


def test_headlines_are_a_corpus_of_their_own_and_heads_have_others(sets, tmp_path):
    english_texts.put_together(sets, tmp_path / "english")
    with open(tmp_path / "english" / "headlines.csv", encoding="utf-8", newline="") as file:
        own = list(csv.DictReader(file))
    judged = read(tmp_path / "english" / "headlines-labelled.jsonl")
    assert (len(own), len(judged)) == (24, 6) and {row["label"] for row in own} == {"World", "Sports"}
    assert {row["text"] for row in own + judged} == {f"Title {i} Of An Item" for i in range(30)}


def test_rewrites_of_one_text_are_held_out_together(sets, tmp_path):
    english_texts.put_together(sets, tmp_path / "english")
    train = {row["text"].split()[1] for row in read(tmp_path / "english/train.jsonl") if row["kind"] == "comment"}
    unseen = {row["text"].split()[1] for row in read(tmp_path / "english/toxicity-judge.jsonl")}
    assert train and unseen and not train & unseen


def test_a_set_that_is_not_there_is_named(sets, tmp_path):
    (sets / "tatoeba" / "train.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"neither tatoeba/train\.jsonl nor tatoeba/train\.jsonl\.gz"):
        english_texts.put_together(sets, tmp_path / "english")
