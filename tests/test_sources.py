"""Every file format, every folder, the hub, and what is said of one that cannot be read."""

import gzip
import itertools

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from latdiff.recipes import companions
from written import TEXTS, corpus, encoded, jsonl, separated, texts_jsonl

from latdiff import storyworld
from latdiff.data import sources
from latdiff.data.corpus import DataError, load_labelled, load_texts
from latdiff.data.sources import open_source
from latdiff.errors import UserError
from latdiff.worlds import WORLDS

# Formats


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("compressed", [False, True])
def test_reads_every_text_format_plain_and_gzipped(tmp_path, ending, compressed):
    texts = [*TEXTS, 'A comma, a "quote" and a café.']
    content = encoded(texts, ending)
    path = tmp_path / f"stories{ending}{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(content) if compressed else content)
    read = corpus(path)
    assert sorted(read.train + read.valid) == sorted(texts)


def test_reads_parquet_with_nested_columns(tmp_path):
    path = tmp_path / "stories.parquet"
    datasets.Dataset.from_list([{"story": {"body": text}} for text in TEXTS]).to_parquet(path)
    read = corpus(path, text_column="story.body")
    assert sorted(read.train + read.valid) == sorted(TEXTS)


def repeated(path, count):
    """A parquet file of so many rows of one text, each of which takes less than a bit."""
    places = pyarrow.array(np.zeros(count, dtype=np.int32))
    column = pyarrow.DictionaryArray.from_arrays(places, pyarrow.array(["The cat is red."]))
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    return path


def test_parquet_of_more_rows_than_texts_have_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = repeated(tmp_path / "a.parquet", 1_200_000)
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read", None)
    with pytest.raises(DataError, match=r"a.parquet: has 1,200,000 rows in [\d,]+ bytes, more than 10 a byte, as no "):
        open_source(str(path), ("train",))


def test_parquet_that_grows_far_beyond_its_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 40_000_000]}), path, compression="zstd",
                                use_dictionary=False, write_statistics=False)
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read", None)
    with pytest.raises(DataError, match=r"a.parquet: grows to more than 200 times its size when it is read"):
        open_source(str(path), ("train",))


def test_parquet_of_texts_or_of_a_few_that_say_the_same_is_read(tmp_path, monkeypatch):
    few = open_source(str(repeated(tmp_path / "few.parquet", 50_000)), ("train",))["train"]
    assert len(few.rows) == 50_000
    monkeypatch.setattr(sources, "MANY_ROWS", 0)
    monkeypatch.setattr(sources, "SMALL", 0)
    path = tmp_path / "texts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS * 3, "label": ["a"] * 3 * len(TEXTS)}), path,
                                compression="zstd")
    assert len(open_source(str(path), ("train",))["train"].rows) == 3 * len(TEXTS)


def test_a_column_with_a_dot_in_its_own_name_is_found_too(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"story.body": text} for text in TEXTS])
    assert len(corpus(path, text_column="story.body").train) == 36


def test_a_byte_order_mark_and_quoted_line_breaks_are_no_trouble(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + separated([*TEXTS, "two\nlines"], ","))
    read = corpus(path)
    assert "two lines" in read.train + read.valid


# Folders and their splits


def test_a_folder_gives_its_own_splits_and_ignores_the_test_split(tmp_path):
    texts_jsonl(tmp_path / "train.jsonl", TEXTS[:30])
    texts_jsonl(tmp_path / "valid.jsonl", TEXTS[30:35])
    texts_jsonl(tmp_path / "test.jsonl", TEXTS[35:])
    read = corpus(tmp_path)
    assert sorted(read.train) == sorted(TEXTS[:30]) and sorted(read.valid) == sorted(TEXTS[30:35])


@pytest.mark.parametrize("name", ["valid.txt", "validation.csv.gz", "dev.tsv"])
def test_every_name_of_the_valid_split_and_mixed_formats(tmp_path, name):
    texts_jsonl(tmp_path / "train.jsonl", TEXTS)
    content = encoded(["Unseen."], "." + name.split(".")[1])
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert corpus(tmp_path).valid == ["Unseen."]


def test_an_existing_path_is_a_path_even_if_it_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    texts_jsonl(tmp_path / "owner" / "name", TEXTS).rename(tmp_path / "owner" / "name.jsonl")
    assert len(corpus("owner/name.jsonl").train) == 36


