"""What parsers are fed: odd texts and numbers, JSON of any shape, files and saved settings with faults in them."""

import json
import random

from hypothesis import strategies as st

ODD = ["", " ", "\0", "\r", "\n", "\ufeff", "\ud800", "\udfff", "\u2028", "\x85", "²", "٣", "½", "é", "e\u0301", "😀",
       "~", "~nobody", "null", "true", "yes", "NaN", ".inf", "-0", "01", "0x1F", "1_000", "12:30", "2024-13-45",
       "1e400", "9" * 5_000, "100000000000000000000", "10^20", "a:b:c", "=", ":", "..", "/", "[", "{", "&a",
       "*a", "<<", "%"]
odd_texts = st.sampled_from(ODD)
# with lone surrogates, which JSON and a command line can hold
texts = st.one_of(st.text(max_size=40), st.text(st.characters(), max_size=40), odd_texts)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**20, -(10**20), 2**63, 10**400]))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(scalars, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12)


def nested(depth, left="[", right="]"):
    """Brackets within brackets."""
    return left * depth + right * depth


@st.composite
def mutated(draw, content):
    """Bytes with a few faults: some replaced, left out, doubled or put in, or all cut short."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(found))), draw(st.integers(0, 16))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "double", "cut"]))
        piece = bytes(found[place : place + length])
        if kind in ("replace", "insert"):
            new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(
                [b"\0", b"\r", b"\xff\xff\xff\xff", b"\xff\xfe", b'"', b"\xed\xa0\x80", b",", b"\n"])))
            found[place : place + (len(new) if kind == "replace" else 0)] = new
        elif kind == "cut":
            del found[place:]
        else:
            found[place : place + length] = piece * (2 if kind == "double" else 0)
    return bytes(found)


@st.composite
def with_faults(draw, document):
    """A JSON document with a few of its values, on any level, replaced, left out or added."""
    found = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        place = found
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            fault = draw(st.sampled_from(["replace", "replace", "delete", "add"]))
            if fault == "delete":
                del place[key]
            elif fault == "add" and isinstance(place, dict):
                place[draw(texts)] = draw(values)
            else:
                place[key] = draw(values)
            break
    return found


def as_json(value) -> str:
    """JSON with whatever json.loads takes: NaN, lone surrogates, integers too long for str()."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {as_json(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_json, value)) + "]"
    return "7" * 7_200 if value == 10**400 else json.dumps(value)  # more digits than int() reads


def shuffled_words(text, seed):
    """The words of a text in another order."""
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)
