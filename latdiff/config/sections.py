"""Sections of a recipe, the stages that declare them, and the two sections that all stages share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from latdiff.errors import UserError, nearest, shown, whole_word

if TYPE_CHECKING:
    from latdiff.config.recipe import Recipe

Scheduler = Literal["ddpm", "ddim", "dpm++", "sde-dpm++", "unipc", "tcd", "renoise"]
Times = Literal["stratified", "uniform", "logit-normal"]  # how training samples them: diffusion/gaussian.py
Normalisation = Literal["whitening", "l2"]  # of latents: models/autoencoder.py
SCHEDULERS, TIMES, NORMALISATIONS = get_args(Scheduler), get_args(Times), get_args(Normalisation)
MIN_PER_CLASS = 5  # texts of each label, to fit or train anything on them
# Decoding presets: settings of transformers' `generate`. Each overrides a model's whole own configuration: that
# of the hub's BART has beam search without repeated trigrams.
GREEDY = {"do_sample": False, "num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0,
          "encoder_no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "length_penalty": 1.0,
          "early_stopping": False}
LD4LG = {"num_beams": 4, "min_length": 5, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2}  # its code's "beam"
MOST_STEPS = 10_000  # of a sampler, far more than any needs
DECODING = {"greedy": GREEDY, "ld4lg": GREEDY | LD4LG}


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "a number")
    return value


def _shares(rates: tuple) -> tuple:
    try:
        rates = tuple(float(rate) if isinstance(rate, str) else rate for rate in rates)
    except ValueError:
        rates = ()
    if not rates or not all(isinstance(rate, int | float) and 0 <= rate < 1 for rate in rates):
        raise PydanticCustomError("shares", "shares of at least 0 and below 1")
    return rates


def _grouped(value: Any) -> Any:
    """A whole number that is written in groups of digits, such as 60_000."""
    grouped = isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{0,2}(_[0-9]{3}){1,4}", value)
    return int(value) if grouped else value


def _not_vast(value: int) -> int:
    if value > MOST:
        raise PydanticCustomError("less_than_equal", "at most {le}", {"le": MOST})
    return value


MOST = 2**40  # above every number of steps, texts or features; what is larger overflows later
Whole = Annotated[int, Strict(), BeforeValidator(_grouped), AfterValidator(_not_vast)]
Number = Annotated[float, BeforeValidator(_no_truth)]  # 2e-3, which YAML reads as a string, is one
Rates = Annotated[tuple, AfterValidator(_shares)]  # of masking


class Section(BaseModel):
    """Related settings, each with its default, limits and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    def problems(self, recipe: Recipe) -> Iterator[str]:
        """`section.key: what is wrong` for each setting that contradicts another one, of this section or another."""
        yield from ()

    def filled(self, recipe: Recipe) -> Self:
        """The section with what the rest of the recipe decides in place of settings that were left open."""
        return self


@dataclass(frozen=True)
class Stage:
    """A module of latdiff.recipes: the sections that it reads, the stages that it runs first, and its command.

    A stage in `builds` may contain {codec}, which stands for the recipe's `codec`; `codec` is whether it trains one.
    """

    sections: tuple[str, ...]
    builds: tuple[str, ...] = ()
    codec: bool = False
    command: str = ""
    help: str = ""


SECTIONS: dict[str, type[Section]] = {}
STAGES: dict[str, Stage] = {}


def stage(
    name: str,
    shared: tuple[str, ...] = (),
    builds: tuple[str, ...] = (),
    codec: bool = False,
    command: str = "",
    help: str = "",
    **sections: type[Section],
) -> None:
    """Declare the stage latdiff.recipes.NAME.

    Args:
        name: the module's name, e.g. "train_denoiser".
        shared: names of sections that other stages declare and this one reads too.
        builds: stages that it runs first where their result is missing.
        codec: whether it trains a codec, which a recipe's `codec` can then name.
        command: what runs it, `latdiff COMMAND`; by default the name with hyphens.
        help: of the command.
        sections: its own sections, by the name that they have in a recipe.
    """
    SECTIONS.update(sections)
    STAGES[name] = Stage((*shared, *sections), builds, codec, command or name.replace("_", "-"), help)


