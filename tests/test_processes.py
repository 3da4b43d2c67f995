"""Several processes that a launcher begins: what they share, and what is refused."""

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from latdiff import processes
from latdiff.errors import UserError
from latdiff.precision import default_device

EVALUATE = ("--num-samples", "4", "--seeds", "2", "--samplers", "ddim:2", "--quiet", "--json")


def launch(*command):
    """A command in two real processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "latdiff"]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([*torchrun, *map(str, command)], capture_output=True, text=True, check=False, env=settings,
                           timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_two_processes_write_the_texts_of_one(latdiff, talking, tmp_path):
    flags = ("--num-samples", 300, "--steps", 2, "--seed", 3)
    launch("sample", talking, *flags, "--quiet", "--output", tmp_path / "texts.txt")
    assert (tmp_path / "texts.txt").read_text(encoding="utf-8") == latdiff("sample", *flags, folder=talking)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "texts.txt.settings.json"]


def without_pace(value):
    if isinstance(value, dict):
        timed = ("seconds", "texts_per_second", "evaluation_minutes", "processes")
        return {key: without_pace(one) for key, one in value.items() if key not in timed}
    return [without_pace(one) for one in value] if isinstance(value, list) else value


def test_two_processes_measure_the_figures_of_one(latdiff, checkpoint, tmp_path):
    printed = launch("evaluate", checkpoint, *EVALUATE, tmp_path / "two.json")
    assert printed.count("-> ") == 1
    latdiff("evaluate", *EVALUATE, tmp_path / "one.json")
    one, two = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("one.json", "two.json"))
    assert two["processes"] == 2 and without_pace(one) == without_pace(two)


@pytest.mark.parametrize("several", [1, 2, 3, 5])
def test_tasks_are_shared_out_each_once_and_come_back_in_their_order(monkeypatch, several):
    shares = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: shares.append(own) or own)
    for place in range(several):
        state = SimpleNamespace(process_index=place, num_processes=several)
        monkeypatch.setattr("accelerate.PartialState", lambda state=state, **_: state)
        processes.shared_out([lambda task=task: task for task in range(4)])
    assert [task for share in shares for task in share] == [0, 1, 2, 3]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("flags", [
    ("sample",), ("edit", "--text", "A.", "--guide", "tense=past"), ("fit-head", "--data", "x", "--name", "y"),
], ids=lambda flags: flags[0])
def test_commands_of_one_process_refuse_several(refused, monkeypatch, flags):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(*flags)
    assert said.startswith("WORLD_SIZE is 2, but ")
    assert ("--output" in said) == (flags[0] == "sample")


def test_a_process_whose_partner_has_ended_says_so(monkeypatch):
    lost = torch.distributed.DistBackendError("Connection closed by peer")
    with pytest.raises(torch.distributed.DistBackendError), processes.launched():
        raise lost
    monkeypatch.setattr("accelerate.PartialState", lambda **_: SimpleNamespace(is_main_process=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = r"cannot be reached: one has ended, .*\(Connection closed by peer\); the same"
    with pytest.raises(UserError, match=said), processes.launched():
        raise lost
    lost = RuntimeError("[/somewhere/gloo/pair.cc:537] Connection closed by peer [127.0.0.1]:5. It is a long story.")
    with pytest.raises(UserError, match=r"\(Connection closed by peer \[127\.0\.0\.1\]:5\); the same"), \
            processes.peers():
        raise lost
    with pytest.raises(RuntimeError, match="out of memory"), processes.launched():
        raise RuntimeError("out of memory")


def test_a_launcher_that_says_half_is_refused_in_a_sentence():
    """In a process of its own: accelerate asks the environment once."""
    said = "from latdiff.processes import processes\nprocesses()"
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "MASTER_ADDR")}
    ended = subprocess.run([sys.executable, "-c", said], env=alone | {"WORLD_SIZE": "2", "RANK": "0"}, text=True,
                           capture_output=True, check=False, timeout=120)
    assert "ProcessError: WORLD_SIZE is 2, but the processes cannot find each other" in ended.stderr


@pytest.mark.parametrize("asked, device", [("", "cuda"), ("false", "cuda"), ("true", "cpu"), ("yes", "cpu")])
def test_a_gpu_is_left_alone_where_a_launcher_was_told_so(monkeypatch, asked, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    assert default_device() == device


def test_the_others_print_and_warn_of_nothing(monkeypatch, capsys, recwarn):
    for first in (False, True):
        monkeypatch.setattr("accelerate.PartialState", lambda first=first, **_: SimpleNamespace(is_main_process=first))
        with processes.silent_but_main():
            print(f"the first: {first}")
            warnings.warn(f"the first: {first}", stacklevel=1)
    assert capsys.readouterr().out == "the first: True\n"
    assert [str(one.message) for one in recwarn] == ["the first: True"]
