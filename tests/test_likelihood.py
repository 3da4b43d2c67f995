"""The exact probability of a story: its entropy, the choices of the generator, sums over enumerable parts."""

import math
import statistics

import pytest

from latdiff.storyworld import ATTRIBUTES, grammar, log_prob, sample
from latdiff.storyworld.frames import FRAMES
from latdiff.storyworld.grammar import frame_options, slot_values, tell, weather_wordings
from latdiff.storyworld.lexicon import TIMES

STORY = sample(1, seed=3, person="third")[0]


def test_the_mean_is_the_entropy_of_the_grammar():
    found = [log_prob(story.text) for story in sample(400, seed=11)]
    assert statistics.mean(found) == pytest.approx(-33.04, abs=3 * 2.8 / math.sqrt(400))
    assert statistics.stdev(found) == pytest.approx(2.8, abs=0.4)


def test_it_sums_the_choices_that_the_generator_makes(monkeypatch):
    counts = []
    pick = grammar._pick
    monkeypatch.setattr(grammar, "_pick", lambda values, draw: counts.append(len(values)) or pick(values, draw))
    for seed in range(60):
        counts.clear()
        story = sample(1, seed=seed)[0]
        words = dict(zip(grammar.WORD_SLOTS, counts[len(ATTRIBUTES):], strict=False))
        unused = [count for slot, count in words.items() if slot not in story.slots]
        expected = sum(map(math.log, unused)) - sum(map(math.log, counts))
        assert log_prob(story.text) == pytest.approx(expected, abs=1e-9)


def test_the_probabilities_of_all_openings_sum_to_that_of_the_rest():
    rest = {k: v for k, v in STORY.slots.items() if k not in ("time", "opening_frame", "weather_wording")}
    total, texts = 0.0, set()
    for number, frame in enumerate(FRAMES["opening"], 1):
        for wording in weather_wordings(STORY.attributes["weather"], frame):
            for time in TIMES if "TIME" in frame.text else (None,):
                words = {"opening_frame": str(number), "weather_wording": wording} | ({"time": time} if time else {})
                texts.add(text := tell(STORY.attributes, rest | words))
                total += math.exp(log_prob(text))
    others = [*map(len, ATTRIBUTES.values())]
    others += [len(slot_values(slot, STORY.attributes, rest)) for slot in grammar.WORD_SLOTS if slot in rest]
    others += [len(frame_options(role, STORY.attributes["sentiment"]))
               for role in grammar.PLANS[STORY.attributes["length"]][1:]]
    assert len(texts) > len(FRAMES["opening"])
    assert total == pytest.approx(1 / math.prod(others), rel=1e-9)


@pytest.mark.parametrize("slot", ["name", "companion", "place", "object", "adjective", "goal_verb", "feeling"])
def test_the_values_of_one_slot_are_equally_likely(slot):
    values = slot_values(slot, STORY.attributes, STORY.slots)
    found = [log_prob(tell(STORY.attributes, STORY.slots | {slot: value})) for value in values]
    assert found == pytest.approx([log_prob(STORY.text)] * len(values), abs=1e-9)


@pytest.mark.parametrize("text", [
    "", " ", "Hello.", STORY.text[:-1], STORY.text + " ", STORY.text.lower(), STORY.text.split(". ")[0] + ".",
    f"{STORY.text} {STORY.text}",
])
def test_a_text_that_is_no_story_is_impossible(text):
    assert log_prob(text) == -math.inf
