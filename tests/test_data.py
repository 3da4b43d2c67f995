"""Splits, labels, conditions, and every error of latdiff.data.corpus, on files that the tests write."""

import cProfile
import hashlib
import json

import pytest
from written import TEXTS, corpus, jsonl, texts_jsonl

from latdiff import storyworld
from latdiff.config import DataConfig
from latdiff.data.corpus import DataError, load_corpus, load_labelled, load_texts

# Splits, cleaning, determinism


def test_without_a_valid_split_a_tenth_is_held_out_at_most(tmp_path):
    path = texts_jsonl(tmp_path / "train.jsonl", TEXTS)
    for source in (path, tmp_path):
        read = corpus(source)
        assert len(read.valid) == 4 and sorted(read.train + read.valid) == sorted(TEXTS)
    assert len(corpus(path, valid_size=2).valid) == 2


def test_white_space_is_collapsed_and_what_is_dropped_is_counted(tmp_path):
    texts_jsonl(tmp_path / "train.jsonl", ["  One\t text \n here. ", "", "  ", "Two.", "Seen  twice."])
    texts_jsonl(tmp_path / "valid.jsonl", ["Seen twice.", " "])
    read = corpus(tmp_path)
    assert sorted(read.train) == ["One text here.", "Two."] and read.valid == ["Seen twice."]
    assert read.dropped == {"blank": 3, "repeated": 0, "also unseen": 1}


def test_texts_with_the_same_letters_and_digits_count_as_the_same(tmp_path):
    twice = ["Room 4, please!", "ROOM 4 -- please", "room 4 please.", "Room 5, please!"]
    texts_jsonl(tmp_path / "train.jsonl", [*twice, "Caf\u00e9.", "cafe\u0301", "Cafe", "seen: twice"])
    texts_jsonl(tmp_path / "valid.jsonl", ["Seen twice.", "SEEN TWICE"])
    read = corpus(tmp_path)
    assert sorted(read.train) == ["Cafe", "Caf\u00e9.", "Room 4, please!", "Room 5, please!"]  # the first of each
    assert sorted(read.valid) == ["SEEN TWICE", "Seen twice."]  # what is measured on stays as it was given
    assert read.dropped == {"blank": 0, "repeated": 3, "also unseen": 1}


@pytest.mark.parametrize(
    "texts", [["हाँ की", "हाँ का"], [":-)", ":-("], ["\u2764\ufe0f", "\u2600\ufe0f"], ["東京", "京都"]]
)
def test_texts_that_differ_in_marks_or_have_no_letters_are_not_taken_for_the_same(tmp_path, texts):
    texts_jsonl(tmp_path / "train.jsonl", texts)
    texts_jsonl(tmp_path / "valid.jsonl", ["..."])
    read = corpus(tmp_path)
    assert sorted(read.train) == sorted(texts) and read.dropped["repeated"] == 0


def test_what_is_held_out_never_is_a_repeat_of_a_training_text(tmp_path):
    path = texts_jsonl(tmp_path / "train.jsonl", [*TEXTS, *map(str.upper, TEXTS)])
    read = corpus(path)
    assert (len(read.train), len(read.valid)) == (36, 4) and read.dropped["repeated"] == 40
    assert not {text.lower() for text in read.train} & {text.lower() for text in read.valid}


def test_only_repeats_leave_nothing_to_train_on(tmp_path):
    path = texts_jsonl(tmp_path / "a.jsonl", ["Same.", "same", " ", "SAME!"])
    with pytest.raises(DataError, match=r"no training text is left .*left out: 1 blank, 2 repeated, 0 also unseen"):
        corpus(path)


def test_what_the_training_texts_leave_over_may_be_held_out(tmp_path):
    path = texts_jsonl(tmp_path / "a.jsonl", TEXTS)
    sizes = {(10, 8): (10, 8), (10, 100): (10, 30), (38, 100): (36, 4), (100, 100): (36, 4)}
    for (train, valid), found in sizes.items():
        read = corpus(path, train_size=train, valid_size=valid)
        assert (len(read.train), len(read.valid)) == found
        assert not set(read.train) & set(read.valid)


