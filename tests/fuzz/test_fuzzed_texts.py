"""What codecs and heads are given in Python: texts, labels and numbers of any kind, in any container, or none."""

import numpy as np
import torch
from bounds import bounded
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import scalars, texts, values

from latdiff.codecs.protocol import as_texts, listed_texts
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.inputs import checked_labels, fingerprints, numbers_of
from latdiff.heads.number import NumberHead
from latdiff.pipelines.call import conditions_of, guides_of


class Odd:
    """A value that can hardly be shown."""

    def __repr__(self):
        raise RuntimeError("no repr")


odd = st.one_of(values, st.binary(max_size=8), st.just(Odd()), st.dates(), st.complex_numbers(), st.just(float("nan")),
                st.just(np.str_("a")), st.just(np.array("a")), st.just(torch.tensor(1.0)), st.just(object))
containers = st.one_of(
    odd, st.lists(odd, max_size=5), st.lists(texts, max_size=5), st.lists(texts, max_size=5).map(tuple),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5).map(lambda given: np.array(given, object)),
    st.lists(st.text("ab\0", max_size=3), max_size=5).map(np.array),
    st.lists(st.floats(), max_size=5).map(torch.tensor),
    st.lists(texts, max_size=5).map(iter), st.sets(texts, max_size=5), st.just(np.zeros((2, 2))),
)


@given(given=containers)
@example(given=None)
@example(given=b"A story.")
@example(given=[None])
@example(given=[float("nan")])
@example(given=[["a"], ["b"]])
@example(given=["\ud800"])
@example(given=np.array("a"))
@example(given=[10**5_000])
@example(given={"text": "a"})
@example(given=5)
@bounded
def test_texts(given):
    found = as_texts(given)
    assert found and all(isinstance(text, str) and text.strip() for text in found)
    assert listed_texts(found) == found


LETTERS = ["a", "b"] * 5


@given(given=containers, beside=st.sampled_from([[], LETTERS, [1, 2] * 5, [True, False] * 5]))
@example(given=["a\0", "a"], beside=LETTERS)
@example(given=[10**400, 2**63], beside=[1, 2])
@example(given=None, beside=[])
@example(given="ab", beside=[])
@bounded
def test_labels(given, beside):
    given = [*given, *beside] if isinstance(given, list) else given
    labels = list(given) if isinstance(given, (list, tuple)) else None
    found = checked_labels("tone", given)
    assert len(set(found.tolist())) > 1
    assert labels is None or found.tolist() == labels


@given(given=containers)
@example(given=[10**400])
@example(given=["1e999"])
@example(given=np.array("a"))
@example(given=5)
@bounded
def test_numbers(given):
    assert np.isfinite(numbers_of("size", given)).all()


@given(given=st.lists(texts, max_size=5))
@example(given=["\ud800", "a"])
@bounded
def test_fingerprints(given):
    assert len(fingerprints(given)) == len(given)


@given(label=odd, scale=st.one_of(st.none(), st.floats()), weight=scalars)
@bounded
def test_targets(label, scale, weight):
    head = AttributeHead.from_weights(["a", "b"], torch.ones(2, 1, 2), torch.zeros(2), name="tone")
    number = NumberHead.from_weights(torch.ones(1, 2), torch.tensor(0.0), sd=1.0)
    assert head.knows(label) in (True, False) and number.knows(label) in (True, False)
    for make in (lambda: head.toward({"a": weight}, scale), lambda: number.toward(label, scale),
                 lambda: head.toward(label, scale)):
        bounded(make)()


@given(given=containers)
@bounded
def test_conditions_and_guides(given):
    bounded(conditions_of)(given)
    bounded(guides_of)(given)
