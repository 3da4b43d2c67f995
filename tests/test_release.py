"""What a release consists of agrees with itself: versions, the citation, the workflow, the sdist, CONTRIBUTING."""

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml
from packing import tracked_copy, wheel_of

import latdiff
from latdiff.config import STAGES

ROOT = Path(__file__).resolve().parents[1]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_all_say_the_same_version():
    setup = configparser.ConfigParser()
    setup.read_string(text_of("setup.cfg"))
    citation = yaml.safe_load(text_of("CITATION.cff"))
    newest = re.search(r"^## (\S+?),? ", text_of("CHANGELOG.md"), re.MULTILINE)
    assert {setup["metadata"]["version"], citation["version"], newest[1]} == {latdiff.__version__}


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"] and citation["license"] == "Apache-2.0"
    for work in (citation, *citation["references"]):
        assert work["title"] and all(one.get("name") or one.get("family-names") for one in work["authors"])


def test_the_workflow_publishes_what_the_script_built_of_a_tag():
    workflow = yaml.safe_load(text_of(".github/workflows/release.yml"))
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` so
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert '.ci/release "$GITHUB_REF_NAME"' in [step.get("run") for step in build["steps"]]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert "password" not in text_of(".github/workflows/release.yml")
    subprocess.run(["bash", "-n", ROOT / ".ci" / "release"], check=True)


def test_the_files_that_contributing_names_are_there():
    page = text_of("CONTRIBUTING.md")
    named = set(re.findall(r"`((?:latdiff|tests|recipes|docs|\.ci|\.github)/[\w./-]*)`", page))
    named -= {"recipes/train_mine.py"}
    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert all(word in page for word in ("## A codec", "## A head", "## A sampler", "## A recipe"))
    assert STAGES["train_sentence"].codec  # what `stage(..., codec=True)` says


def test_the_sdist_alone_makes_the_same_wheel(wheel, tmp_path):
    source, out = tracked_copy(tmp_path / "source"), tmp_path / "out"
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(out)!r}))"
    out.mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (sdist,) = out.glob("latdiff-*.tar.gz")
    assert sdist.stat().st_size < 1.05 * wheel.stat().st_size
    made = (wheel, wheel_of(sdist, out))
    contents = [{one.filename: one.CRC for one in zipfile.ZipFile(file).infolist()} for file in made]
    assert contents[0] == contents[1]
