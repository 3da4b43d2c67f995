"""A recipe's settings from files and the command line, before they are validated."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import yaml

from latdiff.errors import UserError, nearest

CONFIG_FOLDER = Path(str(resources.files("latdiff.recipes"))) / "configs"
BUNDLED = Path(str(resources.files("latdiff.pretrained")))  # backbones that come with latdiff
RENAMED = {  # settings of older recipes
    ("train_denoiser", "told_nothing"): "condition_dropout",
    ("train_ar", "told_nothing"): "condition_dropout",
}


class RecipeError(UserError):
    """A recipe that cannot run; the message lists every problem, one a line."""


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"{key.value!r} is given twice, the second time in line {line}; keep one of them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def find_recipe(recipe: str) -> Path:
    """The file of a recipe's name or path; raises RecipeError with the nearest name where there is none."""
    path = Path(recipe).expanduser()
    if path.is_file():
        return path
    named = CONFIG_FOLDER / f"{recipe}.yaml"
    if named.is_file():
        return named
    names = sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml"))
    raise RecipeError(
        f"no recipe {recipe!r}: neither a file nor one of {', '.join(names) or 'none'} "
        f"in {CONFIG_FOLDER}{os.sep}{nearest(recipe, names)}"
    )


def read_settings(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """Settings of a recipe file on top of those of its base; `above` are the files that name it as theirs."""
    if path.resolve() in above:
        raise RecipeError(f"{path} is its own base, by way of {' and '.join(map(str, above))}; leave one `base:` out")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # of a date, a key, brackets
        raise RecipeError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(given, dict):
        raise RecipeError(f"{path} must hold settings such as `name: mine`, but holds a {type(given).__name__}")
    _rename(given)
    if "base" not in given:
        return given
    base = str(given.pop("base"))
    beside = path.parent / f"{base}.yaml"
    settings = read_settings(beside if beside.is_file() else find_recipe(base), (*above, path.resolve()))
    settings.pop("name", None)  # is the base's own
    return _on_top(settings, given)


def apply_override(given: dict, override: str, problems: list[str]) -> None:
    """Apply `section.key=value` to the settings; what is wrong with it goes to the problems."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"{override!r}: write it as section.key=value, e.g. train_autoencoder.steps=500")
        return
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    *sections, leaf = key.split(".")
    for section in sections:
        given = given.setdefault(section, {})
        if not isinstance(given, dict):
            problems.append(f"{override!r}: {section} is a single value, not a section")
            return
    given[leaf] = value


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
