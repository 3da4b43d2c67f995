"""Nats beside those of the world: models of known distance from it, and what is said where there is none."""

import math
from types import SimpleNamespace

import pytest
import torch

from latdiff import storyworld
from latdiff.evaluation.generators import Generator
from latdiff.evaluation.likelihood import likelihood
from latdiff.evaluation.report import likelihood_line, summary
from latdiff.nats import Nats
from latdiff.worlds import world

STORIES = [story.text for story in storyworld.sample(40, 11)]
ORACLE = world("storyworld")


class Known(Generator):
    """Needs some nats more than the world for each text.  more: [B];  settings: of `Nats`."""

    settings = {}  # noqa: RUF012

    def __init__(self, more, kind="exact", errors=None):
        self.more, self.kind, self.errors = more, kind, errors

    def generate(self, prompts, n, seed):
        raise AssertionError("nothing is sampled for a likelihood")

    def log_prob(self, texts, seed=0):
        own = torch.tensor([max(storyworld.log_prob(text), -1000.0) for text in texts])
        return Nats(own - self.more, self.kind, self.errors)


def test_the_world_itself_has_no_excess():
    row = likelihood(Known(torch.zeros(40)), STORIES, ORACLE)
    assert row["excess"] == {"mean": pytest.approx(0, abs=1e-5), "standard_error": pytest.approx(0, abs=1e-5)}
    assert row["nats"] == pytest.approx(row["nats_of_world"], abs=1e-4) == pytest.approx(33, abs=2)
    assert (row["n"], row["left_out"], row["kind"]) == (40, 0, "exact")
    assert "sampling_error" not in row


def test_the_excess_is_what_a_model_needs_more_however_much_the_texts_differ():
    more = torch.linspace(1, 4, 40)
    row = likelihood(Known(more), STORIES, ORACLE)
    assert row["excess"]["mean"] == pytest.approx(2.5, abs=1e-4)
    assert row["excess"]["standard_error"] == pytest.approx(more.std().item() / math.sqrt(40), abs=1e-4)
    words = sum(len(text.split()) for text in STORIES)
    assert row["nats_per_word"] == pytest.approx(row["nats"] * 40 / words, rel=1e-6)


def test_a_bound_by_sampling_has_the_error_of_the_sampling_beside_that_over_texts():
    row = likelihood(Known(torch.ones(40), "bound", torch.full((40,), 0.5)), STORIES, ORACLE)
    assert row["sampling_error"] == pytest.approx(0.5 / math.sqrt(40))
    assert row["kind"] == "bound"
    assert likelihood_line(row) == (
        f"likelihood of 40 unseen texts: ≤ {row['nats']:.2f} nats a text, ≤ {row['nats_per_word']:.3f} a word; excess "
        f"≤ 1.00 ± 0.00 over the world's own {row['nats_of_world']:.2f} (bound)")


def test_texts_that_cannot_be_read_are_counted_and_left_out():
    more = torch.ones(40)
    more[3], more[5] = torch.nan, torch.nan
    row = likelihood(Known(more, "bound", more), STORIES, ORACLE)
    assert (row["n"], row["left_out"]) == (38, 2)
    assert row["excess"]["mean"] == pytest.approx(1, abs=1e-4)
    assert row["sampling_error"] == pytest.approx(1 / math.sqrt(38))
    assert "(2 left out)" in likelihood_line(row)
    assert likelihood(Known(torch.nan), STORIES, ORACLE) == {}


@pytest.mark.parametrize("oracle, texts", [(None, STORIES), (ORACLE, [text.split(". ", 1)[1] for text in STORIES])])
def test_texts_of_no_world_have_nats_without_an_excess(oracle, texts):
    row = likelihood(Known(torch.ones(len(texts))), texts, oracle)
    assert set(row) == {"n", "left_out", "kind", "nats", "nats_per_word"}
    assert likelihood_line(row).endswith(f"{row['nats']:.2f} nats a text, {row['nats_per_word']:.3f} a word (exact)")


def test_a_single_text_has_no_standard_error():
    row = likelihood(Known(torch.ones(1)), STORIES[:1], ORACLE)
    assert row["excess"] == {"mean": pytest.approx(1, abs=1e-4)}
    assert "excess 1.00 over" in likelihood_line(row)


def test_a_generator_without_a_likelihood_says_nothing():
    class Silent(Known):
        log_prob = Generator.log_prob

    assert likelihood(Silent(0), STORIES, ORACLE) == {}
    assert summary({}) == ""


def test_the_seed_is_a_sampled_bounds():
    asked = SimpleNamespace(log_prob=lambda texts, seed: Nats(-torch.full((len(texts),), 1.0 + seed), "bound"))
    assert [likelihood(asked, ["a b"], None, seed)["nats"] for seed in (0, 4)] == [1, 5]
