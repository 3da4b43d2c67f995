"""Every recipe is really killed, told to stop, and given again; the same is in the end what an undisturbed run leaves.

`make soak` does it two hundred times.
"""

import os
import random
import signal
import time

import pytest
from safetensors import safe_open
from soak.kills import JOBS, Job, Soak

from latdiff.training import SAVE_EVERY


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("soak") / "work")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_recipe_that_was_killed_goes_on_and_ends_the_same(soak, job):
    kills, wrong = soak.trial(job, random.Random(job.name), by_time=False)
    assert kills and not wrong


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_saves_first(soak, number, status):
    job = Job("endless", "train_ar", settings=("train_ar.steps=1000000",), after="pretrain-backbone")
    folder = soak.root / f"stopped-{status}"
    state = folder / "checkpoints" / "tiny-ar" / "train" / "ar.safetensors"
    process = soak.begin(job, folder)
    for _ in range(1200):
        if state.exists():
            break
        time.sleep(0.1)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status
    with safe_open(state, "pt") as file:
        assert int(file.metadata()["step"]) > SAVE_EVERY