@pytest.mark.parametrize("where", ["folder", "hub", "stream"])
def test_the_splits_may_have_any_names(tmp_path, monkeypatch, where):
    named = {"dev": TEXTS[:30], "test": TEXTS[30:], "train": ["not asked for"]}
    hub(monkeypatch, hub_data(**named))
    for split, texts in named.items():
        jsonl(tmp_path / f"{split}.jsonl", [{"ref": text} for text in texts])
    settings = {"text_column": "ref", "train_size": 30 if where == "stream" else 0}
    source = tmp_path if where == "folder" else "owner/name"
    read = corpus(source, splits=("dev", "test"), **settings)
    assert sorted(read.train) == sorted(TEXTS[:30]) and sorted(read.valid) == sorted(TEXTS[30:])
    alone = corpus(source, splits=("dev",), **(settings | {"train_size": 0}))
    assert len(alone.valid) == 3 and sorted(alone.train + alone.valid) == sorted(TEXTS[:30])
    with pytest.raises(DataError, match=r"has no (split )?tran.*there is"):
        corpus(source, splits=("tran", "test"), **settings)


# What is wrong with a file


FILE_PROBLEMS = {
    "empty": ("a.jsonl", b"", r"is empty"),
    "empty txt": ("a.txt", b"", r"is empty"),
    "header only": ("a.csv", b"text\n", r"is empty"),
    "not UTF-8": ("a.txt", b"fine\ncaf\xe9\n", r"line 2: is not UTF-8"),
    "broken JSON": ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"line 2: is not JSON: .* column \d+"),
    "not an object": (
        "a.jsonl",
        b'["a"]\n',
        r'line 1: must be an object such as {"text": "..."}, is \["a"\]',
    ),
    "missing column": (
        "a.jsonl",
        b'{"text": "a"}\n{"txt": "b", "m": {"id": 1}}\n',
        r"line 2: no column 'text' \(there is txt, m\.id; did you mean txt\?\)",
    ),
    "missing csv column": ("a.csv", b"story,id\nb,1\n", r"line 2: no column 'text' \(there is story, id\)"),
    "number for a text": ("a.jsonl", b'{"text": 5}\n', r"line 1: text is 5, must be a text"),
    "half a character": ("a.jsonl", b'{"text": "a \\ud83d"}\n', r"line 1: text holds .* half of a surrogate pair"),
    "two columns of one name": ("a.csv", b"text,id,text\na,1,b\n", r"line 1: two columns are named 'text'; rename or"),
    "all blank": (
        "a.jsonl",
        b'{"text": " ", "id": 1}\n{"text": null}\n',
        r"no usable row, .* blank in all 2 \(there is text, id\); give texts, or name their column: --text-column",
    ),
    "too many fields": (
        "a.csv",
        b"text\na, b\n",
        r"line 2: has 2 fields, the first line has 1; put .* quotes",
    ),
    "too few fields": ("a.tsv", b"id\ttext\n1\n", r"line 2: has 1 fields, the first line has 2"),
    "open quote": ("a.csv", b'text\n"a\nb\n', r"line 3: unexpected end of data; put"),
    "not gzip": ("a.txt.gz", b"plain", r"is not a whole gzip file"),
    "cut gzip": ("a.txt.gz", gzip.compress(b"plain text")[:-9], r"is not a whole gzip file"),
    "not parquet": ("a.parquet", b"plain", r"is not a readable parquet file"),
    "unknown format": ("a.xlsx", b"plain", r"the format is not known \(known: \.jsonl, \.csv, \.tsv"),
    "gzipped parquet": (
        "a.parquet.gz",
        b"plain",
        r"the format is not known .*each but parquet also with \.gz",
    ),
    "one text": ("a.txt", b"alone", r"no training text is left beside the unseen ones"),
}


