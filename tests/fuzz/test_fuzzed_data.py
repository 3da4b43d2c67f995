"""Files of texts: whatever bytes one holds, its texts are read or it is said why not, and texts written come back."""

import csv
import gzip
import io
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from bounds import bounded, check_message
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import ODD, as_json, mutated, nested, odd_texts, scalars, texts, values

from latdiff.config import DataConfig
from latdiff.data.corpus import load_corpus, load_labelled, load_texts
from latdiff.data.sources import DataError, open_source

ROWS = [{"text": f"Text number {number}.", "label": "ab"[number % 2], "n": number} for number in range(12)]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def separated(rows, separator):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([list(rows[0]), *(row.values() for row in rows)])
    return buffer.getvalue().encode()


def parquet(columns):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


WHOLE = {
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(), ".csv": separated(ROWS, ","),
    ".tsv": separated(ROWS, "\t"), ".txt": "\n".join(row["text"] for row in ROWS).encode(),
    ".parquet": parquet({key: [row[key] for row in ROWS] for key in ROWS[0]}),
}
ENDINGS = [*WHOLE, *(f"{ending}.gz" for ending in WHOLE if ending != ".parquet")]
KEPT = {ending: gzip.compress(WHOLE[ending[:-3]], mtime=0) if ending.endswith(".gz") else WHOLE[ending]
        for ending in ENDINGS}
CASES = {  # content that has been met, or might be
    "empty": b"", "NULs": b"\0" * 50, "a lone BOM": b"\xef\xbb\xbf", "UTF-16": "text\nA story.\n".encode("utf-16"),
    "UTF-16 without a BOM": "text\nA story.\nAnother.\n".encode("utf-16-le"), "a pointer": POINTER,
    "CR alone": b"text\rA story.\rAnother one.\r", "a surrogate": b"text\n\xed\xa0\x80\n", "quotes": b'text\n"a\n',
    "deep JSON": nested(100_000).encode(), "deep objects": b'{"text": ' * 100_000 + b"1",
    "nested, and not too deep": b'{"x": ' * 600 + b"1" + b"}" * 600, "NaN": b'{"text": NaN, "label": NaN}\n',
    "deep label": b'{"text": "a", "label": ' + nested(600).encode() + b"}\n",
    "5,000 digits": b'{"text": "a", "label": ' + b"9" * 5_000 + b"}\n", "two keys": b'{"text": "a", "text": "b"}\n',
    "half a pair": b'{"text": "\\ud800", "label": "\\udfff"}\n', "a half key": b'{"\\ud800": 1}\n',
    "semicolons": b"text;label\nA story, long, and winding;a\n", "quoted semicolons": b'"text";"label"\n"a, b";"x"\n',
    "a long field": b"text,label\n" + b"long " * 40_000 + b",a\n", "one line": b"text\n" + b"x" * 1_000_000,
    "ragged": b"text,label\na\nb,c,d\n", "columns": b",".join(b"c%d" % n for n in range(20_000)) + b"\n1\n",
    "twice": b"text,label,text\na,b,c\n", "blank lines": b"\n" * 100_000, "zeros": gzip.compress(b"0" * 50_000_000),
    "keys": json.dumps({f"key {n}" * 9: n for n in range(20_000)}).encode(), "a long number": b'{"text": 1e999}\n',
}


def read_all(path):
    """Every way to read a source; each may refuse it."""
    for read in (lambda: load_texts(str(path)), lambda: load_labelled(str(path)),
                 lambda: load_corpus(DataConfig(source=str(path), condition="label"), 0),
                 lambda: load_corpus(DataConfig(source=str(path), condition="text"), 0)):
        try:
            read()
        except DataError as error:
            check_message(error)


def written(folder, ending, content):
    path = folder / f"a{ending}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("case", CASES)
def test_what_has_been_met(folder, ending, case):
    content = CASES[case]
    content = gzip.compress(content, 1) if ending.endswith(".gz") and case not in ("a pointer", "zeros") else content
    bounded(read_all)(written(folder, ending, content))


@pytest.mark.parametrize("ending", ENDINGS)
@given(data=st.data())
@bounded
def test_bytes_with_faults(folder, ending, data):
    read_all(written(folder, ending, data.draw(st.one_of(mutated(KEPT[ending]), st.binary(max_size=40)))))


def test_a_page_of_parquet_that_claims_a_gigabyte(folder):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"Text {n}." for n in range(12)]}), buffer,
                                use_dictionary=False, write_statistics=False)
    page = bytes.fromhex("1500 159802 159801")  # a data page of 140 bytes, packed into 76
    whole, claiming = buffer.getvalue(), bytes.fromhex("1500 158080808008 159201")
    assert whole.count(page) == 1
    path = written(folder, ".parquet", whole.replace(page, claiming))

    @bounded
    def read():
        with pytest.raises(DataError, match=r"asks for more memory at once|Corrupt"):
            load_texts(str(path))

    read()


