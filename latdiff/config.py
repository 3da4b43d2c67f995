"""Recipes: dataclasses in, YAML and `section.key=value` on top, every problem out at once.

A recipe is read before anything heavy is imported, so a typo costs a second and not a night:

    recipe = load_recipe("storyworld", ["train_autoencoder.steps=500"])
    recipe.train_autoencoder.steps   # 500
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from latdiff.errors import UserError, nearest

SCHEDULERS = ("ddpm", "ddim", "dpm++", "sde-dpm++", "unipc", "tcd", "renoise")
DEFAULT_C = 0.01  # of a head; strong regularisation, which steers better: docs/lab/experiments.md
DEFAULT_ALPHA = 100.0  # of a head of numbers
DEFAULT_STRENGTH = 0.65  # of an edit
MODES = ("x0", "denoiser", "monte-carlo", "noisy")  # of a guide; guidance.py says what they mean
CONDITIONS = ("none", "label", "text", "prefix")  # that a denoiser may be told
MIN_PER_CLASS = 5  # texts of each label, to fit or train anything on them
TIMES = ("stratified", "uniform", "logit-normal")  # how training draws them: diffusion.py
NORMALISATIONS = ("whitening", "l2")  # of latents: autoencoder.py
FEATURES = ("flat", "mean", "both")  # of latents, for a head
UTILITIES = ("bleu", "chrf", "rouge")  # that candidates are compared by
# How the decoder writes, by name: settings of transformers' `generate`. Each sets all that a model's own configuration
# may ask for: the hub's BART would search beams and never repeat three words.
GREEDY = {"do_sample": False, "num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0,
          "encoder_no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "length_penalty": 1.0,
          "early_stopping": False}
LD4LG = {"num_beams": 4, "min_length": 5, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2}  # its code's "beam"
DECODING = {"greedy": GREEDY, "ld4lg": GREEDY | LD4LG}
CONFIG_FOLDER = Path("recipes/configs")


class RecipeError(UserError):
    """A recipe that cannot run; the message lists every problem, one a line."""


def setting(default, doc: str, *, low=None, high=None, choices=None):
    """A field with its sentence of documentation and the values it may take."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class DataConfig:
    """Where the texts come from.

    A hub id is owner/name, owner/name:configuration where a data set has several, and either may end in @revision:
    wmt/wmt14:de-en with text_column translation.de. With train_size, only as many of its rows are read as that needs.
    """

    source: str = setting("storyworld", "storyworld, a hub id, or a file or folder of jsonl/csv/tsv/txt/parquet")
    text_column: str = setting("text", "column that holds the text, or a list of texts that each count for "
                               "themselves; a dot reaches into nested columns")
    extra_sources: tuple = setting((), "more texts, same column, for the backbone and the autoencoder alone: a small "
                                   "corpus by itself is learnt by heart")
    splits: tuple = setting(("train", "valid"), "the training split and the one of unseen texts, where the source has "
                            "several; one name alone: unseen texts are held out of it")
    train_size: int = setting(0, "at most so many training texts, 0 for all (storyworld writes 60,000)", low=0)
    valid_size: int = setting(1000, "at most so many unseen texts to measure on", low=1)
    max_tokens: int = setting(96, "longer texts are counted, reported and left out of training", low=4)
    condition: str = setting("none", "what the denoiser is told: a class, a source text, or the text's own first "
                             "sentence, which is then no longer part of the text", choices=CONDITIONS)
    condition_column: str = setting("label", "column of the class or the source text")
    classes: tuple = setting((), "the classes there may be; none listed: those of the training texts")

    @property
    def reads_source(self) -> bool:
        """Whether the denoiser is told a source text."""
        return self.condition in ("text", "prefix")


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen encoder-decoder."""

    path: str = setting("checkpoints/pretrained/t5-mini", "a folder or a hub id such as google/flan-t5-base")


@dataclass(frozen=True)
class PretrainBackboneConfig:
    """recipes/pretrain_backbone.py: a small T5 of your own, when no ready one fits."""

    vocab_size: int = setting(2000, "sentencepiece pieces before the sentinels", low=64)
    width: int = setting(128, "d_model", low=8)
    ff_width: int = setting(384, "inner width of the gated feed-forward", low=8)
    layers: int = setting(3, "encoder layers, and as many decoder layers", low=1)
    heads: int = setting(4, "attention heads; must divide width", low=1)
    steps: int = setting(3000, "optimiser steps", low=1)
    batch_size: int = setting(64, "texts a step", low=1)
    learning_rate: float = setting(2e-3, "Muon's peak rate for the matrices", low=0.0)
    mask_rates: tuple = setting((0.0, 0.15, 0.3, 0.5), "share of tokens masked, drawn anew for each batch")
    feature_noise: float = setting(0.0, "largest Gaussian noise on the encoder's features in training", low=0.0)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The compressor to L latents of width D and the reconstructor."""

    path: str = setting("", "a checkpoint whose backbone and autoencoder are taken as they are; empty: train one")
    num_latents: int = setting(16, "L", low=1)
    latent_dim: int = setting(32, "D", low=1)
    width: int = setting(128, "inner width of both transformers", low=8)
    depth: int = setting(2, "blocks in each", low=1)
    heads: int = setting(4, "attention heads; must divide width", low=1)
    max_tokens: int = setting(128, "positions the compressor knows", low=4)
    normalisation: str = setting("whitening", "zero mean and unit variance of every number, or l2: every latent has "
                                 "norm √D (LD4LG for BART)", choices=NORMALISATIONS)
    assumed_noise: float = setting(0.0, "sd of the latent noise that the reconstructor, which is then told it in "
                                   "training, is told when it decodes; 0: it is told nothing", low=0.0)


