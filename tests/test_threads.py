"""Threads sleep while they wait where other work leaves them no processor, unless the user has chosen."""

import os
import subprocess
import sys

import pytest

from latdiff import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(running, cores): what the system says, on a machine without torch and without choices of the user's."""
    for name in (*threads.CHOICES, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def says(running, cores=2):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        stat = tmp_path / "stat"
        stat.write_text(f"cpu  1 2 3\nprocs_running {running}\nprocs_blocked 0\n", encoding="utf-8")
        return stat

    yield says
    os.environ.pop("OMP_WAIT_POLICY", None)


@pytest.mark.parametrize("running, cores, asleep", [
    (1, 2, False), (2, 2, True), (4, 2, True), (3, 16, True), (1, 16, False),
])
def test_threads_sleep_where_others_leave_them_no_core(machine, running, cores, asleep):
    assert threads.sleep_beside_others(machine(running, cores)) == asleep
    assert os.environ.get("OMP_WAIT_POLICY") == ("PASSIVE" if asleep else None)


def test_fewer_threads_than_cores_leave_room(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not threads.sleep_beside_others(machine(13, 16))
    assert threads.sleep_beside_others(machine(14, 16))


@pytest.mark.parametrize("name, value", [
    ("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000"), ("OMP_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "2,1"),
])
def test_what_the_user_has_chosen_stays(machine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not threads.sleep_beside_others(machine(9))
    assert os.environ.get("OMP_WAIT_POLICY") in (None, "ACTIVE")


def test_it_is_too_late_once_torch_is_loaded(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    assert not threads.sleep_beside_others(machine(9))


def test_a_system_that_does_not_say_what_runs(machine, tmp_path):
    assert threads.others_running(tmp_path / "none") == 0
    (tmp_path / "stat").write_text("cpu 1\n", encoding="utf-8")
    assert threads.others_running(tmp_path / "stat") == 0


def test_the_command_chooses_before_torch_is_loaded():
    code = ("import sys, latdiff.cli, latdiff.threads as threads\n"
            "threads.sleep_beside_others = lambda: print('torch' in sys.modules)\n"
            "latdiff.cli.main(['check-config', 'storyworld'])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("False\n")
