"""Two processes train what one trains: every recipe, every step's loss; and what becomes of those that stop or die."""

import shutil
import signal
from dataclasses import replace

import pytest
from safetensors import safe_open
from several import losses, together
from soak.kills import JOBS, Soak

# in bfloat16 Muon makes more of a gradient's rounding
ALL = {job.name: replace(job, settings=(*job.settings, "dtype=float32")) for job in JOBS}
RESUMED = ALL["train-diffusion"]


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
    codes = together(soak, job, folder, 2, at=(1, 3, signal.SIGKILL))
    assert codes == [1, -signal.SIGKILL]
    with safe_open(folder / "checkpoints" / "tiny" / "train" / f"{stage}.safetensors", "pt") as state:
        assert int(state.metadata()["step"]) == 4
    assert together(soak, job, folder, 1) == [0]
    assert losses(folder) == pytest.approx(losses(alone(job)), abs=1e-4)
