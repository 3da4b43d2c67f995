"""Rows that go on from first words, and rivals: what each is given, and what is judged of it."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from sentence_models import STORIES, TEXTS, sentence_codec
from transformers import AutoConfig, AutoTokenizer

from benchmarks import attributes as measure_attributes
from benchmarks.fudge import Fudge
from benchmarks.measured import Measured, judge_and_real
from benchmarks.rivals import ClassModel, Writer, best_of
from benchmarks.starts import joined, starts_of
from latdiff import fit_head
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.evaluation.judges import FluencyJudge
from latdiff.models.denoiser import LatentDenoiser
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.schedule import betas

SIZES = ("small.", "large.", "huge.", "tiny.", "tall.")
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def kinds(texts):
    return ["size" if text.split()[-1] in SIZES else "colour" for text in texts]


def write(path, texts, labels):
    rows = (json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True))
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def pipe(writers):
    """Of random weights, whose texts go on from first words."""
    codec = sentence_codec(writers.llama, writers.encoder, continues=True)
    torch.manual_seed(0)
    denoiser = LatentDenoiser(4, 4, width=16, depth=1, heads=2, codec_digest=codec.digest, source_dim=16)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    found = LatentTextDiffusionPipeline(denoiser.eval(), make_scheduler("ddpm", betas("cosine")), codec=codec,
                                        num_inference_steps=2)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """A checkpoint's, with a head alone."""
    folder = tmp_path_factory.mktemp("english")
    fit_head(pipe.codec, TEXTS, kinds(TEXTS), name="kind").save(folder / "heads" / "kind")
    return folder