@pytest.mark.parametrize("name, content, message", FILE_PROBLEMS.values(), ids=FILE_PROBLEMS)
def test_files_that_cannot_be_used_are_explained(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        corpus(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("separator, name", [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
@pytest.mark.parametrize("text", ["A story", "A story, long, and winding"])
def test_columns_that_something_else_separates_are_explained(tmp_path, separator, name, text):
    path = tmp_path / "a.csv"
    path.write_text(f"text{separator}label\n{text}{separator}a\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"has {name} between 'text' and 'label', where a .csv file has commas"):
        corpus(path)


@pytest.mark.parametrize("ending, name", [(".tsv", "City,State"), (".tsv", "a;b"), (".csv", "City;State|Zip")])
def test_the_name_of_a_single_column_may_hold_another_separator(tmp_path, ending, name):
    path = tmp_path / f"a{ending}"
    path.write_text("\n".join([name, *TEXTS]), encoding="utf-8")
    assert len(corpus(path, text_column=name).train) == 36


def test_an_unreadable_file_is_explained(tmp_path, monkeypatch):
    path = texts_jsonl(tmp_path / "a.jsonl", TEXTS)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read: Permission denied"):
        corpus(path)


def test_a_folder_without_a_train_file_says_what_is_there(tmp_path):
    texts_jsonl(tmp_path / "training.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"no train file .* \(there is training\.jsonl; known: \.jsonl"):
        corpus(tmp_path)


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ("train.jsonl", "valid.jsonl", "dev.jsonl"):
        texts_jsonl(tmp_path / name, TEXTS)
    with pytest.raises(DataError, match=r"which is the valid split, dev\.jsonl, valid\.jsonl\?"):
        corpus(tmp_path)


def test_an_example_is_found_by_its_name_behind_what_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, labels = load_labelled("companions.csv")
    assert len(texts) == 300 and set(labels) == {"elder", "peer"}
    companions.write(tmp_path / "copy.csv")
    assert load_labelled(str(tmp_path / "copy.csv")) == (texts, labels)
    (tmp_path / "companions.csv").write_text("text,label\nmine,peer\n", encoding="utf-8")
    assert load_texts("companions.csv") == ["mine"]
    with pytest.raises(DataError, match="no data"):
        load_texts("../examples/companions.csv")


def test_a_missing_file_names_the_nearest_one(tmp_path):
    texts_jsonl(tmp_path / "train.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"has no trian\.jsonl; did you mean train\.jsonl\?"):
        corpus(tmp_path / "trian.jsonl")


def test_a_file_that_shares_little_but_its_ending_is_not_what_was_meant(tmp_path):
    (tmp_path / "err.txt").write_text("no text of yours\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has no nothere\.txt\)$"):
        corpus(tmp_path / "nothere.txt")


def test_a_missing_folder_on_the_way_is_the_one_that_is_named(tmp_path):
    (tmp_path / "stories").mkdir()
    with pytest.raises(DataError, match=r"has no storys; did you mean stories\?"):
        corpus(tmp_path / "storys" / "train.jsonl")


def test_a_misspelt_storyworld_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"neither storyworld, nor a hub id .* did you mean storyworld\?"):
        corpus("storywrld")


def test_every_world_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(WORLDS, "seaworld", storyworld)
    with pytest.raises(DataError, match=r"neither storyworld, nor seaworld, nor a hub id .* did you mean seaworld\?"):
        corpus("seawrld")


def test_every_problem_is_a_user_error():
    assert issubclass(DataError, UserError)


# The hub


def hub(monkeypatch, answer):
    """A hub that gives one answer, streamed if asked to; returns the list of what is asked of it."""
    asked = []

    def load_dataset(name, config=None, revision=None, streaming=False):
        asked.append((name, config, revision, streaming))
        if isinstance(answer, Exception):
            raise answer
        return streamed(answer) if streaming and isinstance(answer, datasets.DatasetDict) else answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def stored(monkeypatch, folder):
    """A hub whose one data set lies in a folder, in any format that `datasets` reads."""
    load = datasets.load_dataset

    def load_dataset(name, config=None, revision=None, streaming=False):
        return load(str(folder), config, streaming=streaming, cache_dir=str(folder / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def streamed(splits):
    streams = {name: datasets.IterableDataset.from_generator(rows.__iter__) for name, rows in splits.items()}
    return datasets.IterableDatasetDict(streams)


def hub_data(**splits):
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict({"ref": ts}) for split, ts in splits.items()}
    )


HUB_IDS = {
    "owner/name": ("owner/name", None, None, False),
    "owner/name@refs/pr/1": ("owner/name", None, "refs/pr/1", False),
    "wmt/wmt14:de-en": ("wmt/wmt14", "de-en", None, False),
    "owner/na.me:20220301.en@v1:2": ("owner/na.me", "20220301.en", "v1:2", False),
}


@pytest.mark.parametrize("source, expected", HUB_IDS.items(), ids=HUB_IDS)
def test_a_hub_id_is_loaded_with_its_splits_configuration_and_revision(monkeypatch, source, expected):
    asked = hub(monkeypatch, hub_data(train=TEXTS[:30], validation=TEXTS[30:], test=["x"]))
    read = corpus(source, text_column="ref")
    assert sorted(read.train) == sorted(TEXTS[:30]) and sorted(read.valid) == sorted(TEXTS[30:])
    assert asked == [expected]


def test_a_hub_data_set_without_a_valid_split_gives_a_tenth_of_train(monkeypatch):
    hub(monkeypatch, hub_data(train=TEXTS, test=["x"]))
    read = corpus("owner/name", text_column="ref")
    assert len(read.valid) == 4 and sorted(read.train + read.valid) == sorted(TEXTS)


def test_a_hub_data_set_gives_labels_too(monkeypatch):
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(20)]
    hub(monkeypatch, datasets.DatasetDict(train=datasets.Dataset.from_list(rows)))
    assert load_labelled("owner/name")[1] == ["0", "1"] * 10


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_of_a_hub_data_set_come_by_their_names(monkeypatch, streaming):
    kind = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 19 + [1, -1]}, features=features)
    answer = datasets.IterableDatasetDict(train=rows.to_iterable_dataset()) if streaming else {"train": rows}
    hub(monkeypatch, answer)
    read = corpus("owner/name", condition="label", train_size=39 if streaming else 0, valid_size=1)
    assert read.classes == ["Sports", "World"]
    assert read.dropped["without a text or a label"] == 1
    if not streaming:
        assert load_labelled("owner/name")[1] == ["World", "Sports"] * 19 + ["Sports"]


def test_nested_columns_of_a_hub_data_set_are_reached(monkeypatch):
    rows = [{"translation": {"de": f"Satz {n}.", "en": f"Sentence {n}."}} for n in range(20)]
    hub(monkeypatch, datasets.DatasetDict(train=datasets.Dataset.from_list(rows)))
    assert corpus("wmt/wmt14:de-en", text_column="translation.de").valid[0].startswith("Satz")


def endless(words, asked_for):
    def rows():
        for number in itertools.count():
            asked_for[words] = number + 1
            yield {"text": f"{words} {number}"}

    return datasets.IterableDataset.from_generator(rows)


@pytest.mark.parametrize("most", [{"train": 70}, {"train": 50, "validation": 20}], ids=["alone", "with valid"])
def test_with_a_train_size_a_hub_data_set_is_not_read_on_and_on(monkeypatch, most):
    """A set without an end: reading on would never return."""
    monkeypatch.setattr("latdiff.data.sources.SHUFFLE_BUFFER", 20)
    monkeypatch.setattr("latdiff.data.sources.MOST_READ", 200)
    rows, sizes = {}, {"train_size": 50, "valid_size": 20}
    asked = hub(monkeypatch, datasets.IterableDatasetDict({name: endless(name, rows) for name in most}))
    with pytest.warns(UserWarning, match="has too few files to draw from all over it, .* its first 200 rows"):
        read = corpus("owner/name", **sizes)
    assert asked == [("owner/name", None, None, True)]
    assert rows.keys() == most.keys() and all(rows[name] <= 200 + 25 for name in most)  # and the buffer
    assert (len(read.train), len(read.valid)) == (50, 20)
    assert {text.split()[0] for text in read.valid} == {[*most][-1]}
    numbers = [int(text.split()[1]) for text in read.train]
    assert len(set(numbers)) == 50 and max(numbers) >= 150 and min(numbers) < 50  # from all that was read
    with pytest.warns(UserWarning):
        assert corpus("owner/name", **sizes) == read
        assert set(corpus("owner/name", seed=1, **sizes).train) != set(read.train)


@pytest.mark.parametrize("layout", ["parquet", "parquet in few groups", "jsonl", "csv files"])
def test_a_sample_of_a_sorted_hub_data_set_is_of_all_of_its_classes(tmp_path, monkeypatch, recwarn, layout):
    """More rows of each class than the buffer of a streaming shuffle holds, one class after the other."""
    rows = datasets.Dataset.from_dict({
        "text": [f"{label} {number}" for label in "abc" for number in range(11_000)],
        "label": [label for label in "abc" for _ in range(11_000)],
    })
    if layout.startswith("parquet"):
        rows.to_parquet(tmp_path / "train.parquet", batch_size=1_000 if layout == "parquet" else 33_000)
    elif layout == "jsonl":
        rows.to_json(tmp_path / "train.jsonl")
    else:
        for part in range(2):
            rows.shard(2, part).to_csv(tmp_path / f"train-{part}.csv", index=False)
    stored(monkeypatch, tmp_path)
    read = corpus("owner/name", train_size=300, valid_size=60, condition="label")
    shares = [read.train_conditions.count(label) / 300 for label in "abc"]
    assert read.classes == ["a", "b", "c"] and all(0.2 < share < 0.47 for share in shares)
    assert not [one for one in recwarn if "in the middle" in str(one.message)]


def test_a_sample_of_many_pieces_does_not_read_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("latdiff.data.sources.MANY_PIECES", 10)
    rows = [{"text": f"text {number}"} for number in range(4_000)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet", batch_size=100)
    monkeypatch.setattr("latdiff.data.sources.SHUFFLE_BUFFER", 400)
    monkeypatch.setattr("latdiff.data.sources.PIECES_AT_ONCE", 20)
    stored(monkeypatch, tmp_path)
    whole = {int(text.split()[1]) // 100 for text in corpus("owner/name", train_size=60, valid_size=5).train}
    assert 10 < len(whole) <= 20  # pieces that a text came from


def test_a_hub_data_set_smaller_than_its_train_size_gives_what_it_has(monkeypatch):
    hub(monkeypatch, hub_data(train=[*TEXTS, " ", TEXTS[0].upper()]))
    read = corpus("owner/name", text_column="ref", train_size=1000)
    assert (len(read.train), len(read.valid)) == (36, 4)
    assert read.dropped == {"blank": 1, "repeated": 1, "also unseen": 0}


@pytest.mark.parametrize("train_size", [0, 10])
def test_the_configurations_of_a_hub_data_set_are_named(tmp_path, monkeypatch, train_size):
    """What the library itself says of a folder with two of them."""
    for name in ("de-en", "cs-en"):
        texts_jsonl(tmp_path / f"{name}.jsonl", TEXTS)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("de-en", "cs-en"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    stored(monkeypatch, tmp_path)
    message = r"name the configuration \(there is de-en, cs-en\), as in owner/name:de-en@main$"
    for source in ("owner/name@main", "owner/name:de@main"):
        with pytest.raises(DataError, match=message):
            corpus(source, train_size=train_size)
    assert len(corpus("owner/name:cs-en", train_size=train_size).train) == (train_size or 36)


def test_problems_inside_a_hub_data_set_are_explained(monkeypatch):
    hub(monkeypatch, hub_data(test=TEXTS))
    with pytest.raises(DataError, match=r"owner/name: has no split train \(there is test\)"):
        corpus("owner/name")
    hub(monkeypatch, hub_data(train=TEXTS))
    with pytest.raises(DataError, match=r"owner/name, split train, row 1: no column 'text' \(there is ref\)"):
        corpus("owner/name")
    with pytest.raises(DataError, match=r"split train, sampled row 1: no column 'text' \(there is ref\)"):
        corpus("owner/name", train_size=5)
    hub(monkeypatch, hub_data(train=TEXTS, validation=[" ", ""]))
    with pytest.raises(DataError, match=r"owner/name, split validation: no usable row, .*blank in all 2"):
        corpus("owner/name", text_column="ref")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("train_size", [0, 10])
def test_a_split_without_rows_is_named(monkeypatch, split, train_size):
    hub(monkeypatch, hub_data(**{"train": TEXTS, "validation": TEXTS, split: []}))
    with pytest.raises(DataError, match=f"owner/name, split {split}: is empty; it should have one text per row"):
        corpus("owner/name", text_column="ref", train_size=train_size)


def test_a_hub_that_breaks_off_while_it_is_read_says_what_to_put_in_its_place(monkeypatch):
    def rows():
        yield {"text": "the first"}
        raise ConnectionError("reset by peer")

    hub(monkeypatch, datasets.IterableDatasetDict(train=datasets.IterableDataset.from_generator(rows)))
    with pytest.raises(DataError, match=r"the hub cannot be reached; put a folder .*ARGS="):
        corpus("owner/name", train_size=5)


def test_an_unreachable_hub_says_what_to_put_in_its_place(monkeypatch):
    hub(monkeypatch, ConnectionError("a page of\ntechnical words"))
    with pytest.raises(DataError, match=r"the hub cannot be reached; .*ARGS=\"data\.source=path") as error:
        corpus("owner/name")
    assert "technical" not in str(error.value)


def test_other_hub_problems_are_quoted_with_the_same_way_out(monkeypatch):
    hub(monkeypatch, RuntimeError("Dataset scripts are no longer supported\nmore"))
    with pytest.raises(DataError, match=r"scripts are no longer supported; put a folder .*ARGS=") as error:
        corpus("owner/name")
    assert "more" not in str(error.value)


@pytest.mark.parametrize("source", ["missing/train.jsonl", "./owner/name", "a/b/c", "name", "/owner/name"])
def test_what_does_not_look_like_a_hub_id_never_asks_the_hub(monkeypatch, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, hub_data(train=TEXTS))
    with pytest.raises(DataError, match=r"no data '"):
        corpus(source)
    assert not asked
