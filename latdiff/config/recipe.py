"""The recipe: a few settings of its own and the sections that all stages declare."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latdiff.config import stages as stage_files
from latdiff.config.reading import BUNDLED, RecipeError, apply_override, find_recipe, read_settings
from latdiff.config.sections import SECTIONS, STAGES, DataConfig, SamplingConfig, Whole
from latdiff.errors import nearest, shortened, shown, written
from latdiff.storage import write_text

SECTIONS.update(data=DataConfig)
for _found in pkgutil.iter_modules(stage_files.__path__):
    importlib.import_module(f"{stage_files.__name__}.{_found.name}")
SECTIONS.update(sampling=SamplingConfig)
WANTED = {
    "int": "a whole number", "float": "a number", "string": "a text", "tuple": "a list", "finite": "a finite number",
    "bool": "true or false",
}
BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most"),
          "greater_than": ("gt", "above"), "less_than": ("lt", "below")}
MOST_PROBLEMS = 20  # that are listed


class Recipe(BaseModel):
    """One corpus from text to samples, with an attribute for every section that a stage declares."""

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)

    name: str = Field("unnamed", description="folder under `output` that the run writes")
    output: str = Field("checkpoints", description="folder of the runs")
    seed: Whole = Field(0, ge=0, le=2**40, description="seeds every generator")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="data type of training; auto: bfloat16 where the processor multiplies in it")
    wandb_project: str = Field("", description="Weights & Biases project to log the loss to; empty for none")
    codec: str = Field("autoencoder", description="the codec: what recipes/train_NAME.py trains")
    stages: tuple[str, ...] = Field(("train_denoiser",), description="what the recipe is for; their sections, and "
                                    "those of the stages that they build on, are the recipe's")

    def model_post_init(self, context: Any) -> None:
        extra = self.__pydantic_extra__ or {}
        self.__pydantic_extra__ = {name: extra.get(name) or model() for name, model in SECTIONS.items()}
        self.__pydantic_extra__ = {name: one.filled(self) for name, one in self.__pydantic_extra__.items()}

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def folder(self) -> Path:
        """Where the run writes: OUTPUT/NAME."""
        return Path(self.output).expanduser() / self.name

    def located(self, path: str) -> str:
        """Where a path of the recipe leads: t5-mini beside latdiff, checkpoints/NAME in `output`, ~ at home."""
        try:
            if (BUNDLED / path / "config.json").is_file():
                return str(BUNDLED / path)
            own = Path(self.output).expanduser() / path.removeprefix("checkpoints/")
            if path.startswith("checkpoints/") and (own.exists() or not Path(path).exists()):
                return str(own)
            return str(Path(path).expanduser())
        except (OSError, RuntimeError):  # too long a name, a folder that may not be entered, the home of nobody
            return path

    def check_codec(self, codec: str) -> None:
        """Raise RecipeError when the recipe's codec is not the one that a stage trains."""
        if self.codec != codec:
            asked, own = (STAGES[f"train_{name}"].command for name in (codec, self.codec))
            raise RecipeError(f"{self.name}: the recipe's codec is {self.codec!r}, which `latdiff {own}` trains, but "
                              f"`latdiff {asked}` was called; call the former, or set codec={codec}")

    def sections(self, *stages: str) -> list[str]:
        """Names of the sections of stages, by default the recipe's, behind those of the stages that they build on."""
        found: dict[str, None] = {}
        for name in stages or self.stages:
            stage = STAGES[name.format(codec=self.codec)]
            found |= dict.fromkeys(self.sections(*stage.builds)) if stage.builds else {}
            found |= dict.fromkeys(stage.sections)
        return list(found)

    def as_dict(self, *stages: str) -> dict:
        """Plain dicts and lists, ready for YAML: what the stages read, and each section that differs from defaults."""
        wanted = self.sections(*stages)
        top = {name: getattr(self, name) for name in Recipe.model_fields}
        wanted += [name for name, model in SECTIONS.items()
                   if name not in wanted and getattr(self, name) != model().filled(self)]
        below = {name: getattr(self, name) for name in wanted}
        return _plain(top | {name: section.model_dump() for name, section in below.items()})

    def save(self, path: Path, *stages: str) -> None:
        """Write the recipe, defaults included, as YAML."""
        write_text(path, str(yaml.safe_dump(self.as_dict(*stages), sort_keys=False)))


