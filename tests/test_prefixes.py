"""The exact probability of first words: of all of a story, of none, by sampling, and what it says of attributes."""

import math
from collections import Counter

import pytest

from latdiff.storyworld import ATTRIBUTES, log_prob, prefix_log_prob, prefix_posterior, sample

STORIES = [story.text for story in sample(3000, seed=21)]
LN2 = math.log(2)


def test_of_a_whole_story_it_is_the_story_s():
    for text in STORIES[:8]:
        assert prefix_log_prob(text) == pytest.approx(log_prob(text), abs=1e-9)


def test_of_no_words_it_is_0_and_of_what_is_no_story_minus_infinity():
    assert prefix_log_prob("") == 0
    for words in ("Once upon", STORIES[0] + " Then", STORIES[0].lower(), " "):
        assert prefix_log_prob(words) == -math.inf


def test_more_words_are_never_likelier():
    words = STORIES[5].split()
    found = [prefix_log_prob(" ".join(words[:count]) + " ") for count in range(1, len(words), 4)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("words", ["It ", "My", "On a ", "In the ", "While the "])
def test_it_is_the_share_of_stories_that_begin_so(words):
    share, found = sum(text.startswith(words) for text in STORIES) / len(STORIES), math.exp(prefix_log_prob(words))
    assert found == pytest.approx(share, abs=4 * math.sqrt(found * (1 - found) / len(STORIES)))
    assert 0.01 < found < 0.4


def test_the_words_behind_an_article_add_up():
    """Every opening that begins "It was a" or "It was an" goes on with one of the adjectives of some weather."""
    adjectives = sorted({text.split()[3].rstrip(",") for text in STORIES if text.startswith("It was a")})
    assert len(adjectives) == 16 and "icy" in adjectives
    both = [f"It was {'an' if word[0] in 'aeiou' else 'a'} {word} " for word in adjectives]
    assert math.fsum(math.exp(prefix_log_prob(words)) for words in both) == pytest.approx(
        math.exp(prefix_log_prob("It was ")), abs=1e-12)


def test_before_the_outcome_both_sentiments_are_equally_likely():
    story = sample(1, seed=3, length="5", person="third")[0].text
    before = ". ".join(story.split(". ")[:3]) + ". "
    by = {mood: prefix_log_prob(before, sentiment=mood) for mood in ("positive", "negative")}
    assert by["positive"] == pytest.approx(by["negative"], abs=1e-12)
    assert prefix_log_prob(before) == pytest.approx(by["positive"], abs=1e-12)
    whole = {mood: prefix_log_prob(story, sentiment=mood) for mood in by}
    assert sorted(whole.values()) == [-math.inf, pytest.approx(log_prob(story) + LN2, abs=1e-9)]


def test_an_unknown_attribute_is_refused():
    with pytest.raises(ValueError, match="no attribute 'mood'"):
        prefix_log_prob("It ", mood="good")


@pytest.mark.parametrize("length, before", [("3", 2), ("4", 3), ("5", 3)])
@pytest.mark.parametrize("sentiment", ["positive", "negative"])
def test_a_sentiment_is_a_half_exactly_until_the_outcome_settles_it(length, before, sentiment):
    story = sample(1, seed=8, length=length, sentiment=sentiment)[0].text
    for count in range(before + 1):
        begun = "".join(f"{sentence}. " for sentence in story.split(". ")[:count])
        assert prefix_posterior(begun, "sentiment") == {"positive": 0.5, "negative": 0.5}
    assert prefix_posterior(story, "sentiment")[sentiment] == 1


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_of_no_words_the_posterior_is_the_prior(attribute):
    values = ATTRIBUTES[attribute]
    assert prefix_posterior("", attribute) == pytest.approx({value: 1 / len(values) for value in values}, abs=1e-12)


@pytest.mark.parametrize("attribute, words", [("weather", "It was a"), ("topic", "It "), ("person", "While "),
                                              ("tense", "It "), ("length", "It ")])
def test_the_posterior_is_the_share_among_stories_that_begin_so(attribute, words):
    values = Counter(story.attributes[attribute] for story in sample(3000, seed=21) if story.text.startswith(words))
    found, n = prefix_posterior(words, attribute), values.total()
    assert n > 100 and list(found) == list(ATTRIBUTES[attribute]) and sum(found.values()) == pytest.approx(1)
    for value, share in found.items():
        assert values[value] / n == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))


def test_words_that_tell_an_attribute_make_it_sure():
    story = sample(1, seed=30)[0]
    opening = story.text.split(". ")[0] + ". "
    for attribute in ("weather", "tense", "person"):
        assert prefix_posterior(opening, attribute)[story.attributes[attribute]] == 1


def test_words_that_begin_no_story_and_attributes_that_there_are_not_have_no_posterior():
    with pytest.raises(ValueError, match="no story begins with 'Once upon'"):
        prefix_posterior("Once upon", "sentiment")
    with pytest.raises(ValueError, match=r"no attribute 'sentimemt'.*did you mean 'sentiment'"):
        prefix_posterior("", "sentimemt")