@dataclass(frozen=True)
class TrainAutoencoderConfig:
    """recipes/train_autoencoder.py."""

    steps: int = setting(2000, "optimiser steps", low=1)
    batch_size: int = setting(64, "texts a step", low=2)
    learning_rate: float = setting(2e-3, "Muon's peak rate for the matrices", low=0.0)
    warmup_steps: int = setting(100, "steps of linear warm-up", low=0)
    mask_rates: tuple = setting((0.0,), "share of tokens hidden from the encoder, drawn anew for each text")
    latent_noise: float = setting(0.7, "latents get noise of sd ~ U(0, this) in training", low=0.0)
    latent_dropout: float = setting(0.0, "share of latents' numbers that are zero in training", low=0.0, high=0.9)
    sample_every: int = setting(500, "steps between looks at reconstructed texts", low=1)
    save_every: int = setting(500, "steps between resume states", low=1)


@dataclass(frozen=True)
class DenoiserConfig:
    """The denoising transformer."""

    width: int = setting(256, "model width", low=8)
    depth: int = setting(6, "blocks", low=1)
    heads: int = setting(4, "attention heads; must divide width", low=1)


@dataclass(frozen=True)
class DiffusionConfig:
    """The noising process and what the network predicts."""

    schedule: str = setting("cosine", "cosine, or tan-D: cosine with its noise-to-signal ratio times D")
    prediction: str = setting("v", "what the network predicts", choices=("v", "x0"))
    times: str = setting("stratified", "how noise levels are drawn in training: one in each of as many parts as the "
                         "batch has rows, or uniform, or logit-normal: around one of them", choices=TIMES)
    logit_mean: float = setting(0.0, "of logit-normal times: where they gather; above 0 where there is more noise")
    logit_std: float = setting(1.0, "of logit-normal times: how far they spread", low=0.01)
    self_conditioning: float = setting(0.5, "probability of an estimate as extra input in training", low=0, high=1)


@dataclass(frozen=True)
class TrainDenoiserConfig:
    """recipes/train_denoiser.py."""

    steps: int = setting(2000, "optimiser steps", low=1)
    batch_size: int = setting(128, "latents a step", low=1)
    learning_rate: float = setting(2e-3, "Muon's peak rate for the matrices", low=0.0)
    warmup_steps: int = setting(100, "steps of linear warm-up", low=0)
    told_nothing: float = setting(0.1, "probability that the condition, if there is one, is left out", low=0, high=1)
    ema_decay: float = setting(0.999, "largest decay of the averaged weights", low=0.0, high=1.0)
    sample_every: int = setting(500, "steps between looks at decoded samples", low=1)
    save_every: int = setting(500, "steps between resume states", low=1)


@dataclass(frozen=True)
class TrainArConfig:
    """recipes/train_ar.py: a GPT-2 on the recipe's texts, the judge of fluency and the rival of a denoiser."""

    width: int = setting(192, "n_embd", low=8)
    layers: int = setting(4, "blocks", low=1)
    heads: int = setting(6, "attention heads; must divide width", low=1)
    steps: int = setting(3000, "optimiser steps", low=1)
    batch_size: int = setting(64, "texts a step", low=1)
    learning_rate: float = setting(2e-3, "Muon's peak rate for the matrices", low=0.0)
    told_nothing: float = setting(0.1, "share of texts whose class is left out, where there is one", low=0.0, high=1.0)


