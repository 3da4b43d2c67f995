"""The examples in docstrings, run as they stand beside a checkpoint with heads."""

import doctest
import importlib
import pkgutil

import pytest

import latdiff as package

FINDER = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = {
    test.name: test
    for name in [one.name for one in pkgutil.walk_packages(package.__path__, "latdiff.")]
    if not name.endswith("__main__") and not name.startswith("latdiff.recipes")
    for test in FINDER.find(importlib.import_module(name)) if test.examples
}
MAIN = ("open_checkpoint", "load_codec", "load_head", "load_recipe", "fit_head", "sample",
        "LatentTextDiffusionPipeline.__call__", "AttributeHead", "NumberHead", "CallableHead")


@pytest.mark.filterwarnings("ignore:.* texts are cut")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_says(name, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "storyworld").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert doctest.DocTestRunner().run(EXAMPLES[name], out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", MAIN)
def test_every_main_entry_point_has_one(name):
    assert any(one.endswith(f".{name}") for one in EXAMPLES), f"give the docstring of {name} an example that runs"
