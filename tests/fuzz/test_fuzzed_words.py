"""Words of the command line that have a grammar of their own: guides, samplers, seeds, and all of it at once."""

import argparse
import contextlib
import io

import pytest
import torch
from bounds import bounded
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import odd_texts, texts

from latdiff.cli import parser
from latdiff.cli.guides import _target_and_scale, guide_words, read_guides
from latdiff.cli.heads import _regularisation
from latdiff.cli.options import _seed
from latdiff.config import SCHEDULERS, sampler_words
from latdiff.errors import UserError
from latdiff.evaluation.command import _judges, _rerank_words
from latdiff.evaluation.labelled import read_labelled_words
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.number import NumberHead

LABELS = ["positive", "negative", "10", "10:30", "a:b", "a+b", "a", "b", "²"]
HEADS = {
    "slot": AttributeHead.from_weights(LABELS, torch.ones(len(LABELS), 1, 2), torch.zeros(len(LABELS)), name="slot"),
    "size": NumberHead.from_weights(torch.ones(1, 2), torch.tensor(0.0), sd=1.0, name="size"),
}
MARKS = ["slot", "size", "=", ":", "+", "18", "nan", "1e400", "-3", " "]
pieces = st.one_of(st.sampled_from([*LABELS, *MARKS]), odd_texts)
words = st.one_of(texts, st.lists(pieces, max_size=6).map("".join), st.lists(pieces, max_size=4).map(":".join))


@given(head=st.sampled_from(["slot", "size"]), text=words)
@example(head="slot", text="slot=10:30")
@example(head="slot", text="slot=10:30:18")
@example(head="slot", text="slot=positive:²")
@example(head="slot", text="slot=a:b:c:d")
@example(head="size", text="size=" + "9" * 5_000)
@example(head="size", text="size=1_0:٣")
@bounded
def test_guides(head, text):
    for given_words in (text, f"{head}={text}"):
        with contextlib.suppress(UserError):
            ((_, _, target),) = guide_words([given_words])
            guide = HEADS[head].toward(*_target_and_scale(HEADS[head], f"{head}={target}", "--guide"))
            HEADS[head].describe(guide.target)
    ((_, _, target),) = guide_words([f"{head}={text}"])
    HEADS[head].toward(*_target_and_scale(HEADS[head], f"{head}={target}", "--guide"))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("scale", [None, 18.0, 0.5])
def test_any_label_can_be_named_with_a_scale_or_without(label, scale):
    ((_, _, target),) = guide_words([f"slot={label}" if scale is None else f"slot={label}:{scale}"])
    assert _target_and_scale(HEADS["slot"], f"slot={target}", "--guide") == (label, scale)


@given(name=st.one_of(texts, st.sampled_from(["x" * 5_000, "..", "~nobody/a", "a\0", "/" * 5_000])))
@bounded
def test_any_name_of_a_head(folder, name):
    read_guides(folder, guide_words([f"{name}=positive"]))


@given(text=st.one_of(words, st.tuples(st.sampled_from([*SCHEDULERS, "ddpmm"]), words).map(":".join)))
@example(text="ddpm:²")
@example(text="ddpm:٣")
@example(text="ddpm:" + "9" * 5_000)
@example(text="ddpm:100000000000000000000")
@bounded
def test_samplers(text):
    name, steps = sampler_words(text)
    assert text == f"{name}:{steps}" or text.lstrip("0") != text or ":0" in text


@given(text=words)
@example(text="checkpoints/a:²")
@example(text="a:" + "9" * 5_000)
@bounded
def test_reranking(text):
    folder, k = _rerank_words(text)
    assert k > 1 and str(folder)


@given(text=words)
@example(text="slot=" + "x" * 5_000)
@example(text="slot=a\0b:c")
@example(text="slot=~nobody/a.csv")
@bounded
def test_judges(text):
    if "/" not in text[1:-1]:  # no hub id
        list(_judges(list(read_labelled_words("--judge", [text])), list(HEADS.values())))


@given(text=words, number=st.booleans())
@bounded
def test_regularisation(text, number):
    assert _regularisation(argparse.Namespace(regularisation=text, number=number))


@given(text=words)
@example(text="²")
@example(text="9" * 5_000)
@bounded
def test_seeds(text):
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert 0 <= _seed(text) < 2**63


FLAGS = sorted({flag for command in parser()._subparsers._group_actions[0].choices.values()
                for flag in command._option_string_actions})
COMMANDS = list(parser()._subparsers._group_actions[0].choices)


@given(command=st.sampled_from(COMMANDS), rest=st.lists(st.one_of(st.sampled_from(FLAGS), words), max_size=6))
@bounded
def test_the_whole_line(command, rest):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parser().parse_known_args([command, *rest])
