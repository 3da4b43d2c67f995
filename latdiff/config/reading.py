"""A recipe's settings from files and the command line, before they are validated."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from latdiff.config.yaml_text import MOST, GivenTwice, parsed
from latdiff.errors import UserError, nearest, shown

CONFIG_FOLDER = Path(str(resources.files("latdiff.recipes"))) / "configs"
BUNDLED = Path(str(resources.files("latdiff.pretrained")))  # backbones that come with latdiff
MOST_OF_ONE = 10_000  # characters of a setting on the command line
RENAMED = {  # settings of older recipes
    ("train_denoiser", "told_nothing"): "condition_dropout",
    ("train_ar", "told_nothing"): "condition_dropout",
}


class RecipeError(UserError):
    """A recipe that cannot run; the message lists every problem, one a line."""


def find_recipe(recipe: str) -> Path:
    """The file of a recipe's name or path; raises RecipeError with the nearest name where there is none."""
    for path in (_at_home(recipe), CONFIG_FOLDER / f"{recipe}.yaml"):
        if is_file(path):
            return path
    names = sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml"))
    raise RecipeError(
        f"no recipe {shown(recipe, 200)}: neither a file nor one of {', '.join(names) or 'none'} "
        f"in {CONFIG_FOLDER}{os.sep}{nearest(recipe, names)}"
    )


def read_settings(path: Path, above: tuple[Path, ...] = (), saved: bool = False) -> dict:
    """Settings of a recipe file on top of those of its base.

    Args:
        path: of the file.
        above: the files that name it as their base.
        saved: whether it lies in a checkpoint, which may come from anyone, and opens no other file here.
    """
    if path.resolve() in above:
        raise RecipeError(f"{path} is its own base, by way of {' and '.join(map(str, above))}; leave one `base:` out")
    try:
        with path.open("rb") as file:
            content = file.read(4 * MOST + 1)  # a character has 4 bytes at most
        given = parsed(content.decode("utf-8")) or {}
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path} is not readable YAML: line {line} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise RecipeError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(given, dict):
        raise RecipeError(f"{path} must hold settings such as `name: mine`, but holds a {type(given).__name__}")
    given = {str(key): value for key, value in given.items()}
    _rename(given)
    if "base" not in given:
        return given
    base = str(given.pop("base"))
    if saved:
        raise RecipeError(f"{path} would have {shown(base, 200)} read as its base; a checkpoint may come from anyone, "
                          "and its recipe opens no other file: write out what the base stands for, which `latdiff "
                          "check-config` prints, and leave `base:` out")
    beside = path.parent / f"{base}.yaml"
    settings = read_settings(beside if is_file(beside) else find_recipe(base), (*above, path.resolve()))
    settings.pop("name", None)  # is the base's own
    return _on_top(settings, given)


def apply_override(given: dict, override: str, problems: list[str]) -> None:
    """Apply `section.key=value` to the settings; what is wrong with it goes to the problems."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"{shown(override, 200)}: write it as section.key=value, e.g. train_autoencoder.steps=500")
        return
    if len(override) > MOST_OF_ONE:
        problems.append(f"{shown(override)}: has {len(override):,} characters, must have {MOST_OF_ONE:,} at most")
        return
    try:
        value = parsed(text) if text else ""
    except GivenTwice as error:
        problems.append(f"{shown(override, 200)}: {error}")
        return
    except ValueError:
        value = text  # with a bracket or a colon, as a path may have
    *sections, leaf = key.split(".")
    for section in sections:
        given = given.setdefault(section, {})
        if not isinstance(given, dict):
            problems.append(f"{shown(override, 200)}: {shown(section)[1:-1]} is a single value, not a section")
            return
    given.update(_on_top(given, {leaf: value}))


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # of ~nobody, who has no home, and ~ with a NUL behind it
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether there is such a file, also for a path that no file can have."""
    try:
        return path.is_file()
    except OSError:  # too long a name, or a folder that may not be entered
        return False


def _rename(given: dict) -> None:
    for (section, old), new in RENAMED.items():
        settings = given.get(section)
        if isinstance(settings, dict) and old in settings:
            settings.setdefault(new, settings.pop(old))


def _on_top(settings: dict, given: dict) -> dict:
    """Settings with those given in their place, section by section."""
    merged = dict(settings)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        merged[key] = _on_top(settings[key], value) if both else value
    return merged
