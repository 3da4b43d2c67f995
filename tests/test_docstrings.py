"""The public API's docstrings: Google style, one parameter a line, and the parameters that there are."""

import inspect
import re

import pytest

import latdiff

FEW = 3  # parameters that a summary line may explain by itself


def public():
    """Name and object of everything that `latdiff` exports, and of its classes' own public methods."""
    for name in latdiff.__all__:
        found = getattr(latdiff, name)
        if inspect.ismodule(found):
            continue
        yield name, found
        if inspect.isclass(found):
            for method, function in vars(found).items():
                function = function.__func__ if isinstance(function, classmethod) else function
                if not method.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{method}", function


def parameters(found):
    """Names of a signature, without self and catch-alls."""
    signature = inspect.signature(found.__init__ if inspect.isclass(found) else found)
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in signature.parameters.items() if name not in ("self", "cls") and one.kind not in kinds]


def described(docstring):
    """Names in the Args section, in order."""
    section = re.search(r"^Args:\n((?: {4,}.*\n?|\n)+)", docstring, re.MULTILINE)
    return re.findall(r"^ {4}(\w+)(?: \([^)]*\))?:", section[1], re.MULTILINE) if section else []


CASES = dict(public())


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_it_is(name):
    text = inspect.getdoc(CASES[name])
    assert text
    first = text.splitlines()[0]
    assert first[-1] in ".:" and len(first) < 120


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_described_are_those_of_the_signature(name):
    found = CASES[name]
    text = inspect.getdoc(found) or ""
    names, there = described(text), parameters(found)
    if name in ("LatentTextDiffusionPipeline.edit",):  # "as in a call"
        assert set(names) <= set(there)
        return
    assert not names or [one for one in names if one in there] == there, f"described {names}, there is {there}"
    assert names or len(there) <= FEW or "as in" in text or getattr(found, "_is_protocol", False), there
