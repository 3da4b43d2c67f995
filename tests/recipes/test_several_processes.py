"""Two processes train what one trains: every recipe, every step's loss; and what becomes of those that stop or die."""

import re
import shutil
import signal
from dataclasses import replace

import pytest
from safetensors import safe_open
from several import (
    asked_in_the_last_save,
    latents_unseen,
    losses,
    other_texts,
    other_weights,
    slow_to_save,
    together,
)
from soak.kills import JOBS, Soak

# in bfloat16 Muon makes more of a gradient's rounding
ALL = {job.name: replace(job, settings=(*job.settings, "dtype=float32")) for job in JOBS}
RESUMED = ALL["train-diffusion"]
BACKBONE = ALL["pretrain-backbone"]  # with a part of the loss that is measured over all rows
ALL[BACKBONE.name] = replace(BACKBONE, settings=(*BACKBONE.settings, "pretrain_backbone.feature_noise=2"))


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("several") / "work")


@pytest.fixture(scope="module")
def alone(soak):
    """alone(job): the folder of a run of one process, made the first time."""

    def folder(job):
        place = soak.root / "alone" / job.name
        if not place.exists():
            shutil.copytree(soak.before(job), place)
            assert together(soak, job, place, 1) == [0]
        return place

    return folder


@pytest.fixture
def begun(soak, tmp_path):
    """begun(job): a folder to train in."""
    return lambda job: shutil.copytree(soak.before(job), tmp_path / "work")


@pytest.mark.parametrize("job", ALL.values(), ids=ALL)
def test_two_processes_have_the_losses_of_one_at_every_step(soak, alone, begun, job):
    folder, one = begun(job), alone(job)
    assert together(soak, job, folder, 2) == [0, 0]
    expected = losses(one)
    assert len(expected) > 2
    for index in (0, 1):
        assert losses(folder, index) == pytest.approx(expected, abs=1e-4)
    files = [sorted(path.relative_to(place) for path in place.rglob("*")) for place in (folder, one)]
    assert {path for path in files[0] if path.name != "losses-1.jsonl"} == set(files[1])


def test_so_have_three_that_share_a_batch_unequally(soak, alone, begun):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, 3) == [0, 0, 0]
    assert losses(folder) == pytest.approx(losses(alone(RESUMED)), abs=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(soak, alone, begun):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, 2, at=(1, 2, signal.SIGTERM)) == [143, 143]
    assert sorted(losses(folder)) == [("denoiser", step) for step in (0, 1, 2, 3)]  # the other hears of it with step 3
    assert together(soak, RESUMED, folder, 1) == [0]
    assert losses(folder) == pytest.approx(losses(alone(RESUMED)), abs=1e-4)


@pytest.mark.parametrize("name, stage", [("train-diffusion", "denoiser"), ("train-ae", "autoencoder")])
def test_a_process_that_dies_ends_the_others_with_a_sentence_and_loses_no_step(soak, alone, begun, name, stage):
    """Whether they wait for it with their gradients, or, in whitening, for its rows."""
    job, folder = ALL[name], begun(ALL[name])
    codes = together(soak, job, folder, 2, at=(1, 3, signal.SIGKILL), ends_others=False)
    assert codes == [1, -signal.SIGKILL]
    assert "the other processes cannot be reached" in (folder / "error-0.txt").read_text(encoding="utf-8")
    with safe_open(folder / "checkpoints" / "tiny" / "train" / f"{stage}.safetensors", "pt") as state:
        assert int(state.metadata()["step"]) == 4
    assert together(soak, job, folder, 1) == [0]
    assert losses(folder) == pytest.approx(losses(alone(job)), abs=1e-4)


def test_all_begin_with_the_weights_of_the_first(soak, alone, begun):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, 2, change=other_weights) == [0, 0]
    assert losses(folder) == pytest.approx(losses(alone(RESUMED)), abs=1e-4)


def test_latents_that_one_does_not_see_yet_hold_nobody_up(soak, alone, begun):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, 1, at=(0, 2, signal.SIGTERM)) == [143]
    assert together(soak, RESUMED, folder, 2, change=latents_unseen) == [0, 0]
    assert losses(folder) == pytest.approx(losses(alone(RESUMED)), abs=1e-4)


def test_a_save_that_takes_long_is_waited_for(soak, begun):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, 2, at=(0, 1, signal.SIGTERM), change=slow_to_save) == [143, 143]
    with safe_open(folder / "checkpoints" / "tiny" / "train" / "denoiser.safetensors", "pt") as state:
        assert int(state.metadata()["step"]) == 3  # the other hears of it with the next step


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_during_the_last_save_ends_the_command(soak, alone, begun, count):
    folder = begun(RESUMED)
    assert together(soak, RESUMED, folder, count, change=asked_in_the_last_save) == [143] * count
    assert not (folder / "checkpoints" / "tiny" / "model_index.json").exists()
    assert together(soak, RESUMED, folder, count) == [0] * count
    assert losses(folder) == pytest.approx(losses(alone(RESUMED)), abs=1e-4)


@pytest.mark.parametrize("name, other, change, said", [
    ("pretrain-backbone", "seed=0", other_texts, "the digest of the training texts is .* here, .* there"),
    ("train-diffusion", "seed=1", None, "seed was 0, is 1"),
    ("train-diffusion", "train_denoiser.learning_rate=0.5", None, "train_denoiser is .*0.5.* here"),
])
def test_processes_that_were_given_other_things_are_refused(soak, begun, name, other, change, said):
    folder, job = begun(ALL[name]), ALL[name]
    others = replace(job, settings=(*job.settings, other))
    assert together(soak, job, folder, 2, change=change, others=others)[1] == 1
    assert re.search(said, (folder / "error-1.txt").read_text(encoding="utf-8"))


def test_a_batch_that_does_not_go_round_is_refused(soak, begun):
    small = replace(RESUMED, settings=(*RESUMED.settings, "train_denoiser.batch_size=1"))
    folder = begun(small)
    assert together(soak, small, folder, 2, ends_others=False) == [1, 1]
    assert "a batch of train_denoiser has 1 rows for 2 processes; raise train_denoiser.batch_size" in (
        folder / "error-0.txt").read_text(encoding="utf-8")
