"""The YAML of recipes: as much of it as settings need, where what is written comes out as it is written.

A number is one only if it would be written the same again, so that the class `01` or `12:30` stays what it is, and a
date, yes and no are texts. Settings that are numbers or true or false read such texts, as `2e-3` and `yes`.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from latdiff.errors import shown

MOST = 100_000  # characters; a longer text is no recipe, and YAML is read slowly
DEEPEST = 20  # levels
WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,29})$")
DECIMAL = re.compile(r"-?[0-9]{1,20}\.[0-9]{1,20}$")


class GivenTwice(ValueError):
    """A setting that a text has twice, of which one would be lost."""


class _Decimal:
    """Matches what float() reads and repr() writes the same again."""

    def match(self, text: str) -> bool:
        return bool(DECIMAL.match(text)) and repr(float(text)) == text


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, tags and aliases, and with few kinds of value."""

    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"line {_line(event)} has the alias *{event.anchor}; write out what it stands for")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"line {_line(event)} has the tag {shown(event.tag)}; write the value without a tag")
        if self.depth == DEEPEST:
            raise yaml.YAMLError(f"line {_line(event)} is nested more than {DEEPEST} deep; settings are three deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {_line(key)} has a list or a section in place of a setting's name")
            if key.value in seen:
                raise GivenTwice(f"{shown(key.value)} is given twice, the second time in line {_line(key)}; keep one "
                                 "of them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1's
for _tag, _pattern, _first in (
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", WHOLE, list("-0123456789")),
    ("float", _Decimal(), list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)  # type: ignore[arg-type]


def parsed(text: str) -> Any:
    """What a text holds: texts, numbers, truth values, lists, and dicts whose keys are texts.

    Raises:
        ValueError: What is wrong, in a sentence.
    """
    if len(text) > MOST:
        raise ValueError(f"it has more than {MOST:,} characters, and a recipe holds a few settings")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("its brackets or lines are nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _line(there) -> int:
    return there.start_mark.line + 1