def test_a_null_text_counts_as_blank(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": None}, *({"text": text} for text in TEXTS)])
    assert corpus(path).dropped["blank"] == 1


def test_sizes_limit_after_a_shuffle_that_the_seed_fixes(tmp_path):
    texts_jsonl(tmp_path / "train.jsonl", TEXTS[:30])
    texts_jsonl(tmp_path / "valid.jsonl", TEXTS[30:])
    whole, small = corpus(tmp_path), corpus(tmp_path, train_size=7, valid_size=3)
    assert small.train == whole.train[:7] and small.valid == whole.valid[:3]
    assert whole.train != TEXTS[:30]
    assert corpus(tmp_path) == whole
    assert corpus(tmp_path, seed=1).train != whole.train


def test_twice_the_rows_are_twice_the_work(tmp_path):
    def calls(rows):
        texts = [{"text": f"{n} " + "word " * 20, "nested": {"number": n}} for n in range(rows)]
        profile, path = cProfile.Profile(), jsonl(tmp_path / f"{rows}.jsonl", texts)
        assert len(profile.runcall(corpus, path).train) == rows - 1000
        return sum(one.callcount for one in profile.getstats())

    corpus(jsonl(tmp_path / "first.jsonl", [{"text": f"{n}"} for n in range(20)]))  # imports are no work of the rows
    assert calls(20_000) < 2.1 * calls(10_000)


# storyworld


def test_storyworld_writes_its_own_unseen_stories():
    read = corpus("storyworld", train_size=200, valid_size=50)
    assert 190 <= len(read.train) <= 200 and len(read.valid) == 50
    assert not set(read.train) & set(read.valid)
    assert read == corpus("storyworld", train_size=200, valid_size=50)
    assert read.train != corpus("storyworld", seed=1, train_size=200, valid_size=50).train


def test_the_stories_that_every_published_figure_is_of_stay_what_they_are():
    read = corpus("storyworld", train_size=300, valid_size=50)
    digest = hashlib.sha256(json.dumps([list(read.train), read.valid]).encode()).hexdigest()
    assert digest.startswith("c84806282d954b06")


def test_storyworld_labels_are_its_attributes_on_stories_of_their_own():
    texts, labels = load_labelled("storyworld", label_column="sentiment")
    assert len(texts) == len(labels) == 400
    assert set(labels) == {story.attributes["sentiment"] for story in storyworld.sample(200, 0)}
    assert load_labelled("storyworld", label_column="sentiment", limit=50)[0] == texts[:50]
    assert texts != load_labelled("storyworld", label_column="sentiment", seed=1)[0]
    assert len(set(texts) & set(corpus("storyworld", train_size=400).train)) < 40


def test_an_unknown_attribute_of_storyworld_names_the_nearest():
    with pytest.raises(DataError, match=r"no row has a column 'sentimnt' .*did you mean sentiment\?"):
        load_labelled("storyworld", label_column="sentimnt")


def test_a_world_gives_texts_alone_and_extra_ones(tmp_path, monkeypatch):
    texts = load_texts("storyworld")
    assert len(texts) == 400 and all(storyworld.read(text).valid for text in texts)
    assert load_texts("storyworld", limit=5) == texts[:5] != load_texts("storyworld", limit=5, seed=1)
    monkeypatch.setattr("latdiff.data.corpus.WORLD_TRAINING", 30)
    own = texts_jsonl(tmp_path / "own.jsonl", TEXTS)
    assert corpus(own, extra_sources=("storyworld",)).extra == [*dict.fromkeys(load_texts("storyworld", limit=30))]


# Labels


def test_texts_alone_come_in_their_order_without_blank_ones(tmp_path):
    rows = [{"text": "one  two", "label": 3}, {"text": " "}, {"text": "four", "label": 4}]
    path = jsonl(tmp_path / "a.jsonl", rows).as_posix()
    assert load_texts(path) == ["one two", "four"]
    assert load_texts(path, limit=1) == ["one two"]
    with pytest.raises(DataError, match="no column 'body'"):
        load_texts(path, "body")


def test_numbers_need_no_classes(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"text {i}", "label": i / 2} for i in range(4)]).as_posix()
    assert load_labelled(path, classes=False)[1] == ["0.0", "0.5", "1.0", "1.5"]
    with pytest.raises(DataError):
        load_labelled(path)
    blank = jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": ""}]).as_posix()
    with pytest.raises(DataError, match="no row has both a text and a 'label'"):
        load_labelled(blank, classes=False)