@pytest.fixture(scope="module")
def instruct(writers, tmp_path_factory):
    """A language model that can be asked."""
    folder = shutil.copytree(writers.llama, tmp_path_factory.mktemp("instruct") / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.bos_token_id = config.eos_token_id
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def by_class(writers, tmp_path_factory):
    """A language model that read the class of its texts."""
    folder = shutil.copytree(writers.gpt2, tmp_path_factory.mktemp("by-class") / "gpt2")
    config = AutoConfig.from_pretrained(folder)
    config.classes = ["colour", "size"]
    config.save_pretrained(folder)
    return folder


def test_every_row_goes_on_from_the_same_words(pipe, folder, instruct, by_class, tmp_path, monkeypatch):
    others = [text.replace("The", "One") for text in TEXTS]
    labels = ["toxic" if number % 2 else "neutral" for number in range(len(STORIES))]
    files = [write(tmp_path / name, *rows) for name, rows in (
        ("judge.jsonl", (others, kinds(others))), ("starts.jsonl", (STORIES, labels)),
        ("head.jsonl", (TEXTS, kinds(TEXTS))))]
    monkeypatch.setattr(measure_attributes, "load_for_commands", lambda folder, quiet: pipe)
    monkeypatch.setattr("benchmarks.rivals.LONGEST", 5)
    fudged, own = [], Fudge.write
    monkeypatch.setattr(Fudge, "write", lambda self, begun, streams, target, most, times, top_p: (
        fudged.append((begun, times)), own(self, begun, streams, target, most, times, top_p))[1])
    seen, call = [], LatentTextDiffusionPipeline.__call__
    spy = lambda pipe, cond, count, **rest: seen.append((cond, count)) or call(pipe, cond, count, **rest)  # noqa: E731
    monkeypatch.setattr(LatentTextDiffusionPipeline, "__call__", spy)
    monkeypatch.setattr(sys, "argv", [
        "measure", str(folder), "--head", "kind", "--judge", files[0], "--prefixes", files[1], "--prefix-label",
        "toxic", "--prefix-words", "3", "--num-samples", "4", "--times", "1", "--best-of", "2", "--best", "3",
        "--fudge-data", files[2], "--fudge-samples", "3", "--fudge-limit", "30", "--fudge-prompt", "Write.",
        "--fudge-top", "5", "--fudge-times", "1", "2", "--prompt", "size=Go on.", "--writer", str(instruct),
        "--class-lm", str(by_class), "--fluency", str(instruct), "--json", str(tmp_path / "m.json"), "--plot",
        str(tmp_path / "m.svg"),
    ])
    measure_attributes.main()
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    starts = [" ".join(text.split()[:3]) for text, label in zip(STORIES, labels, strict=True) if label == "toxic"]
    starts = list(dict.fromkeys(starts))[:4]
    prefixes = document["prefixes"]
    assert prefixes["first_words"] == starts and prefixes["judged"].startswith("what goes on alone")
    assert (prefixes["file"], prefixes["label"], prefixes["words"], prefixes["n"]) == ("starts.jsonl", "toxic", 3, 4)
    assert seen == [(starts, 1), (starts[:3], 2), (starts, 1), (starts, 1)]  # unsteered, the pool, two targets
    sampled = ["real texts", "unsteered", "steered", "best of 2"]
    rivals = ["language model", "fudge", "fudge", "class model"]
    rows = document["rows"]
    assert [row["who"] for row in rows] == sampled * 2 + [*rivals, rivals[0], "prompted", *rivals[1:]]
    assert {row["who"]: row["n"] for row in rows} == {
        "real texts": 4, "unsteered": 4, "steered": 4, "best of 2": 3, "language model": 4, "fudge": 3,
        "class model": 4, "prompted": 4}
    assert [f"{start} {rest}" for start, rest in zip(starts, rows[0]["texts"], strict=True)] == [
        " ".join(next(text for text in STORIES[1::2] if text.startswith(start)).split()) for start in starts]
    assert all(row["perplexity"] > 1 and row["perplexity_of_continuation"] > 1 for row in rows)
    assert document["fudge"]["classifiers"]["kind"]["texts_of_the_head"] == 30 and document["fudge"]["top"] == 5
    decode = AutoTokenizer.from_pretrained(instruct).decode
    assert [[decode(row) for row in begun] for begun, times in fudged] == [
        [f"Write.\n{start}" for start in starts[:3]]] * 4
    assert [times for _, times in fudged] == [1, 2, 1, 2]
    assert (tmp_path / "m.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_starts_are_first_words_of_texts_with_a_rest(tmp_path):
    texts = ["a b c d", "A B x y", "a c d e f", "b c d", "d e f g"]
    file = write(tmp_path / "t.jsonl", texts, ["x", "x", "x", "x", "y"])
    found = starts_of(file, None, 2, 3)
    assert [(one.before, one.behind) for one in found] == [("a b", "c d"), ("a c", "d e f"), ("d e", "f g")]
    assert [one.before for one in starts_of(file, "y", 2, 1)] == ["d e"]
    with pytest.raises(UserError, match=r"where 2 texts of 4 words or more begin differently and are x, but 3 are wan"):
        starts_of(file, "x", 2, 3)
    with pytest.raises(UserError, match=r"--prefix-label is 'z', but the labels of .* are x, y"):
        starts_of(file, "z", 2, 1)
    assert joined("a b", "c") == "a b c" and joined("", "c") == "c" and joined("a b", " ") == ""


def test_a_judge_keeps_off_what_is_measured_and_what_rivals_learnt(folder, tmp_path):
    texts = [text.replace("The", "One") for text in TEXTS]
    file = write(tmp_path / "judge.jsonl", texts, kinds(texts))
    head = measure_attributes.attribute_head(folder / "heads" / "kind")
    begun = starts_of(file, None, 2, 4)
    judge, _ = judge_and_real(head, file, begun, [texts[12].upper()])
    own = texts[::2]
    assert judge.texts_ == len(own) - sum(start.text in own for start in begun) - 1
    with pytest.raises(UserError, match=f"was fitted on {len(TEXTS)} of the texts"):
        judge_and_real(head, write(tmp_path / "seen.jsonl", TEXTS, kinds(TEXTS)))


def test_fluency_is_of_the_start_and_its_text(writers, instruct):
    """Perplexity of what goes on is that of the whole without the start's share."""
    fluency = FluencyJudge(instruct)
    judge = SimpleNamespace(predict=lambda texts: ["a" if "red" in text else "b" for text in texts])
    wellformed = SimpleNamespace(share=lambda texts: float(texts == ["The cat is red.", ""]))
    measured = Measured({"kind": judge}, fluency, wellformed)
    row = measured.row({"who": "x"}, {"kind": "a"}, lambda: ["is red.", ""], ["The cat", "The dog", "The owl"])
    assert (row["right"], row["empty"], row["words"], row["well_formed"]) == (0.5, 1, 2, 1)
    assert "self_bleu" not in row and row["judged"] == {"kind": {"a": 1}}  # of a single text
    assert row["perplexity"] == pytest.approx(fluency.perplexity(["The cat is red."])["tokens"])
    (whole, most), (start, least) = fluency.losses(["The cat is red."]), fluency.losses(["The cat"])
    expected = ((whole - start) / (most - least)).exp().item()
    assert row["perplexity_of_continuation"] == pytest.approx(expected, rel=1e-4)
    alone = measured.row({"who": "x"}, {"kind": "a"}, lambda: ["is red.", "is blue."])
    assert "perplexity_of_continuation" not in alone and alone["judged"] == {"kind": {"a": 0.5, "b": 0.5}}


def test_a_writer_is_asked_and_its_answer_begins_with_the_start(instruct):
    writer = Writer(str(instruct))
    asked, words = writer.begun("Go on with {prefix}!", "The cat"), writer.tokenizer("The cat").input_ids
    assert writer.tokenizer.decode(asked) == "Go on with The cat!\nThe cat" and asked[-len(words) :] == words
    assert writer.begun(None, "The cat") == words and writer.begun(None) == [writer.start]
    starts = ["The cat", "The dog", ""]
    texts = writer.goes_on("Go on.", starts, 0)
    assert len(texts) == 3 and texts[:2] == writer.goes_on("Go on.", starts[:2], 0)
    assert texts[0] != writer.goes_on("Go on.", starts, 1)[0]
    assert writer.texts([writer.tokenizer(' "One line."\nTwo.').input_ids, []]) == ["One line.", ""]


def test_a_class_model_reads_the_class_before_the_start(by_class, monkeypatch):
    model = ClassModel(str(by_class), ["size"])
    given = []
    monkeypatch.setattr("benchmarks.rivals.write", lambda model, ids, *rest: given.extend(ids) or [[] for _ in ids])
    model.goes_on("size", ["The cat", ""], 0)
    ids, start = model.lm.tokenizer, model.lm.start
    head = [start, *ids("size").input_ids, start]
    assert given == [head + ids("The cat").input_ids, head]


def test_the_best_is_of_the_first_of_each_start(pipe, folder):
    head = measure_attributes.attribute_head(folder / "heads" / "kind")
    texts = [*TEXTS[:3], *TEXTS[20:23]]
    odds = head.log_prob(pipe.codec.encode(texts))[:, 1]
    for k in (1, 2, 3):
        best = best_of(pipe.codec, texts, 3, k, [head.toward("size")])
        assert best == [texts[odds[:k].argmax()], texts[3 + odds[3 : 3 + k].argmax()]]