def headed(section: str, width: int, heads: int) -> Iterator[str]:
    """The problem of a section's width that its attention heads do not divide."""
    if width % heads:
        fits = width - width % heads or heads
        yield f"{section}.width: {width} is not divisible by heads={heads}; try {fits}"


def codec_problems(recipe, name: str, presets: Sequence[str], *trainings: str) -> Iterator[str]:
    """What does not go together in a codec's section, its trainings, and what is to be decoded.

    Args:
        recipe: a Recipe.
        name: of the codec's section.
        presets: names of the codec's ways to decode.
        trainings: names of the sections of its trainings.
    """
    section, decoding = getattr(recipe, name), recipe.sampling.decoding
    if decoding not in ("", *presets):
        yield (f"sampling.decoding: is {shown(decoding)}, must be one of {', '.join(presets)}"
               f"{nearest(decoding, presets)}")
    for training in trainings:
        most = getattr(recipe, training).latent_noise
        if section.assumed_noise > most:
            yield (f"{name}.assumed_noise: is {section.assumed_noise:g}, but training adds noise of at most "
                   f"{training}.latent_noise={most:g}; lower the former or raise the latter")
    if not section.path and recipe.data.max_tokens > section.max_tokens:
        yield (f"data.max_tokens: {recipe.data.max_tokens} is more than {name}.max_tokens={section.max_tokens}; "
               "raise the latter")


class DataConfig(Section):
    """Where the texts come from.

    A hub id is owner/name, owner/name:configuration where a data set has several, and either may end in @revision:
    wmt/wmt14:de-en with text_column translation.de. With train_size, it is sampled and need not be read whole.
    """

    source: str = Field("storyworld", description="storyworld, a hub id, or a file or folder of "
                        "jsonl/csv/tsv/txt/parquet")
    text_column: str = Field("text", description="column of the text, or of a list of texts, one row each; dots reach "
                             "into nested columns")
    extra_sources: tuple[str, ...] = Field((), description="more texts, same column, for the backbone and the "
                                           "autoencoder alone, which memorise a small corpus")
    splits: tuple[str, ...] = Field(("train", "valid"), description="the training split and the one of unseen texts, "
                                    "where the source has several; one name alone: unseen texts are held out of it")
    train_size: Whole = Field(0, ge=0, description="largest number of training texts, 0 for all (storyworld: "
                              "60,000)")
    valid_size: Whole = Field(1000, ge=1, description="largest number of unseen texts for evaluation")
    max_tokens: Whole = Field(96, ge=4, description="longer texts are counted, reported and left out of training")
    condition: Literal["none", "label", "text", "prefix", "start"] = Field(
        "none", description="what the denoiser is conditioned on: a class, a source text, the text's own first "
        "sentence, which is then no longer part of the text, or, in half of the texts, its first words up to a random "
        "place")
    condition_column: str = Field("label", description="column of the class or the source text")
    classes: tuple[str, ...] = Field((), description="the allowed classes; none listed: those of the training "
                                     "texts")

    @property
    def reads_source(self) -> bool:
        """Whether the denoiser is conditioned on a source text."""
        return self.condition in ("text", "prefix", "start")

    def problems(self, recipe: Recipe) -> Iterator[str]:
        if self.classes and self.condition != "label":
            yield f"data.classes: are listed, but data.condition is {self.condition!r}; set it to label"
        if not 1 <= len(set(self.splits)) == len(self.splits) <= 2:
            yield f"data.splits: is {shown(list(self.splits))}, must be one name, or two that differ"


class SamplingConfig(Section):
    """Defaults of the trained pipeline's sampler."""

    scheduler: Scheduler = Field("ddpm", description="diffusers scheduler")
    steps: Whole = Field(50, ge=1, le=MOST_STEPS, description="denoiser evaluations per text")
    decoding: str = Field("", description="the codec's way to decode, one of its presets; empty: the first")


def sampler_words(text: str, flag: str = "--samplers") -> tuple[str, int]:
    """'ddpm:50' -> ('ddpm', 50). Raises UserError, with the flag's name, for anything else."""
    name, _, written = text.partition(":")
    steps = whole_word(written, MOST_STEPS)
    if name not in SCHEDULERS or not steps:
        raise UserError(f"{flag} has {shown(text)}, must be NAME:STEPS with a name of {', '.join(SCHEDULERS)} and 1 to "
                        f"{MOST_STEPS:,} steps, such as ddpm:50")
    return name, steps
