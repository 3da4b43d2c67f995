"""What a message of a user's mistake is, whatever was given."""

import os
import pickle
import subprocess
import sys

import pytest

from latdiff.errors import LONGEST, UserError
from latdiff.pipelines.files import open_checkpoint


def test_a_message_keeps_its_beginning_and_its_advice_whatever_it_quotes():
    error = UserError(f"x is {'9' * 100_000}, must be less; copy it again")
    assert len(str(error)) <= LONGEST
    assert str(error).startswith("x is 9") and str(error).endswith("9, must be less; copy it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UserError("of 9 rows 3 are blank")) == "of 9 rows 3 are blank"


@pytest.mark.parametrize("index", [
    '{"_class_name": ["%s"]}', '{"_class_name": "P", "%s ": ["latdiff", "P"]}', '{"_class_name": "P", "p": ["%s"]}',
    '{"_class_name": "P", "num_inference_steps": "%s"}',
])
def test_what_an_index_names_is_quoted_in_short(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index % ("x" * 20_000))
    with pytest.raises(UserError, match=r"model_index\.json .*xxx.*must be") as raised:
        open_checkpoint(tmp_path)
    assert len(str(raised.value)) < 600


def ended(code, output):
    """Status and complaints of a program within `plain_errors` that prints to a file descriptor."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = f"from latdiff.errors import *\nwith plain_errors():\n    {code}"
    run = subprocess.run([sys.executable, "-c", program], stdout=output, stderr=subprocess.PIPE, text=True,
                         env=environment)
    return run.returncode, run.stderr


PRINTS = {"little": "print('a')", "much": "print('a' * 100_000)", "and fails": "print('a'); raise UserError('no')",
          "and ends": "print('a'); raise SystemExit(0)"}


@pytest.mark.parametrize("code", PRINTS.values(), ids=PRINTS)
def test_a_pipe_that_is_closed_is_no_error_and_python_does_not_complain(code):
    reading, writing = os.pipe()
    os.close(reading)
    assert ended(code, writing) == (141, "")
    os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("code", PRINTS.values(), ids=PRINTS)
def test_output_that_a_full_disk_does_not_take_is_one_sentence(code):
    with open("/dev/full", "wb") as full:
        assert ended(code, full) == (1, "error: the output could not be written (No space left on device); free some "
                                        "space, and give the same command again\n")


def test_a_program_without_any_output_ends_as_ever():
    assert ended("sys.stdout.close(); sys.stdout = None; print('a')", subprocess.DEVNULL) == (0, "")
