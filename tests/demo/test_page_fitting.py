"""A head from examples that a visitor pastes or uploads."""

import json

import pytest

from latdiff.demo import examples
from latdiff.demo.drawing import frames
from latdiff.demo.fitting import MOST_BYTES, MOST_HEADS, fit, heads_of, replaced
from latdiff.demo.panel import panel_of
from latdiff.demo.requests import Wanted
from latdiff.demo.showing import fitted_html
from latdiff.errors import UserError


@pytest.fixture(scope="module")
def narrator(shelf):
    return fit(shelf, (), "tiny", "narrator", examples.narrators())


def test_a_head_says_how_good_it_is_and_steers(shelf, narrator):
    report = narrator.head.report
    said = fitted_html(narrator, ["narrator"])
    assert sum(narrator.counts.values()) == report["texts"] == examples.EXAMPLES
    assert f"{report['accuracy']:.1%}" in said and f"{report['majority']:.1%}" in said
    own = replaced((), narrator)
    *_, last = frames(shelf, Wanted("tiny", {"narrator": {"I": 1.0}}, steps=3), heads_of(own, "tiny"))
    assert last.scores.keys() == {"narrator=I"}
    with shelf.use("tiny") as opened:
        groups = panel_of("tiny", opened, own).groups
    assert groups[0].head == "narrator" and groups[0].own and not groups[1].own
    assert heads_of(own, "english") == {}
    with pytest.raises(UserError, match="no head 'narrator' here"):  # of another visitor
        list(frames(shelf, Wanted("tiny", {"narrator": {"I": 1.0}}, steps=3)))


def test_a_head_at_chance_is_called_so(shelf):
    fitted = fit(shelf, (), "tiny", "toss", examples.tosses())
    assert fitted.chance and "At chance" in fitted_html(fitted, ["toss"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_files_and_pasted_texts_of_each_kind_are_read_alike(shelf, rows_of, tmp_path, ending):
    rows = rows_of(["a", "b"])
    if ending == "jsonl":
        content = "\n".join(json.dumps(row) for row in rows)
    else:
        mark = {"csv": ",", "tsv": "\t"}[ending]
        content = "\n".join(mark.join(f'"{one}"' for one in line) for line in
                            [("text", "label"), *((row["text"], row["label"]) for row in rows)])
    file = tmp_path / f"rows.{ending}"
    file.write_text(content, encoding="utf-8")
    pasted, uploaded = fit(shelf, (), "tiny", "x", content), fit(shelf, (), "tiny", "x", "", str(file))
    assert pasted.counts == uploaded.counts == {"a": 6, "b": 6}


@pytest.mark.parametrize("before", ["", "\n", "\r\n  \n"])
def test_a_pasted_table_may_have_a_first_column_without_a_name_as_pandas_writes_it(shelf, rows_of, before):
    rows = rows_of(["a", "b"])
    lines = ["\ttext\tlabel", *(f"{number}\t{row['text']}\t{row['label']}" for number, row in enumerate(rows))]
    assert fit(shelf, (), "tiny", "x", before + "\n".join(lines)).counts == {"a": 6, "b": 6}


@pytest.mark.parametrize("content", ['  {"text": "a", "label"', '\t{"text": "a", "label"'])
def test_json_lines_may_be_indented(content, shelf):
    with pytest.raises(UserError, match="is not JSON"):
        fit(shelf, (), "tiny", "x", content)


def test_what_cannot_be_fitted_is_said_without_the_place_of_a_file(shelf, narrator, tmp_path):
    def refused(pasted="", file=None, name="tone", own=(), **columns):
        with pytest.raises(UserError) as error:
            fit(shelf, own, "tiny", name, pasted, file, **columns)
        assert "/tmp" not in str(error.value) and str(tmp_path) not in str(error.value)
        return str(error.value)

    assert "no examples" in refused("  ")
    said = refused("text,label\na,b\n", label_column="tone")
    assert "there is text" in said and said.endswith("name that of the labels: the box Column of the labels")
    said = refused("text,label\na,b\n", text_column="story")
    assert said.endswith("name that of the texts: the box Column of the texts")
    assert "is not JSON" in refused('{"text": "a", "label"')
    assert "at least 5 texts" in refused("text,label\none,a\ntwo,b\n")
    assert "with `latdiff fit-head --number`" in refused("text,label\none,1.5\ntwo,2.5\n")
    assert "at most 200,000" in refused("x" * 200_001)
    assert "must be a text" in refused({"text": 1})
    assert "a head 'sentiment' already" in refused(examples.tosses(), name="sentiment")
    many = "text,label\n" + "".join(f"story {i},{i % 13}\n" for i in range(130))
    assert "at most 12" in refused(many)
    assert "was uploaded" in refused(file=["a"])
    assert "was uploaded" in refused(file="/nowhere/x.csv")
    for name, content, said in (("a.exe", b"x", "must end in"), ("a.csv", b"x" * (MOST_BYTES + 1), "more than"),
                                ("a.jsonl", b"\xff\xfe", "UTF-16")):
        (tmp_path / name).write_bytes(content)
        assert said in refused(file=str(tmp_path / name))
    own = tuple(narrator.__class__("tiny", _named(narrator.head, f"n{i}"), {}, {}, 0.0) for i in range(MOST_HEADS))
    assert "as many as the page keeps" in refused(examples.tosses(), own=own)
    assert len(replaced(own, own[2])) == MOST_HEADS


def _named(head, name):
    import copy

    other = copy.copy(head)
    other.name = name
    return other