def load_recipe(recipe: str, overrides: list[str] | tuple[str, ...] = (), saved: bool = False) -> Recipe:
    """Read a recipe by name (one of latdiff's own) or path, with `section.key=value` on top.

    `base: NAME` in it takes another recipe's settings where it has none of its own.

    Args:
        recipe: A name such as "storyworld", or the path of a YAML file.
        overrides: Settings that replace the file's, e.g. "train_autoencoder.steps=500".
        saved: Whether it is the recipe.yaml of a checkpoint, which may come from anyone: then it has no base.

    Returns:
        The recipe, with every default filled in.

    Raises:
        RecipeError: Names every problem at once: the file, unknown keys with the nearest known one, values of the
            wrong type or out of range, and settings that contradict each other.

    Examples:
        >>> from latdiff import load_recipe
        >>> load_recipe("storyworld", ["train_denoiser.steps=500"]).train_denoiser.steps
        500
    """
    path = find_recipe(recipe)
    given = read_settings(path, saved=saved)
    problems: list[str] = []
    for override in overrides:
        apply_override(given, override, problems)
    given.setdefault("name", path.stem)
    built = _build(given, problems)
    if not problems:
        problems += [*_unread(built, overrides), *_contradictions(built, given)]
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        more = len(problems) - MOST_PROBLEMS
        problems = problems[:MOST_PROBLEMS] + ([f"and {more:,} more"] if more > 0 else [])
        raise RecipeError(f"{path}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))
    return built


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that a command's options name."""
    output = [f"output={options.output}"] if getattr(options, "output", None) else []
    return load_recipe(options.recipe, [*options.settings, *output])


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE [section.key=value ...] [--output FOLDER] [--quiet]"""
    parser.add_argument("recipe", help="the name of a recipe that comes with latdiff, or a path to a YAML file")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    parser.add_argument("--output", metavar="FOLDER", help="folder of the runs (default checkpoints)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no samples: results only")


def recipe_from_command_line(description: str) -> tuple[Recipe, bool]:
    """`RECIPE [section.key=value ...] [--output FOLDER] [--quiet]` -> the recipe, and whether to be quiet."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    options = parser.parse_intermixed_args()  # allows --quiet among the settings
    return recipe_of(options), options.quiet


def _build(given: dict, problems: list[str]) -> Recipe:
    """The recipe of the valid settings; what is wrong with the others goes to the problems."""
    known = [*Recipe.model_fields, *SECTIONS]
    top, sections = {}, {}
    for key, value in given.items():
        if key in Recipe.model_fields:
            top[key] = value
        elif key not in SECTIONS:
            problems.append(f"{shortened(key)}: no such setting{nearest(key, known)} (known: {', '.join(known)})")
        elif not isinstance(value, dict):
            problems.append(f"{key}: is a section with keys of its own, but is set to {shown(value)}")
        else:
            sections[key] = _checked(SECTIONS[key], value, f"{key}.", problems)
    return _checked(Recipe, top | sections, "", problems)


def _checked(model: type[BaseModel], given: dict, prefix: str, problems: list[str]) -> Any:
    """The validated model, or its defaults where a problem was found."""
    try:
        given = {written(str(key)): value for key, value in given.items()}
        return model.model_validate(given)
    except ValidationError as error:
        seen: dict[str, str] = {}
        for one in error.errors(include_url=False):
            key = str(one["loc"][0])
            if key not in seen:
                seen[key] = _sentence(model, key, given.get(key), one)
        problems += [f"{prefix}{sentence}" for sentence in seen.values()]
        return model()


def _sentence(model: type[BaseModel], key: str, value: Any, error: Any) -> str:
    """A validation error with the value, what is allowed and what the setting means."""
    kind, ctx = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(model.model_fields)
        return f"{shortened(key)}: no such setting{nearest(key, known)} (known: {', '.join(known)})"
    if kind == "literal_error":
        allowed = [str(one) for one in model.model_fields[key].annotation.__args__]  # type: ignore[union-attr]
        return f"{key}: is {shown(value)}, must be one of {', '.join(allowed)}{nearest(str(value), allowed)}"
    doc = model.model_fields[key].description
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"{key}: is {_number(value)}, must be {words} {ctx[name]} ({doc})"
    if kind == "finite_number":
        return f"{key}: is {_number(value)}, must be a finite number ({doc})"
    wanted = WANTED.get(kind.split("_")[0], error["msg"])
    if len(error["loc"]) > 1:  # an item of a list
        position = int(error["loc"][1])
        key, value = f"{key}: item {position + 1} of {len(value)}", value[position]
    else:
        key = f"{key}:"
    way_out = "; put it in quotes where it is meant as one" if wanted == "a text" and _is_word(value) else ""
    if kind == "string_unicode":
        wanted = "a text of whole characters, which UTF-8 can hold"
    return f"{key} is {shown(value)}, must be {wanted} ({doc}){way_out}"


def _is_word(value: Any) -> bool:
    """Whether a value is of a word that YAML takes for something else than a text."""
    return value is None or isinstance(value, bool)


def _number(value: Any) -> str:
    try:
        return shown(float(value) if isinstance(value, str) else value)  # 2e-3 is read as a text
    except ValueError:
        return shown(value)


def _unread(recipe: Recipe, overrides: Iterable[str]) -> Iterator[str]:
    """Problems of overrides in sections that only the training of another codec reads."""
    for override in overrides:
        section, _, key = override.partition("=")[0].partition(".")
        readers = {name for name, stage in STAGES.items() if section in stage.sections}
        own = f"train_{recipe.codec}"
        if key and readers and own not in readers and all(STAGES[name].codec for name in readers):
            commands = " and ".join(f"`latdiff {STAGES[name].command}`" for name in sorted(readers))
            meant = f"; did you mean {own}.{key}?" if own in SECTIONS and key in SECTIONS[own].model_fields else ""
            yield f"{section}.{key}: only {commands} reads it, but the recipe's codec is {recipe.codec!r}{meant}"


def _contradictions(recipe: Recipe, given: dict) -> Iterator[str]:
    """Problems of the sections that are in use: those of the recipe's stages, and those given."""
    if not re.fullmatch(r"\w[\w.-]{0,59}", recipe.name):
        yield f"name: is {shown(recipe.name)}, must be a folder name of at most 60 letters, digits, '_', '-' and '.'"
    codecs = [name.removeprefix("train_") for name, stage in STAGES.items() if stage.codec]
    if recipe.codec not in codecs:
        yield f"codec: is {shown(recipe.codec)}, must be one of {', '.join(codecs)}{nearest(recipe.codec, codecs)}"
    unknown = [name for name in recipe.stages if name not in STAGES]
    for name in unknown:
        yield f"stages: has {shown(name)}, must be of {', '.join(STAGES)}{nearest(name, STAGES)}"
    used = SECTIONS if unknown or recipe.codec not in codecs else recipe.sections()
    for name in SECTIONS:
        if name in used or name in given:
            yield from getattr(recipe, name).problems(recipe)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
