"""`latdiff train-diffusion` and the other training commands, and `latdiff check-config`."""

from __future__ import annotations

import argparse
import importlib

import yaml

from latdiff.config import add_recipe_arguments, recipe_of

STAGES = {
    "pretrain-backbone": ("pretrain_backbone", "train a small T5 on the recipe's texts"),
    "train-ae": ("train_autoencoder", "train the autoencoder; the same command resumes"),
    "train-diffusion": ("train_denoiser", "train the denoiser, and first what it needs and is missing"),
    "train-ar": ("train_ar", "train a language model of the recipe's texts: a fluency judge and a baseline"),
    "train-seq2seq": ("train_seq2seq", "fine-tune the backbone on the recipe's pairs: a conditional baseline"),
}


def add_training(commands) -> None:
    for name, (stage, help) in STAGES.items():
        command = commands.add_parser(name, help=help, description=help)
        add_recipe_arguments(command)
        command.set_defaults(run=run_training, stage=stage)


def add_check_config(commands) -> None:
    command = commands.add_parser("check-config", help="read a recipe, print what its stages read or every problem")
    add_recipe_arguments(command)
    command.set_defaults(run=run_check_config)


def run_training(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    importlib.import_module(f"latdiff.recipes.{options.stage}").main(recipe, options.quiet)


def run_check_config(options: argparse.Namespace) -> None:
    print(yaml.safe_dump(recipe_of(options).as_dict(), sort_keys=False), end="")