@dataclass(frozen=True)
class TrainSeq2seqConfig:
    """recipes/train_seq2seq.py: the backbone itself, fine-tuned on the pairs; the rival of a text-conditional model."""

    steps: int = setting(3000, "optimiser steps", low=1)
    batch_size: int = setting(64, "pairs a step", low=1)
    learning_rate: float = setting(1e-3, "Muon's peak rate for the matrices", low=0.0)


@dataclass(frozen=True)
class SamplingConfig:
    """What the finished pipeline samples with unless told otherwise."""

    scheduler: str = setting("ddpm", "diffusers scheduler", choices=SCHEDULERS)
    steps: int = setting(50, "denoiser calls a text", low=1)
    decoding: str = setting("greedy", "how the decoder writes", choices=tuple(DECODING))


@dataclass(frozen=True)
class Recipe:
    """One corpus from text to samples. `name` is the folder under checkpoints/."""

    name: str = setting("unnamed", "folder under checkpoints/ that the run writes")
    seed: int = setting(0, "seeds every generator", low=0)
    wandb_project: str = setting("", "Weights & Biases project to log the loss to; empty for none")
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    pretrain_backbone: PretrainBackboneConfig = field(default_factory=PretrainBackboneConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    train_autoencoder: TrainAutoencoderConfig = field(default_factory=TrainAutoencoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train_denoiser: TrainDenoiserConfig = field(default_factory=TrainDenoiserConfig)
    train_ar: TrainArConfig = field(default_factory=TrainArConfig)
    train_seq2seq: TrainSeq2seqConfig = field(default_factory=TrainSeq2seqConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @property
    def folder(self) -> Path:
        """Where the run writes: checkpoints/NAME."""
        return Path("checkpoints") / self.name

    def as_dict(self) -> dict:
        """Plain dicts and lists, ready for YAML."""
        return _plain(dataclasses.asdict(self))

    def save(self, path: Path) -> None:
        """Write the whole recipe, defaults included, as YAML."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False), encoding="utf-8")


def load_recipe(recipe: str, overrides: list[str] = ()) -> Recipe:
    """Read a recipe by name (recipes/configs/NAME.yaml) or path and put `section.key=value` on top.

    `base: NAME` in it takes another recipe's settings where it has none of its own.

    Raises RecipeError naming every problem at once: the file, unknown keys with the nearest known
    one, values of the wrong type or out of range, and settings that contradict each other.
    """
    path = _find(recipe)
    given = _settings_of(path)
    problems: list[str] = []
    for override in overrides:
        _apply_override(given, override, problems)
    given.setdefault("name", path.stem)
    built = _build(Recipe, given, "", problems)
    if not problems:
        _check_together(built, problems)
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"{path}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))
    return built


def recipe_from_command_line(description: str) -> tuple[Recipe, bool]:
    """`RECIPE [section.key=value ...] [--quiet]` -> the recipe, and whether to be quiet."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a name under recipes/configs/ or a path to a YAML file")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no samples: results only")
    arguments = parser.parse_intermixed_args()  # so that --quiet may stand among the settings
    return load_recipe(arguments.recipe, arguments.settings), arguments.quiet


def _find(recipe: str) -> Path:
    path = Path(recipe)
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


def _settings_of(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """What a recipe file says, on top of what its base says; `above` are the files that led here."""
    if path.resolve() in above:
        raise RecipeError(f"{path} is its own base, by way of {' and '.join(map(str, above))}; leave one `base:` out")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(given, dict):
        raise RecipeError(f"{path} must hold settings such as `name: mine`, but holds a {type(given).__name__}")
    if "base" not in given:
        return given
    base = str(given.pop("base"))
    beside = path.parent / f"{base}.yaml"
    settings = _settings_of(beside if beside.is_file() else _find(base), (*above, path.resolve()))
    settings.pop("name", None)  # is the base's own
    return _on_top(settings, given)


def _on_top(settings: dict, given: dict) -> dict:
    """Settings with those given in their place, section by section."""
    merged = dict(settings)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        merged[key] = _on_top(settings[key], value) if both else value
    return merged


def _apply_override(given: dict, override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"{override!r}: write it as section.key=value, e.g. train_autoencoder.steps=500")
        return
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    *sections, leaf = key.split(".")
    for section in sections:
        given = given.setdefault(section, {})
        if not isinstance(given, dict):
            problems.append(f"{override!r}: {section} is a single value, not a section")
            return
    given[leaf] = value


def _build(cls, given: dict, prefix: str, problems: list[str]):
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in given.items():
        where = f"{prefix}{key}"
        if key not in known:
            problems.append(f"{where}: no such setting{nearest(str(key), known)} (known: {', '.join(known)})")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                values[key] = _build(hints[key], value, f"{where}.", problems)
            else:
                problems.append(f"{where}: is a section with keys of its own, but is set to {value!r}")
        else:
            spec = next(f for f in dataclasses.fields(cls) if f.name == key)
            values[key] = _convert(value, hints[key], spec.metadata, where, problems)
    return cls(**values)


def _convert(value, kind, spec, where: str, problems: list[str]):
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        value = _number(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        wanted = {int: "a whole number", float: "a number", str: "a text", tuple: "a list", bool: "true or false"}
        problems.append(f"{where}: is {value!r}, must be {wanted[kind]} ({spec['doc']})")
    elif kind is float and not math.isfinite(value):
        problems.append(f"{where}: is {value}, must be a finite number ({spec['doc']})")
    elif spec["choices"] and value not in spec["choices"]:
        problems.append(
            f"{where}: is {value!r}, must be one of {', '.join(spec['choices'])}{nearest(str(value), spec['choices'])}"
        )
    elif spec["low"] is not None and value < spec["low"]:
        problems.append(f"{where}: is {value}, must be at least {spec['low']} ({spec['doc']})")
    elif spec["high"] is not None and value > spec["high"]:
        problems.append(f"{where}: is {value}, must be at most {spec['high']} ({spec['doc']})")
    return value


def _number(value):
    try:  # YAML reads 2e-3 as a text
        return float(value)
    except ValueError:
        return value


def _check_together(recipe: Recipe, problems: list[str]) -> None:
    if not re.fullmatch(r"\w[\w.-]*", recipe.name):
        problems.append(f"name: is {recipe.name!r}, must be a folder name of letters, digits, '_', '-' and '.'")
    for name in ("pretrain_backbone", "autoencoder", "denoiser", "train_ar"):
        part = getattr(recipe, name)
        if part.width % part.heads:
            fits = part.width - part.width % part.heads or part.heads
            problems.append(f"{name}.width: {part.width} is not divisible by heads={part.heads}; try {fits}")
    if not recipe.autoencoder.path and recipe.data.max_tokens > recipe.autoencoder.max_tokens:
        problems.append(
            f"data.max_tokens: {recipe.data.max_tokens} is more than autoencoder.max_tokens="
            f"{recipe.autoencoder.max_tokens}; raise the latter"
        )
    most, assumed = recipe.train_autoencoder.latent_noise, recipe.autoencoder.assumed_noise
    if assumed > most:
        problems.append(f"autoencoder.assumed_noise: is {assumed:g}, but training adds noise of at most "
                        f"train_autoencoder.latent_noise={most:g}; lower the former or raise the latter")
    if recipe.data.classes and recipe.data.condition != "label":
        problems.append(f"data.classes: are listed, but data.condition is {recipe.data.condition!r}; set it to label")
    if not 1 <= len(set(recipe.data.splits)) == len(recipe.data.splits) <= 2:
        problems.append(f"data.splits: is {list(recipe.data.splits)}, must be one name, or two that differ")
    schedule = re.fullmatch(r"cosine|tan-(\d+(\.\d+)?)", recipe.diffusion.schedule)
    if not schedule or float(schedule[1] or 1) == 0:
        problems.append(f"diffusion.schedule: is {recipe.diffusion.schedule!r}, must be cosine or tan-D, e.g. tan-5")
    for name in ("pretrain_backbone", "train_autoencoder"):
        rates = getattr(recipe, name).mask_rates
        if not rates or not all(isinstance(rate, (int, float)) and 0 <= rate < 1 for rate in rates):
            problems.append(f"{name}.mask_rates: is {list(rates)}, must be shares of at least 0 and below 1")


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def sampler_words(text: str, flag: str = "--samplers") -> tuple[str, int]:
    """'ddpm:50' -> ('ddpm', 50). Raises UserError, with the flag's name, for anything else."""
    name, _, steps = text.partition(":")
    if name not in SCHEDULERS or not steps.isdigit() or int(steps) < 1:
        raise UserError(f"{flag} has {text!r}, must be NAME:STEPS with a name of {', '.join(SCHEDULERS)}")
    return name, int(steps)
