"""`latdiff sample --output` is really killed, told to stop, and given again; the file is that of an undisturbed run."""

import os
import random
import signal
import time

import pytest
from sampling_runs import CONTEXT, begin

FLAGS = ("--seed", 3, "--guide", "tense=past:2")


@pytest.mark.parametrize("ending", [".jsonl", ".txt"])
def test_a_killed_command_goes_on_and_leaves_the_file_of_an_undisturbed_one(talking, tmp_path, ending):
    flags, count = (talking, "--num-samples", 14, *FLAGS, "--output"), CONTEXT.Value("i")
    whole, killed = tmp_path / "whole" / f"texts{ending}", tmp_path / "killed" / f"texts{ending}"
    process = begin((*flags, whole), whole.parent, 0, count)
    process.join()
    assert process.exitcode == 0 and len(set(whole.read_text(encoding="utf-8").splitlines())) == 14
    rng, kills = random.Random(ending), 0
    for _ in range(6):
        process = begin((*flags, killed), killed.parent, rng.randint(1, count.value))
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    process = begin((*flags, killed), killed.parent)
    process.join()
    assert kills and process.exitcode == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in killed.parent.iterdir()) == [killed.name, f"{killed.name}.settings.json"]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_asked_to_stop_keeps_what_is_finished(talking, tmp_path, number, status):
    output = tmp_path / "texts.txt"
    process = begin((talking, "--num-samples", 10**9, "--output", output), tmp_path)
    parts = tmp_path / "texts.txt.parts"
    while not any(parts.glob("0000000-*.txt")) and process.is_alive():
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(60)
    process.kill()
    assert process.exitcode == status and any(parts.glob("0000000-*.txt")) and not output.exists()