def labelled(*groups):
    labels = [label for label, count in groups for _ in range(count)]
    return [{"text": f"{label} {number}", "slots": {"kind": label}} for number, label in enumerate(labels)]


def test_labels_are_texts_and_rows_without_one_are_skipped(tmp_path):
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(20)]
    rows += [
        {"text": "a"},
        {"text": "b", "label": float("nan")},
        {"text": "b", "label": None},
        {"text": "c", "label": ""},
        {"text": " ", "label": 1},
    ]
    texts, labels = load_labelled(jsonl(tmp_path / "a.jsonl", rows).as_posix())
    assert texts == [f"t{n}" for n in range(20)] and labels == ["0", "1"] * 10


def test_nested_labels_may_be_absent_in_some_rows(tmp_path):
    rows = [*labelled(("pub", 6), ("restaurant", 7)), {"text": "x", "slots": {}}, {"text": "y"}]
    path = jsonl(tmp_path / "train.jsonl", rows)
    for source in (path, tmp_path):
        _, labels = load_labelled(str(source), label_column="slots.kind")
        assert labels == ["pub"] * 6 + ["restaurant"] * 7


def test_a_limit_takes_a_random_subset_that_the_seed_fixes(tmp_path):
    path = str(jsonl(tmp_path / "a.jsonl", labelled(("pub", 50), ("bar", 50))))
    first = load_labelled(path, label_column="slots.kind", limit=40)
    assert len(first[0]) == 40 and set(first[1]) == {"pub", "bar"}
    assert all(text.startswith(label) for text, label in zip(*first, strict=True))
    assert first == load_labelled(path, label_column="slots.kind", limit=40)
    assert first != load_labelled(path, label_column="slots.kind", limit=40, seed=1)


LABEL_PROBLEMS = {
    "absent in all rows": (
        [{"text": "a", "slots": {"kind": "pub"}}, {"text": "b", "tone": "dry"}],
        "slots.knd",
        r"no row has a column 'slots.knd' \(there is text, slots.kind, tone; did you mean slots.kind\?\)",
    ),
    "a group of columns": (
        labelled(("pub", 9)),
        "slots",
        r"line 1: slots has several values, must have a single one \(there is text, slots.kind; did you mean",
    ),
    "one class": (labelled(("pub", 9)), "slots.kind", r"only the class 'pub'; .*at least two classes"),
    "no label": ([{"text": "a", "label": None}], "label", r"label has no label at all; .*two classes"),
    "a number and a text of one class": (
        [{"text": f"t{n}", "label": label} for n, label in enumerate([0, 1, "1 ", True] * 5)], "label",
        r"a.jsonl, line 2: label is 1, but line 3 has '1 ', and both would be one class; write it in all rows alike",
    ),
    "a truth value and a text of one class": (
        [{"text": f"t{n}", "label": label} for n, label in enumerate(["True", False, True] * 5)], "label",
        r"a.jsonl, line 1: label is 'True', but line 3 has True, and both",
    ),
    "a small class": (
        labelled(("pub", 9), ("bar", 4)),
        "slots.kind",
        r"at least 5 texts of each class, but has pub 9, bar 4",
    ),
}


@pytest.mark.parametrize("rows, column, message", LABEL_PROBLEMS.values(), ids=LABEL_PROBLEMS)
def test_labels_that_cannot_be_used_are_explained(tmp_path, rows, column, message):
    with pytest.raises(DataError, match=message):
        load_labelled(str(jsonl(tmp_path / "a.jsonl", rows)), label_column=column)


def test_numbers_may_be_written_as_texts_too_where_they_are_no_classes(tmp_path):
    path = str(jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 4}, {"text": "b", "label": "4"}]))
    assert load_labelled(path, classes=False)[1] == ["4", "4"]


# Conditions


def test_a_class_that_is_a_number_and_a_text_is_refused_in_training_too(tmp_path):
    texts, kinds = [f"text number {i}" for i in range(20)], [i % 2 if i < 10 else str(i % 2) for i in range(20)]
    jsonl(tmp_path / "train.jsonl", rows_with(text=texts, kind=kinds))
    with pytest.raises(DataError, match="kind is 0, but line 11 has '0', and both would be one class"):
        corpus(tmp_path, condition="label", condition_column="kind", valid_size=4)


