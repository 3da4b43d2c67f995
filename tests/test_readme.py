"""The README is run as written: its Python, and the commands and files that it names."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from latdiff import storyworld

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_python_snippet_runs_as_written_on_the_checkpoint_that_comes_with_latdiff(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(snippet, names)
    out, tone = names["out"], names["tone"]
    assert len(out.texts) == 8 and out.latents.shape == (8, *names["pipe"].codec.latent_shape)
    assert list(out.scores) == ["tone=positive", "topic=music"] and len(out.scores["tone=positive"]) == 8
    assert tone.classes_.tolist() == ["negative", "positive"]
    read = [storyworld.read(text) for text in out.texts]
    assert sum({"sentiment": "positive", "topic": "music"}.items() <= one.attributes.items() for one in read) >= 6


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert len(named) >= 4
    assert named <= targets


@pytest.mark.parametrize("given, words", [
    (["head", "CHECKPOINT=runs/my model", "DATA=my reviews.csv", "NAME=tone"],
     ["fit-head", "runs/my model", "--data", "my reviews.csv", "--name", "tone"]),
    (["sample", "RECIPE=exp-v1.0"], ["sample", "checkpoints/exp-v1.0"]),
    (["evaluate", "RECIPE=my recipes/exp v1.yaml", "ARGS=--seed 2"], ["evaluate", "checkpoints/exp v1", "--seed", "2"]),
    (["train-ae", "RECIPE=my recipes/exp.yaml", "ARGS=seed=1 name=x"],
     ["train-ae", "my recipes/exp.yaml", "seed=1", "name=x"]),
])
def test_make_takes_names_with_spaces_and_dots(given, words):
    of_make = {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # make test is make itself
    alone = {name: value for name, value in os.environ.items() if name not in of_make}
    asked = subprocess.run(["make", "--dry-run", *given], cwd=ROOT, env=alone, capture_output=True, text=True,
                           check=True).stdout
    assert shlex.split(asked.splitlines()[-1])[1:] == words


def test_the_module_table_names_every_module():
    modules = {path.name if path.is_file() else f"{path.name}/" for path in (ROOT / "latdiff").iterdir()}
    modules -= {"__init__.py", "__main__.py", "__pycache__/", "py.typed"}
    assert set(re.findall(r"^\| `([\w/.]+)` \|", MAP, re.MULTILINE)) - {"recipes/", "benchmarks/"} == modules


def test_links_within_the_project_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
