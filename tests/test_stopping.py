"""What becomes of a process that is asked to stop."""

import os
import signal
import subprocess
import sys

import pytest

from latdiff.errors import UserError, plain_errors
from latdiff.stopping import Stopped, Stopping


def ask(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_a_loop_the_process_ends_at_once(number, status, capsys):
    with pytest.raises(Stopped) as error, Stopping().heeded():
        ask(number)
    assert error.value.code == status
    assert capsys.readouterr().err.strip() == "stopped; the same command goes on"


def test_a_loop_is_left_to_heed_a_signal_and_a_later_one_does_not_wait(monkeypatch):
    monkeypatch.setattr("latdiff.stopping.ONCE", 0)
    stopping = Stopping()
    with pytest.raises(Stopped), stopping.heeded():
        stopping.in_loop = True
        ask(signal.SIGTERM)
        assert stopping.received == signal.SIGTERM
        ask(signal.SIGINT)


def test_signals_of_one_moment_are_one_as_a_launcher_passes_on_what_the_terminal_has_sent():
    stopping = Stopping()
    with stopping.heeded():
        stopping.in_loop = True
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            ask(number)
        assert stopping.received == signal.SIGINT


def test_one_of_several_processes_says_that_all_have_stopped(monkeypatch, capsys):
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        assert Stopped(signal.SIGTERM).code == 143
    assert capsys.readouterr().err.count("stopped") == 1


def test_handlers_are_put_back_and_nothing_is_left_for_the_next(capsys):
    before, stopping = signal.getsignal(signal.SIGINT), Stopping()
    with pytest.raises(ValueError), stopping.heeded(), stopping.heeded():
        stopping.in_loop = True
        ask(signal.SIGTERM)
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is before
    with stopping.heeded():
        assert (stopping.received, stopping.in_loop) == (0, False)


@pytest.mark.parametrize("error, status", [
    (UserError("wrong"), "error: wrong"), (KeyboardInterrupt(), 130),
    (PermissionError(13, "Permission denied", "/etc/passwd"), "error: /etc/passwd: Permission denied"),
])
def test_commands_end_without_a_traceback(error, status):
    with pytest.raises(SystemExit) as ended, plain_errors():
        raise error
    assert ended.value.code == status


def test_a_warning_of_a_command_is_a_sentence_without_a_line_of_source():
    code = ("import warnings\nfrom latdiff.errors import plain_errors\nwith plain_errors():\n"
            "    warnings.warn('a label is missing')\n    warnings.warn('will change', FutureWarning)\n"
            "warnings.warn('elsewhere')")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    command, future, elsewhere = ended.stderr.splitlines()
    assert command == "warning: a label is missing"
    assert "FutureWarning: will change" in future and "UserWarning: elsewhere" in elsewhere


def test_errors_of_the_system_that_name_no_file_are_not_hidden():
    with pytest.raises(OSError, match="odd"), plain_errors():
        raise OSError("odd")


def test_a_pipe_that_is_closed_ends_a_command_quietly():
    code = "from latdiff.errors import plain_errors\nwith plain_errors():\n    while True: print('line')"
    command = f"{sys.executable} -c \"{code}\" | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("line\n", "", 141)
