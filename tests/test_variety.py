"""Texts that guides have made much the same are noticed, and good ones are not complained of."""

import warnings
from types import SimpleNamespace

import pytest

from latdiff import fit_head, storyworld
from latdiff.heads.variety import shared_runs, warn_of_likeness

SAME = ["we met at the old lake on Monday", "we met at the old lake on Sunday"]


def head(**report):
    return SimpleNamespace(name="tone", report=report)


def silent(texts, heads):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_likeness(texts, heads)


def test_what_two_texts_share_is_counted_in_runs_of_four_words():
    assert shared_runs(SAME) == pytest.approx(4 / 5)
    assert shared_runs(["a b c d e", "A B C D"]) == 1  # of the shorter one, and letter case does not count
    assert shared_runs(["a b c d", "a b c e", "a b c d"]) == pytest.approx(1 / 3)
    assert shared_runs(["one", "two", "one"]) == pytest.approx(1 / 3)
    assert shared_runs([]) == shared_runs(["alone"]) == shared_runs(["", "other words"]) == 0
    assert shared_runs(SAME * 500) > 0.8


def test_alike_texts_are_said_to_be_with_how_alike_labelled_ones_are():
    with pytest.warns(UserWarning, match=r"4 steered texts are much alike: two of them share \d+ % of their runs of 4 "
                                         r"words, among labelled texts 2 %. Lower scales, such as tone=LABEL:SCALE"):
        warn_of_likeness(SAME * 2, [head(alike=0.02)])
    with pytest.warns(UserWarning, match=r"of 4 words\. Lower scales"):
        warn_of_likeness(SAME * 2, [SimpleNamespace(name="tone")])  # a head that nobody has fitted


def test_nothing_is_said_of_few_texts_of_unsteered_ones_and_where_labelled_texts_are_alike_themselves():
    silent(SAME, [head(alike=0.0)])
    silent(SAME * 2, [])
    silent(SAME * 2, [head(alike=0.4), head(alike=0.0)])


@pytest.mark.parametrize("fixed", [{}, {"topic": "pets"}, {"topic": "pets", "sentiment": "positive", "tense": "past"}])
def test_real_stories_are_not_alike_whatever_they_have_in_common(fixed):
    texts = [story.text for story in storyworld.sample(64, 3, **fixed)]
    assert shared_runs(texts) < 0.06
    silent(texts, [head()])


def test_a_pipeline_says_so_of_its_steered_texts_alone(pipe, stories):
    """After so few steps it writes the same, whatever the latents are."""
    texts, labels = zip(*stories, strict=True)
    tone = fit_head(pipe.codec, texts, labels, name="tone")
    assert tone.report["alike"] == shared_runs(texts) < 0.06
    with pytest.warns(UserWarning, match="the 4 steered texts are much alike"):
        pipe(num_samples=4, guides=tone.toward("positive"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe(num_samples=4)
        pipe(num_samples=4, guides=tone.toward("positive"), output_type="latent")
    assert not [one for one in caught if "much alike" in str(one.message)]
