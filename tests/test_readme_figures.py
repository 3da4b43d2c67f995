"""What README shows of measurements is what stands in docs/lab/results, and its pictures are drawn of them."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def benchmark(name):
    found = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_block_of_figures_is_what_was_measured():
    assert benchmark("readme").filled(README) == README, "python benchmarks/readme.py puts the figures in"


def test_a_readme_without_its_markers_is_refused():
    with pytest.raises(SystemExit, match="README has 0 blocks english"):
        benchmark("readme").filled("# latdiff")


@pytest.mark.parametrize("name", ["pipeline.svg", "strip.svg"])
def test_the_pictures_are_those_of_the_script(name):
    drawn = benchmark("pictures").drawn()[name]
    assert (ROOT / "docs" / "images" / name).read_text(encoding="utf-8") == drawn, "python benchmarks/pictures.py"
    root = ET.fromstring(drawn)
    assert root.find("{http://www.w3.org/2000/svg}title").text
    assert f"docs/images/{name}" in README


def test_figures_stand_in_blocks_alone():
    """A measured share or distance outside of them would be nobody's; sizes, versions and counts are not measured."""
    prose = re.sub(r"<!--(\w+):.*?<!--/\1-->", "", README, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    assert re.findall(r"\d+(?:\.\d+)? %|(?<![\w.])0?\.\d+", prose) == []


def test_it_is_short():
    assert len(README.split()) <= 900
