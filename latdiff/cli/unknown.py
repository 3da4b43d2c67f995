"""Commands, choices and flags that there are not: what may have been meant, and where those are that there are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import NoReturn

from latdiff.config import STAGES, Recipe
from latdiff.errors import nearest

OTHERS = {"--num-inference-steps": "--steps"}  # names that pipelines have for flags


class Parser(argparse.ArgumentParser):
    """One that says what is wrong without the usage, and of a choice that there is none of the nearest."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.+)' \(choose from (.+)\)", message)
        hint = nearest(found[1], re.findall(r"[\w.-]+", found[2])) if found else ""
        what = "shows its flags" if " " in self.prog else "lists the commands"
        self.exit(2, f"{self.prog}: error: {message}{hint}\n`{self.prog} --help` {what}\n")


def refuse_unknown(options: argparse.Namespace, rest: list[str], words: list[str]) -> NoReturn:
    """Print the words that the subcommand does not know, and exit with status 2.

    Args:
        options: what was understood, with the `parser` of the subcommand.
        rest: the words that were not.
        words: the whole command line.
    """
    flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
    hints = [_flag(options, flag) or ("settings" in options and _setting(options, flag, words)) or "" for flag in flags]
    parser: argparse.ArgumentParser = options.parser
    parser.error(f"unrecognized arguments: {' '.join(rest)}{''.join(dict.fromkeys(hints))}")


def _flag(options: argparse.Namespace, flag: str) -> str:
    """The subcommand's own flag that may have been meant; where there are settings, only another spelling of one."""
    known = [name for name in options.parser._option_string_actions if name.startswith("--")]
    given = flag.replace("_", "-")
    given = OTHERS.get(given, given)
    if "settings" in options and given not in known:
        return ""
    return nearest(given, known)


def _setting(options: argparse.Namespace, flag: str, words: list[str]) -> str:
    """The setting of the recipe that may have been meant, which stands without dashes."""
    known, given = list(_settings_of(getattr(options, "stage", None))), flag.lstrip("-").replace("-", "_")
    named = [name for name in known if name == given or name.endswith(f".{given}")]
    near = f"; did you mean {named[0]}?" if named else nearest(given, known)
    if not near:
        return "; settings stand without dashes, such as seed=3"
    return f"{near[:-1]}={_value_of(flag, words)}? Settings stand without dashes"


def _settings_of(stage: str | None) -> Iterator[str]:
    """Settings of a recipe, the stage's own training first; without a stage, of all."""
    recipe = Recipe.model_validate({})
    sections = STAGES[stage].sections if stage else [*recipe.sections(*STAGES), *recipe.sections()]
    yield from Recipe.model_fields
    for section in reversed(sections):
        yield from (f"{section}.{key}" for key in type(getattr(recipe, section)).model_fields)


def _value_of(flag: str, words: list[str]) -> str:
    """What follows a flag on the command line, "..." where that is nothing or another flag or setting."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and following and not following.startswith("-") and "=" not in following:
            return following
    return "..."