def rows_with(**columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_a_class_stays_with_its_text(tmp_path):
    texts = [f"text number {i}" for i in range(40)]
    jsonl(tmp_path / "train.jsonl", rows_with(text=texts, kind=["odd" if i % 2 else "even" for i in range(40)]))
    found = corpus(tmp_path, condition="label", condition_column="kind", valid_size=4)
    assert found.classes == ["even", "odd"]
    pairs = [*zip(found.train, found.train_conditions, strict=True),
             *zip(found.valid, found.valid_conditions, strict=True)]
    assert len(pairs) == 40
    assert all((int(text.split()[-1]) % 2 == 1) == (kind == "odd") for text, kind in pairs)
    plain = corpus(tmp_path, valid_size=4)
    assert (plain.train, plain.valid, plain.classes) == (found.train, found.valid, [])


def test_a_row_without_its_condition_is_left_out_and_counted(tmp_path):
    texts = [*"abcdefghij", " ", "k"]
    jsonl(tmp_path / "train.jsonl", rows_with(text=texts, label=[*"xyxyxyxyxy", "x", None]))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["e five", "f six"], label=["x", "z"]))
    found = corpus(tmp_path, condition="label")
    pairs = sorted(zip(found.train, found.train_conditions, strict=True))
    assert pairs == list(zip("abcdefghij", "xyxyxyxyxy", strict=True))
    assert found.dropped["without a text or a label"] == 2
    assert (found.classes, found.valid) == (["x", "y"], ["e five"])  # z was never trained on


@pytest.mark.parametrize("labels, said", [(["x"] * 12, "only the class 'x'"), ([*"xxxxxxxxxxxy"], "at least 5 texts")])
def test_classes_that_cannot_be_learnt(tmp_path, labels, said):
    jsonl(tmp_path / "train.jsonl", rows_with(text=[*"abcdefghijkl"], label=labels))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["e five"], label=["x"]))
    with pytest.raises(DataError, match=said):
        corpus(tmp_path, condition="label")


def test_labels_that_the_recipe_does_not_list(tmp_path):
    jsonl(tmp_path / "train.jsonl", rows_with(text=[*"abcdefghij"], label=[*"xyxyxyxyxy"]))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["e five"], label=["x"]))
    assert corpus(tmp_path, condition="label", classes=("y", "x")).classes == ["y", "x"]
    with pytest.raises(DataError, match=r"column 'label' has 'y', which data.classes does not list \(x\)"):
        corpus(tmp_path, condition="label", classes=("x",))


def test_a_source_that_is_among_the_unseen_ones_is_not_trained_on(tmp_path):
    jsonl(tmp_path / "train.jsonl", rows_with(text=["a one", "b two", "c three"], hard=["Aa", "Bb!", "Aa"]))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["d four"], hard=["bb"]))
    found = corpus(tmp_path, condition="text", condition_column="hard")
    assert sorted(zip(found.train, found.train_conditions, strict=True)) == [("a one", "Aa"), ("c three", "Aa")]
    assert found.dropped["also unseen"] == 1
    assert (found.valid, found.valid_conditions, found.classes) == (["d four"], ["bb"], [])


def test_the_first_sentence_as_a_source(tmp_path):
    texts = ["Is it so? It is. Yes!", "Only one sentence.", "At 5.30 p. We left!  Then we slept."]
    jsonl(tmp_path / "train.jsonl", rows_with(text=texts))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["One. Two."]))
    found = corpus(tmp_path, condition="prefix")
    assert sorted(zip(found.train_conditions, found.train, strict=True)) == [
        ("At 5.30 p.", "We left! Then we slept."), ("Is it so?", "It is. Yes!"),
    ]
    assert found.dropped["of less than two sentences"] == 1


def test_a_column_of_conditions_that_is_not_there(tmp_path):
    jsonl(tmp_path / "train.jsonl", rows_with(text=["a one", "b two"], kind=["x", "y"]))
    with pytest.raises(DataError, match=r"no row has a column 'knd' \(there is text, kind; did you mean kind"):
        corpus(tmp_path, condition="label", condition_column="knd")


