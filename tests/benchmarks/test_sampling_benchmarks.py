"""Seeds, variances and the cost of guides, measured on a model that has learnt nothing."""

import json
import sys

import pytest
from diffusers import DDPMScheduler

from benchmarks import overhead, seeds, variance
from latdiff.schedule import betas


@pytest.fixture
def measured(checkpoint, tmp_path, monkeypatch, fingerprint):
    """measured(benchmark, *flags) -> its document; the checkpoint is left as it was."""

    def run(benchmark, *flags):
        before, file = fingerprint(checkpoint), tmp_path / "measured.json"
        monkeypatch.setattr(sys, "argv", ["benchmark", str(checkpoint), "--json", str(file), *flags])
        benchmark.main()
        assert fingerprint(checkpoint) == before
        return json.loads(file.read_text(encoding="utf-8"))

    return run


def test_every_text_of_a_seed_is_compared(measured):
    (row,) = measured(seeds, "--seeds", "1")["rows"]
    assert row == {"seed": 0, "texts": 100, "the same every time": 100}


def test_a_row_for_every_head_mode_and_count(measured):
    rows = measured(overhead, "--counts", "2", "--repeats", "1")["rows"]
    modes = ["x0", "denoiser", "monte-carlo"]  # the heads are not noise-aware
    assert [(row["head"], row["mode"]) for row in rows] == [(h, m) for h in ("sentiment", "tense") for m in modes]
    assert all(row["guided"] / row["unguided"] == row["ratio"] > 0 for row in rows)
    assert all(row["outside the denoiser"] > 0 for row in rows)


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_row_for_every_variance(measured):
    document = measured(variance, "--num-samples", "2", "--seeds", "2")
    assert [row["variance"] for row in document["rows"]] == ["fixed_small", 0.2, 0.5, "fixed_large"]
    assert all(0 <= row["validity"] <= 1 and row["slot_tv_floors"] > 0 for row in document["rows"])


def test_a_variance_between_lies_between_in_the_logarithm():
    own = DDPMScheduler(trained_betas=betas("cosine"))
    found = {}
    for name in ("fixed_small", 0.25, "fixed_large"):
        scheduler = variance.scheduler_of(own, name)
        scheduler.set_timesteps(25)
        found[name] = scheduler._get_variance(480).log().item()
    expected = 0.75 * found["fixed_small"] + 0.25 * found["fixed_large"]
    assert found["fixed_small"] < found[0.25] < found["fixed_large"]
    assert found[0.25] == pytest.approx(expected, rel=1e-5)