@given(ending=st.sampled_from([".jsonl.gz", ".csv.gz", ".txt.gz"]), data=st.data())
@bounded
def test_faults_below_the_zip(folder, ending, data):
    content = data.draw(mutated(WHOLE[ending[:-3]]))
    read_all(written(folder, ending, gzip.compress(content, 1)))


cells = st.one_of(values, scalars, texts)


@given(rows=st.lists(st.one_of(st.dictionaries(st.sampled_from(["text", "label", "a.b", "a", ""]), cells, max_size=4),
                               cells), max_size=8))
@example(rows=[{"text": ["a", ["b"]], "label": 1}])
@example(rows=[{"text": {"text": 10**400}}])
@bounded
def test_any_json(folder, rows):
    read_all(written(folder, ".jsonl", "".join(as_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")))


columns = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=6, max_size=6),
    st.lists(st.one_of(st.none(), st.floats()), min_size=6, max_size=6), st.lists(st.binary(), min_size=6, max_size=6),
    st.lists(st.dates(), min_size=6, max_size=6), st.lists(st.datetimes(), min_size=6, max_size=6),
    st.lists(st.lists(st.text(max_size=4), max_size=3), min_size=6, max_size=6),
    st.lists(st.fixed_dictionaries({"text": st.text(max_size=4)}), min_size=6, max_size=6),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=6, max_size=6),
)


@given(text=columns, label=columns, names=st.sampled_from([("text", "label"), ("text", "text"), ("a.b", "label")]))
@bounded
def test_any_column_of_parquet(folder, text, label, names):
    table = pyarrow.Table.from_arrays([pyarrow.array(text), pyarrow.array(label)], names=list(names))
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    read_all(folder / "a.parquet")


@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
                      min_size=1, max_size=6), ending=st.sampled_from(ENDINGS))
@example(lines=['a "quoted", one\n', "\ufeff"], ending=".csv")
@example(lines=["\x1c", "a\u2028b", "a\x85b"], ending=".txt")
@example(lines=["long " * 40_000], ending=".csv")
@bounded
def test_texts_come_back(folder, lines, ending):
    if ending.startswith(".txt"):
        lines = [line.replace("\r", " ").replace("\n", " ") for line in lines]
    expected = [" ".join(line.split()) for line in lines if line.strip()]
    assume(expected)
    rows, plain = [{"text": line, "n": 1} for line in lines], ending.removesuffix(".gz")
    if plain == ".parquet":
        content = parquet({"text": lines})
    elif plain == ".txt":
        content = "\n".join(lines).encode()
    elif plain == ".jsonl":
        content = "\r\n".join(json.dumps(row) for row in rows).encode()
    else:
        content = separated(rows, "," if plain == ".csv" else "\t")
    content = b"\xef\xbb\xbf" + content if plain in (".txt", ".jsonl") else content
    content = gzip.compress(content, 1) if ending.endswith(".gz") else content
    try:
        found = load_texts(str(written(folder, ending, content)))
    except DataError as error:
        raise AssertionError(error) from error
    assert found == expected


@given(name=st.one_of(texts, odd_texts, st.sampled_from(["x" * 5_000, "a/" * 3_000, "~nobody/a.csv", "a\0.csv"])))
@example(name="~\0")
@bounded
def test_any_name_of_a_source(name):
    assume(name not in ODD[:3] and "/" not in name[1:-1])  # no hub id, nor the folder that the tests run in
    open_source(name, ("train",))


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(DataError, match="is no file"):
        load_texts(str(folder / "pipe.jsonl"))


@pytest.mark.parametrize("case, ending, said", [
    ("a pointer", ".jsonl", "git lfs pull"), ("a pointer", ".txt", "git lfs pull"),
    ("a pointer", ".csv.gz", "git lfs pull"), ("a pointer", ".parquet", "git lfs pull"),
    ("semicolons", ".csv", "semicolons between 'text' and 'label'"),
    ("quoted semicolons", ".csv", "semicolons between 'text' and 'label'"), ("zeros", ".txt.gz", "times its size"),
    ("UTF-16", ".txt", "save the file as UTF-8"), ("UTF-16 without a BOM", ".txt", "has a NUL byte, as UTF-16"),
    ("deep JSON", ".jsonl", "nested too deeply"), ("5,000 digits", ".jsonl", "too many digits"),
    ("two keys", ".jsonl", "'text' twice"), ("NaN", ".jsonl", "blank in all 1"),
])
def test_the_way_out_is_named(folder, case, ending, said):
    content = gzip.compress(CASES[case], 1) if ending.endswith(".gz") and case == "NULs" else CASES[case]
    with pytest.raises(DataError, match=said):
        load_texts(str(written(folder, ending, content)))


def test_carriage_returns_end_lines(folder):
    assert load_texts(str(written(folder, ".txt", CASES["CR alone"]))) == ["text", "A story.", "Another one."]
    assert load_texts(str(written(folder, ".csv", CASES["CR alone"]))) == ["A story.", "Another one."]


def test_a_field_may_be_long(folder):
    assert len(load_texts(str(written(folder, ".csv", CASES["a long field"])))[0]) == 5 * 40_000 - 1
