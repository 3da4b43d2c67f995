"""What evaluation counts on in a world: one suite for all of them, a toy of a few lines included."""

import itertools
import json
import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from latdiff.worlds import world

N = 200


class Colours:
    """A toy: a thing of a colour."""

    attributes = {"colour": ("red", "blue"), "thing": ("ball", "kite", "hat")}  # noqa: RUF012
    bound = {}  # noqa: RUF012

    def sample(self, n, seed, **fixed):
        for name, value in fixed.items():
            if value not in self.attributes.get(name, ()):
                raise ValueError(f"{name} was set to {value!r}.")
        draw = random.Random(seed)
        rows = [{k: draw.choice(v) for k, v in self.attributes.items()} | fixed for _ in range(n)]
        return [SimpleNamespace(text=f"A {row['colour']} {row['thing']}.", attributes=row, slots={}) for row in rows]

    def read(self, text):
        words = text.removeprefix("A ").removesuffix(".").split(" ")
        found = {k: word for k, word in zip(self.attributes, words, strict=False) if word in self.attributes[k]}
        valid = len(found) == 2 and text == f"A {found['colour']} {found['thing']}."
        return SimpleNamespace(valid=valid, errors=() if valid else ("frame",), attributes=found, slots={})

    def compare(self, texts, **asked):
        if not (texts := list(texts)):
            raise ValueError("texts is empty.")
        read = [self.read(text) for text in texts]
        far = []
        for name in self.attributes.keys() - asked.keys():
            values, counts = self.attributes[name], Counter(one.attributes.get(name) for one in read)
            far.append(sum(abs(counts[value] / len(texts) - 1 / len(values)) for value in values) / 2)
        distance = {"mean": sum(far) / max(1, len(far)), "floor": 0.5 / math.sqrt(len(texts))}
        figures = {"valid": sum(one.valid for one in read) / len(texts), "errors": {}, "slot_tv": distance,
                   "coherence": {"mean": 1.0}, "independence": distance}
        return SimpleNamespace(as_dict=lambda: figures)

    def log_prob(self, text):
        return -math.log(6) if self.read(text).valid else -math.inf


ORACLES = {"storyworld": world("storyworld"), "toy": Colours()}


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]


@pytest.fixture
def drawn(oracle):
    return oracle.sample(N, 1)


def test_samples_read_back_as_they_were_drawn(oracle, drawn):
    assert len(drawn) == N
    for one in drawn:
        reading = oracle.read(one.text)
        assert reading.valid and not reading.errors
        assert reading.attributes == one.attributes and reading.slots == one.slots
        assert one.attributes.keys() == oracle.attributes.keys()


def test_every_value_is_drawn(oracle, drawn):
    for name, values in oracle.attributes.items():
        assert {one.attributes[name] for one in drawn} == set(values)


def test_fixed_attributes_are_respected(oracle):
    for name, values in oracle.attributes.items():
        for value in values:
            texts = [one.text for one in oracle.sample(5, 2, **{name: value})]
            assert {oracle.read(text).attributes[name] for text in texts} == {value}


def test_bound_slots_change_with_their_attribute_and_only_they_always_do(oracle):
    for name, values in oracle.attributes.items():
        drawn = [oracle.sample(N, 3, **{name: value}) for value in values]
        seen = [{(slot, value) for one in of_value for slot, value in one.slots.items()} for of_value in drawn]
        slots = {slot for of_value in seen for slot, _ in of_value}
        common = {slot for a, b in itertools.combinations(seen, 2) for slot, _ in a & b}
        assert slots - common == set(oracle.bound.get(name, ()))


@pytest.mark.parametrize("name", ["nothing", None])
def test_what_does_not_exist_cannot_be_fixed(oracle, name):
    with pytest.raises(ValueError, match=r"was set to|no attribute"):
        oracle.sample(1, 0, **{name or next(iter(oracle.attributes)): "nonsense"})


def test_the_seed_decides_the_texts(oracle, drawn):
    texts = [one.text for one in drawn]
    assert [one.text for one in oracle.sample(N, 1)] == texts
    assert [one.text for one in oracle.sample(N, 2)] != texts


def test_nonsense_is_read_as_invalid(oracle):
    for text in ("", "Nonsense, all of it.", "red ball"):
        reading = oracle.read(text)
        assert not reading.valid and reading.errors
        assert oracle.log_prob(text) == -math.inf


def test_samples_are_possible(oracle, drawn):
    for one in drawn:
        assert -math.inf < oracle.log_prob(one.text) < 0


def test_samples_are_near_the_floor_and_copies_of_one_are_far(oracle, drawn):
    real = oracle.compare([one.text for one in drawn]).as_dict()
    assert real["valid"] == 1 and not real["errors"] and real["coherence"]["mean"] == 1
    for figure in ("slot_tv", "independence"):
        assert real[figure]["mean"] < 1.5 * real[figure]["floor"]
    copies = oracle.compare([drawn[0].text] * N).as_dict()
    assert copies["slot_tv"]["mean"] > 3 * copies["slot_tv"]["floor"]
    json.dumps(real)


def test_no_texts_cannot_be_compared(oracle):
    with pytest.raises(ValueError, match="empty"):
        oracle.compare([])


def test_other_sources_have_no_oracle():
    assert world("owner/name") is None