def test_stories_have_their_attributes_for_classes():
    found = corpus("storyworld", train_size=60, valid_size=5, condition="label", condition_column="sentiment")
    assert found.classes == ["negative", "positive"]
    read = [storyworld.read(text).attributes["sentiment"] for text in found.train]
    assert read == found.train_conditions
    assert corpus("storyworld", train_size=60, valid_size=5).train == found.train


def test_unseen_texts_of_other_classes_only(tmp_path):
    jsonl(tmp_path / "train.jsonl", rows_with(text=[*"abcdefghij"], label=[*"xyxyxyxyxy"]))
    jsonl(tmp_path / "valid.jsonl", rows_with(text=["k"], label=["z"]))
    with pytest.raises(DataError, match="no unseen text has one of the training texts' classes, x, y"):
        corpus(tmp_path, condition="label")


# Extra texts, for the stages that learn to read and write


def test_extra_sources_give_what_is_not_known_yet(tmp_path):
    own, more = tmp_path / "own", texts_jsonl(tmp_path / "more.jsonl", ["Text number 3!", "New.", "new", "unseen"])
    own.mkdir()
    texts_jsonl(own / "train.jsonl", TEXTS)
    texts_jsonl(own / "valid.jsonl", ["Unseen."])
    again = texts_jsonl(tmp_path / "again.jsonl", ["New!", "Newer."])
    read = corpus(own, extra_sources=(str(more), str(again)))
    assert read.extra == ["New.", "Newer."]
    assert read.train == corpus(own).train and read.valid == ["Unseen."]
    more.unlink()  # who does not ask for them does not need them
    assert load_corpus(DataConfig(source=str(own), extra_sources=(str(more),)), 0).train == read.train


def test_an_unseen_texts_source_is_no_extra_text(tmp_path):
    pairs = jsonl(tmp_path / "pairs.jsonl", [{"text": text, "label": f"Source {text}"} for text in TEXTS])
    more = texts_jsonl(tmp_path / "more.jsonl", [f"Source {text}" for text in TEXTS])
    read = corpus(pairs, condition="text", extra_sources=(str(more),), valid_size=4)
    assert len(read.valid) == 4 and set(read.valid_conditions).isdisjoint(read.extra)
    assert set(read.train_conditions) <= set(read.extra)


def test_an_extra_source_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        corpus("storyworld", extra_sources=(str(tmp_path / "nowhere.jsonl"),), train_size=5, valid_size=5)


# Several texts a row


def references(path, sources=10, each=4):
    rows = [{"source": f"A very long source {s}.", "short": [f"Short {s}, way {n}." for n in range(each)]}
            for s in range(sources)]
    return jsonl(path, rows)


def test_a_list_of_texts_is_a_text_each(tmp_path):
    read = corpus(references(tmp_path / "a.jsonl"), text_column="short")
    assert sorted(read.train + read.valid) == sorted(f"Short {s}, way {n}." for s in range(10) for n in range(4))


@pytest.mark.parametrize("splits", [("train",), ("train", "valid")])
def test_a_source_is_held_out_with_all_of_its_texts(tmp_path, splits):
    references(tmp_path / "train.jsonl")
    rows = [{"source": f"Unseen {s}.", "short": [f"Unseen {s}, way {n}." for n in range(4)]} for s in range(10)]
    jsonl(tmp_path / "valid.jsonl", rows)
    settings = {"text_column": "short", "condition": "text", "condition_column": "source", "splits": splits}
    read = corpus(tmp_path, valid_size=4, **settings)
    assert len(read.valid) == 4 and len(set(read.valid_conditions)) == 1
    assert len(read.train) == (36 if splits == ("train",) else 40)
    pairs = zip(read.train + read.valid, read.train_conditions + read.valid_conditions, strict=True)
    assert all(text.split(",")[0].split()[-1] == source.rstrip(".").split()[-1] for text, source in pairs)


@pytest.mark.parametrize("held", [[1, 2], [["nested"]]])
def test_a_list_of_something_else_is_refused(tmp_path, held):
    path = jsonl(tmp_path / "a.jsonl", [{"text": held}] * 3)
    with pytest.raises(DataError, match=r"line 1: text is .*, must be a text"):
        corpus(path)
