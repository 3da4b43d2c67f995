"""The exact probability of first words: of all of a story, of none, by sampling, and what it says of attributes."""

import math

import pytest

from latdiff.storyworld import log_prob, prefix_log_prob, sample

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
