"""Storyworld: the grammar's stories read back exactly, and the oracle names every defect."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from latdiff.storyworld import ATTRIBUTES, ERRORS, Story, compare, count_stories, marginals, read, sample
from latdiff.storyworld.compare import total_variation, variation_floor
from latdiff.storyworld.grammar import tell
from latdiff.storyworld.lexicon import COMPANIONS, FEELINGS, NAMES, WEATHERS
from latdiff.storyworld.topics import TOPICS

PINNED = "0f97dd5ff9c490fa9d8ad72fe6a394ab0b8cdc0603c2d71fafc4b61a90f7b7a9"
SEED = 4
COUNT = 300


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return sample(10_000, seed=1)


def sentences(text: str) -> list[str]:
    return [part + "." for part in text.removesuffix(".").split(". ")]


# ---------------------------------------------------------------- the grammar


def test_round_trip(stories: list[Story]) -> None:
    for story in stories:
        reading = read(story.text)
        assert reading.valid and not reading.errors and not reading.details, story.text
        assert reading.attributes == story.attributes
        assert reading.slots == story.slots


def test_same_seed_same_texts() -> None:
    texts = "\n".join(story.text for story in sample(200, seed=0))
    assert hashlib.sha256(texts.encode()).hexdigest() == PINNED


def test_prefix_and_seeds() -> None:
    assert sample(10, seed=5) == sample(20, seed=5)[:10]
    assert sample(5, seed=5) != sample(5, seed=-5)
    assert sample(0, seed=5) == []


def test_attribute_priors(stories: list[Story]) -> None:
    for name, values in ATTRIBUTES.items():
        counts = Counter(story.attributes[name] for story in stories)
        assert set(counts) == set(values)
        assert total_variation(counts, dict.fromkeys(values, 1 / len(values))) < 0.03


def test_fixed_attributes_keep_the_rest() -> None:
    pairs = zip(sample(50, seed=2, tense="past"), sample(50, seed=2, tense="present"), strict=True)
    for past, present in pairs:
        assert past.slots == present.slots
        assert past.attributes | {"tense": ""} == present.attributes | {"tense": ""}
    for length in (3, "4"):
        assert {len(sentences(story.text)) for story in sample(50, seed=2, length=length)} == {int(length)}


def test_size_of_the_world(stories: list[Story]) -> None:
    words = Counter(word for story in stories for word in re.findall("[a-z]+", story.text.lower()))
    assert len(words) >= 500
    assert count_stories() >= 10**12
    assert count_stories(tense="past") * 2 == count_stories()
    lengths = [len(story.text.split()) for story in stories]
    assert min(lengths) >= 25 and max(lengths) <= 60
    assert 38 <= sum(lengths) / len(lengths) <= 46
    assert len({story.text for story in stories}) == len(stories)


def test_plain_text(stories: list[Story]) -> None:
    assert all(re.fullmatch(r"[A-Za-z ,.]+", story.text) for story in stories)


def test_companion_comes_back(stories: list[Story]) -> None:
    for story in stories[:2000]:
        parts = sentences(story.text)
        companion = story.slots["companion"]
        assert companion in parts[0]
        assert companion in " ".join(parts[-2:] if len(parts) == 5 else parts[-1:])


@pytest.mark.parametrize("attributes, hint", [
    ({"topc": "music"}, "topic"), ({"topic": "musik"}, "music"), ({"length": 6}, "3, 4, 5"),
    ({"tense": "future"}, "past, present"),
])
def test_wrong_attributes(attributes: dict, hint: str) -> None:
    for call in (lambda: sample(1, 0, **attributes), lambda: marginals(**attributes),
                 lambda: compare(["A text."], **attributes), lambda: count_stories(**attributes)):
        with pytest.raises(ValueError, match=hint):
            call()


def test_wrong_counts_and_seeds() -> None:
    with pytest.raises(ValueError, match="n was set to -1"):
        sample(-1, 0)
    with pytest.raises(ValueError, match=r"seed was set to 0\.5"):
        sample(1, 0.5)  # type: ignore[arg-type]


# ---------------------------------------------------------------- single defects

Defect = Callable[[Story, random.Random], "str | None"]
DEFECTS: list[tuple[str, Defect]] = []


def defect(kind: str) -> Callable[[Defect], Defect]:
    """Register a change to a story that the oracle must name as `kind`; None where it does not apply."""
    def register(change: Defect) -> Defect:
        DEFECTS.append((kind, change))
        return change
    return register


def replace_last(text: str, word: str, new: str, least: int = 1) -> str | None:
    """Replace the last mention of a word that is mentioned at least so often."""
    found = list(re.finditer(rf"\b{word}\b", text))
    if len(found) < least:
        return None
    return text[:found[-1].start()] + new + text[found[-1].end():]


def other(values, value: str, rng: random.Random) -> str:
    return rng.choice([candidate for candidate in values if candidate != value])


def other_topic(story: Story, rng: random.Random):
    return TOPICS[other(TOPICS, story.attributes["topic"], rng)]


def twin_sentence(story: Story, attribute: str, value: str, position: int) -> str:
    """The story with one sentence told as if an attribute were another one."""
    slots = {"name": "Anna"} | story.slots
    twin = sentences(tell(story.attributes | {attribute: value}, slots))
    parts = sentences(story.text)
    return " ".join(parts[:position] + twin[position:position + 1] + parts[position + 1:])


@defect("pronoun")
def wrong_possessive(story: Story, rng: random.Random) -> str | None:
    if story.attributes["person"] == "first":
        return None
    swap = {"her": "his", "his": "her", "Her": "His", "His": "Her"}
    return re.sub(rf"\b([Hh]er|[Hh]is) (?={story.slots['companion']})",
                  lambda found: swap[found[1]] + " ", story.text, count=1)


@defect("pronoun")
def wrong_subject_pronoun(story: Story, rng: random.Random) -> str | None:
    swap = {"she": "he", "he": "she", "She": "He", "He": "She"}
    text = re.sub(r"\b([Ss]?[Hh]e)\b", lambda found: swap[found[1]], story.text, count=1)
    return text if text != story.text else None


@defect("person")
def one_sentence_in_other_person(story: Story, rng: random.Random) -> str | None:
    value = other(ATTRIBUTES["person"], story.attributes["person"], rng)
    text = twin_sentence(story, "person", value, rng.randrange(int(story.attributes["length"])))
    return text if text != story.text else None


@defect("tense")
def one_sentence_in_other_tense(story: Story, rng: random.Random) -> str | None:
    value = other(ATTRIBUTES["tense"], story.attributes["tense"], rng)
    return twin_sentence(story, "tense", value, rng.randrange(int(story.attributes["length"])))


@defect("weather")
def opening_in_other_weather(story: Story, rng: random.Random) -> str | None:
    parts = sentences(story.text)
    if not re.search(r"\b(sun|rain|wind|snow)\b", " ".join(parts[1:])):
        return None
    weather = other(WEATHERS, story.attributes["weather"], rng)
    opening = sentences(sample(1, rng.randrange(10**6), **story.attributes | {"weather": weather})[0].text)[0]
    return " ".join([opening, *parts[1:]])


@defect("topic")
def object_of_other_topic(story: Story, rng: random.Random) -> str | None:
    return replace_last(story.text, story.slots["object"], rng.choice(other_topic(story, rng).objects))


@defect("topic")
def place_of_other_topic(story: Story, rng: random.Random) -> str | None:
    return replace_last(story.text, story.slots["place"], rng.choice(list(other_topic(story, rng).places)))


@defect("object")
def other_object(story: Story, rng: random.Random) -> str | None:
    objects = TOPICS[story.attributes["topic"]].objects
    value = story.slots["object"]
    return replace_last(story.text, value, other(objects, value, rng), least=2)


@defect("place")
def other_place(story: Story, rng: random.Random) -> str | None:
    value = story.slots["place"]
    parts = sentences(story.text)
    last = replace_last(parts[-1], value, other(TOPICS[story.attributes["topic"]].places, value, rng))
    return " ".join([*parts[:-1], last]) if last else None


@defect("companion")
def other_companion(story: Story, rng: random.Random) -> str | None:
    value = story.slots["companion"]
    return replace_last(story.text, value, other(COMPANIONS, value, rng), least=2)


@defect("name")
def other_name(story: Story, rng: random.Random) -> str | None:
    if "name" not in story.slots:
        return None
    value = story.slots["name"]
    return replace_last(story.text, value, other(NAMES["female"] + NAMES["male"], value, rng), least=2)


@defect("sentiment")
def feeling_against_outcome(story: Story, rng: random.Random) -> str | None:
    feelings = FEELINGS[other(FEELINGS, story.attributes["sentiment"], rng)]
    value = story.slots["feeling"]
    if value.capitalize() in story.text:
        return replace_last(story.text, value.capitalize(), rng.choice(feelings).capitalize())
    return replace_last(story.text, value, rng.choice(feelings))


@defect("coherence")
def outcome_of_other_complication(story: Story, rng: random.Random) -> str | None:
    topic, number = story.slots["complication"].split()
    value = f"{topic} {other('123456', number, rng)} {story.attributes['sentiment']} 1"
    return tell(story.attributes, story.slots | {"outcome": value})


@defect("missing_sentence")
def dropped_sentence(story: Story, rng: random.Random) -> str | None:
    parts = sentences(story.text)
    del parts[rng.randrange(len(parts))]
    return " ".join(parts)


@defect("doubled_sentence")
def doubled_sentence(story: Story, rng: random.Random) -> str | None:
    parts = sentences(story.text)
    position = rng.randrange(len(parts))
    return " ".join(parts[:position + 1] + parts[position:])


@defect("order")
def swapped_sentences(story: Story, rng: random.Random) -> str | None:
    parts = sentences(story.text)
    first, second = rng.sample(range(len(parts)), 2)
    parts[first], parts[second] = parts[second], parts[first]
    return " ".join(parts)


@defect("extra_sentence")
def second_opening(story: Story, rng: random.Random) -> str | None:
    frame = str(int(story.slots["opening_frame"]) % 5 + 1)
    wording = {"weather_wording": WEATHERS[story.attributes["weather"]].adjectives[0], "time": "Monday"}
    opening = sentences(tell(story.attributes, story.slots | wording | {"opening_frame": frame}))[0]
    return f"{opening} {story.text}"


@defect("cut_off")
def cut_end(story: Story, rng: random.Random) -> str | None:
    return " ".join(story.text.split()[:-rng.randint(1, 4)]).removesuffix(",")


@defect("cut_off")
def cut_inside_word(story: Story, rng: random.Random) -> str | None:
    return story.text[:-3]


@defect("unknown_word")
def unknown_word(story: Story, rng: random.Random) -> str | None:
    words = story.text.split(" ")
    words[rng.randrange(1, len(words) - 1)] = rng.choice(["zorble", "qux", "quantum", "flibber"])
    return " ".join(words)


@defect("article")
def lost_article(story: Story, rng: random.Random) -> str | None:
    found = rng.choice(list(re.finditer(r" (the|an?) ", story.text)))
    return story.text[:found.start()] + " " + story.text[found.end():]


@defect("article")
def wrong_indefinite_article(story: Story, rng: random.Random) -> str | None:
    return re.sub(r" (an?) ", lambda found: " a " if found[1] == "an" else " an ", story.text, count=1)


@defect("article")
def wrong_article(story: Story, rng: random.Random) -> str | None:
    found = rng.choice(list(re.finditer(r" the ", story.text)))
    return story.text[:found.start()] + " a " + story.text[found.end():]


@defect("case")
def lost_capital(story: Story, rng: random.Random) -> str | None:
    found = rng.choice(list(re.finditer(r"[A-Z]", story.text)))
    return story.text[:found.start()] + found[0].lower() + story.text[found.end():]


@defect("case")
def stray_capital(story: Story, rng: random.Random) -> str | None:
    found = rng.choice(list(re.finditer(r"(?<= )[a-z]", story.text)))
    return story.text[:found.start()] + found[0].upper() + story.text[found.end():]


@defect("spacing")
def spacing(story: Story, rng: random.Random) -> str | None:
    text = story.text
    position = rng.choice([found.start() for found in re.finditer(" ", text)])
    stop = text.index(". ")
    return rng.choice([text[:position] + " " + text[position:], text + " ", "\n" + text,
                       text[:position] + "\n" + text[position + 1:], text[:stop + 1] + text[stop + 2:],
                       text[:stop] + " " + text[stop:]])


@defect("agreement")
def verb_without_ending(story: Story, rng: random.Random) -> str | None:
    swap = {"was": "were", "were": "was"} if story.attributes["tense"] == "past" else {
        "is": "are", "am": "is", "goes": "go", "meets": "meet", "hurries": "hurry", "wants": "want",
        "feels": "feel", "leaves": "leave", "walks": "walk", "finds": "find", "brings": "bring",
        "takes": "take", "stops": "stop", "begins": "begin", "starts": "start"}
    found = re.search(rf"\b({'|'.join(swap)})\b", story.text)
    return story.text[:found.start()] + swap[found[0]] + story.text[found.end():] if found else None


@defect("agreement")
def first_person_with_ending(story: Story, rng: random.Random) -> str | None:
    swap = {"go": "goes", "want": "wants", "feel": "feels", "ask": "asks", "walk": "walks", "am": "is"}
    found = re.search(rf"\bI ({'|'.join(swap)})\b", story.text)
    return story.text[:found.start(1)] + swap[found[1]] + story.text[found.end():] if found else None


@defect("punctuation")
def lost_comma(story: Story, rng: random.Random) -> str | None:
    return story.text.replace(",", "", 1) if "," in story.text else None


@defect("punctuation")
def other_marks(story: Story, rng: random.Random) -> str | None:
    found = rng.choice(list(re.finditer(r"\.", story.text)))
    return story.text[:found.start()] + rng.choice(["!", ";", "..", " ?"]) + story.text[found.end():]


@defect("punctuation")
def run_together(story: Story, rng: random.Random) -> str | None:
    return story.text.replace(". ", " ", 1)


@defect("frame")
def repeated_word(story: Story, rng: random.Random) -> str | None:
    words = story.text.split(" ")
    position = rng.choice([index for index, word in enumerate(words)
                           if word.lower() not in ("a", "an", "the") and word[-1].isalpha()])
    return " ".join(words[:position + 1] + words[position:position + 1] + words[position + 1:])


@pytest.mark.parametrize("kind, change", DEFECTS, ids=[change.__name__ for _, change in DEFECTS])
def test_single_defect(kind: str, change: Defect) -> None:
    rng = random.Random(SEED)
    tried = 0
    for story in sample(4 * COUNT, SEED):
        text = change(story, rng)
        if text is None:
            continue
        assert text != story.text
        reading = read(text)
        assert not reading.valid and kind in reading.errors, (text, reading.errors, reading.details)
        tried += 1
        if tried == COUNT:
            break
    assert tried >= COUNT // 2


def test_every_error_kind_is_tested() -> None:
    assert {kind for kind, _ in DEFECTS} | {"empty"} == set(ERRORS)


def test_no_word_is_superfluous() -> None:
    for story in sample(100, SEED):
        words = story.text.split(" ")
        for position in range(len(words)):
            reading = read(" ".join(words[:position] + words[position + 1:]))
            assert not reading.valid and reading.errors


def test_every_sentence_and_order_matters() -> None:
    for story in sample(COUNT, SEED):
        parts = sentences(story.text)
        for first in range(len(parts)):
            assert "missing_sentence" in read(" ".join(parts[:first] + parts[first + 1:])).errors
            assert "doubled_sentence" in read(" ".join(parts + parts[first:first + 1])).errors


def test_invalid_texts_are_read_as_far_as_possible() -> None:
    rng = random.Random(SEED)
    right = Counter()
    for story in sample(COUNT, SEED):
        reading = read(unknown_word(story, rng))
        for name in ("topic", "tense", "person", "length"):
            right[name] += reading.attributes.get(name) == story.attributes[name]
    assert min(right.values()) > 0.9 * COUNT
    assert "sentiment" not in read(feeling_against_outcome(sample(1, 0)[0], rng)).attributes


# ---------------------------------------------------------------- strings of all kinds


@pytest.mark.parametrize("text", ["", " ", "\n\t", ".", "...", ",,, .", "?!", "\x00", "\u200b"])
def test_no_words(text: str) -> None:
    reading = read(text)
    assert reading.errors == ("empty",) and not reading.valid and not reading.attributes


def test_read_never_raises() -> None:
    rng = random.Random(SEED)
    vocabulary = sorted({word for story in sample(300, 0) for word in re.findall(r"\w+|[,.]", story.text)})
    texts = ["I", "the", "A.", "a a a.", "The the.", "_ _", "1 2 3.", "\u00c9t\u00e9 \u4e2d\u6587.",
             "x" * 5000, "I " * 3000, ". a" * 500, "Clara Clara. Adam.", "an", "an.", "a , an the ."]
    for _ in range(400):
        texts.append("".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(1, 0x3000)]))
                             for _ in range(rng.randrange(200))))
        texts.append(" ".join(rng.choice(vocabulary) for _ in range(rng.randrange(1, 80))))
    texts.append(" ".join(rng.choice(vocabulary) for _ in range(10_000)))
    for story in sample(400, SEED):
        words = story.text.split(" ")
        for _ in range(rng.randrange(1, 6)):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        texts.append(" ".join(words))
    for text in texts:
        reading = read(text)
        assert reading.valid == (not reading.errors)
        assert set(reading.errors) <= set(ERRORS) and len(set(reading.errors)) == len(reading.errors)
        for name, value in reading.attributes.items():
            assert value in ATTRIBUTES[name]
        if reading.valid:
            assert tell(reading.attributes, reading.slots) == text


# ---------------------------------------------------------------- marginals and comparison


@pytest.mark.parametrize("attributes", [{}, {"topic": "music", "sentiment": "negative"}, {"length": 5},
                                        {"person": "first", "weather": "rainy"}])
def test_marginals(attributes: dict) -> None:
    expected = marginals(**attributes)
    counts: dict[str, Counter] = {}
    for story in sample(6000, SEED, **attributes):
        for slot, value in story.slots.items():
            counts.setdefault(slot, Counter())[value] += 1
    assert set(counts) == set(expected)
    for slot, probabilities in expected.items():
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert set(counts[slot]) <= set(probabilities)
        floor = variation_floor(counts[slot].total(), probabilities.values())
        assert total_variation(counts[slot], probabilities) < 1.7 * floor + 0.005, slot


def test_floor_against_simulation() -> None:
    rng = random.Random(SEED)
    for n, weights in ((5, (1, 1)), (37, (5, 3, 2)), (60, (1,) * 12), (200, (90, 9, 1))):
        probabilities = {str(index): weight / sum(weights) for index, weight in enumerate(weights)}
        draws = [total_variation(Counter(rng.choices(list(probabilities), weights, k=n)), probabilities)
                 for _ in range(2000)]
        assert variation_floor(n, probabilities.values()) == pytest.approx(sum(draws) / 2000, rel=0.05)


def test_floor_edges() -> None:
    assert variation_floor(1, [1.0]) == 0
    assert variation_floor(1, [0.5, 0.5]) == pytest.approx(0.5)
    assert variation_floor(10**6, [0.25] * 4) < 0.001
    assert total_variation({"elsewhere": 3}, {"here": 1.0}) == 1


def test_compare_true_samples() -> None:
    texts = [story.text for story in sample(3000, SEED)]
    result = compare(texts, training=texts[:300])
    assert result.n == 3000 and result.valid == 1 and result.errors == {} and result.distinct == 1
    assert result.memorised == 0.1
    assert result.slot_tv["mean"] == pytest.approx(result.slot_tv["floor"], rel=0.2)
    assert set(result.slot_tv["by_slot"]) == set(marginals())
    assert result.attributes["tense"]["past"] == pytest.approx(0.5, abs=0.05)
    assert result.coherence["mean"] == 1
    assert {row["n"] for row in result.coherence["by_pair"].values()} == {3000}
    assert result.independence["mean"] == pytest.approx(result.independence["floor"], rel=0.2)
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()


def test_compare_with_fixed_attributes() -> None:
    texts = [story.text for story in sample(1000, SEED, topic="art", length=4)]
    fixed, free = compare(texts, topic="art", length="4"), compare(texts)
    assert fixed.memorised is None
    assert fixed.slot_tv["mean"] == pytest.approx(fixed.slot_tv["floor"], rel=0.25)
    assert free.slot_tv["by_slot"]["place"]["tv"] == pytest.approx(7 / 8)
    assert fixed.attributes["topic"]["art"] == 1 and fixed.attributes["topic"]["pets"] == 0
    assert fixed.independence["mean"] == pytest.approx(fixed.independence["floor"], rel=0.3)
    assert free.independence["mean"] > 4 * free.independence["floor"]  # of what should be free, two are always alike


def test_compare_sees_slots_that_do_not_go_together() -> None:
    """Feelings of the other sentiment, and a place of another topic."""
    glad, sad = (sample(20, SEED, sentiment=value, topic="music") for value in ("positive", "negative"))
    texts = [a.text.replace(a.slots["feeling"], b.slots["feeling"]) for a, b in zip(glad, sad, strict=True)]
    torn = compare(texts).coherence
    assert torn["by_pair"]["outcome and feeling"]["share"] == 0
    assert torn["by_pair"]["complication and outcome"]["share"] == 1
    place = sample(1, SEED, topic="travel")[0].slots["place"]
    moved = [story.text.replace(story.slots["place"], place) for story in glad]
    assert compare(moved).coherence["by_pair"]["complication and place"]["share"] == 0
    assert compare(["nothing here"]).coherence["mean"] == 0


def test_compare_sees_attributes_that_depend_on_each_other() -> None:
    texts = [s.text for tense, mood in (("past", "positive"), ("present", "negative"))
             for s in sample(500, SEED, tense=tense, sentiment=mood)]
    apart = compare([story.text for story in sample(1000, SEED)]).independence
    assert compare(texts).independence["mean"] > apart["mean"] + 0.02


def test_compare_collapse() -> None:
    text = sample(1, SEED)[0].text
    result = compare([text] * 200)
    assert result.valid == 1 and result.distinct == 1 / 200
    assert result.slot_tv["mean"] > 4 * result.slot_tv["by_slot"]["companion"]["floor"]
    assert result.slot_tv["by_slot"]["companion"]["tv"] == pytest.approx(11 / 12)


def test_compare_bad_texts() -> None:
    text = sample(1, SEED)[0].text
    result = compare([text, text.lower(), "", "nothing here"])
    assert result.valid == 0.25 and result.errors["case"] == 0.5 and result.errors["empty"] == 0.25
    nothing = compare([""])
    assert nothing.valid == 0 and nothing.slot_tv["mean"] == 1
    with pytest.raises(ValueError, match="empty"):
        compare([])
