"""What the command says of itself: help with examples, exit statuses, completion; all of it before torch is loaded."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

from latdiff import __version__, cli
from latdiff.cli.examples import EXAMPLES
from latdiff.config import STAGES, load_recipe

COMMANDS = cli.parser()._subparsers._group_actions[0].choices
LINES = [(command, line) for command, lines in EXAMPLES.items() for line in lines]
needs_shtab = pytest.mark.skipif(not importlib.util.find_spec("shtab"), reason="shtab is not installed")


def run(*words, code=("-m", "latdiff"), **settings):
    return subprocess.run([sys.executable, *code, *words], capture_output=True, text=True, check=False, **settings)


def test_every_command_has_examples_and_its_help_shows_them(capsys):
    assert set(EXAMPLES) == set(COMMANDS), "give each command of cli/ examples in cli/examples.py"
    for command, lines in EXAMPLES.items():
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and all(f"\n  {line}\n" in said for line in lines)


@pytest.mark.parametrize("command, line", LINES, ids=[line for _, line in LINES])
def test_an_example_is_understood(command, line):
    words = shlex.split(line)
    words = words[words.index("latdiff") + 1 :]
    options, rest = cli.parser().parse_known_args(words)
    assert words[0] == command and not [word for word in rest if "=" not in word]
    if command in [stage.command for stage in STAGES.values()] and not options.recipe.endswith(".yaml"):
        load_recipe(options.recipe, [*options.settings, *rest])


def test_help_is_shown_before_anything_heavy_is_loaded():
    code = ("import sys\nfrom latdiff.__main__ import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(sorted({'torch', 'transformers', 'diffusers', 'numpy', 'shtab'} & set(sys.modules)))")
    for words in (["--help"], ["sample", "--help"], ["--version"]):
        assert run(*words, code=("-c", code)).stdout.splitlines()[-1] == "[]"


def test_it_is_a_module_as_well_and_tells_its_version():
    assert run("--version").stdout == f"latdiff {__version__}\n"


@pytest.mark.parametrize("words, status, said", [
    (["check-config", "storyworld"], 0, ""),
    (["check-config", "nowhere"], 1, "error: no recipe 'nowhere'"),
    (["sample", "checkpoints/none", "--guide", "tone"], 1, "error: --guide is 'tone', must be HEAD=LABEL"),
    ([], 2, "`latdiff --help` lists"), (["smaple"], 2, "invalid choice: 'smaple'"),
    (["sample"], 2, "`latdiff sample --help` shows"),
    (["check-config", "storyworld", "--speed"], 2, "unrecognized arguments: --speed"),
])
def test_an_exit_status_means_what_help_says(words, status, said):
    ended = run(*words)
    assert ended.returncode == status and said in ended.stderr and "Traceback" not in ended.stderr
    assert f"\n  {status} " in cli.parser().epilog


def test_ctrl_c_while_the_command_is_still_loading_prints_no_traceback():
    code = ("import sys\nfrom latdiff.__main__ import main\nclass Now:\n    def find_spec(name, *_):\n"
            "        if name == 'pydantic': raise KeyboardInterrupt\nsys.meta_path.insert(0, Now)\nmain()")
    ended = run("--version", code=("-c", code))
    assert (ended.returncode, ended.stderr) == (130, "\nstopped\n")


@needs_shtab
def test_bash_completes_commands_and_their_flags(tmp_path):
    script = run("--print-completion", "bash").stdout
    (tmp_path / "latdiff").write_text(script, encoding="utf-8")

    def completed(*words):
        code = (f"source {tmp_path / 'latdiff'}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
                "_shtab_latdiff; printf '%s\\n' \"${COMPREPLY[@]}\"")
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert completed("latdiff", "check-").stdout.split() == ["check-config", "check-checkpoint"]
    assert completed("latdiff", "sample", "x", "--gui").stdout.split() == ["--guidance-scale", "--guide"]
    assert completed("latdiff", "sample", "x", "--mode", "d").stdout.split() == ["denoiser"]
    (tmp_path / "checkpoints").mkdir()
    assert completed("latdiff", "sample", "check").stdout.split() == ["checkpoints"]


@needs_shtab
def test_zsh_gets_a_script_that_names_every_command():
    script = run("--print-completion", "zsh").stdout
    assert script.startswith("#compdef latdiff")
    assert all(re.search(rf"\b{command}\b", script) for command in COMMANDS)


def test_completion_without_shtab_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match=r"error: --print-completion needs shtab, .* pip install shtab"):
        cli.main(["--print-completion", "bash"])


@pytest.mark.parametrize("words, meant", [(["sampel"], "sample"), (["check-conf"], "check-config")])
def test_a_command_that_there_is_not_names_the_nearest(words, meant, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert f"; did you mean {meant}?" in capsys.readouterr().err
