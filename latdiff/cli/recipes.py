"""`latdiff train-diffusion` and the other training commands, and `latdiff check-config`."""

from __future__ import annotations

import argparse
import importlib

import yaml

from latdiff.config import STAGES, Recipe, add_recipe_arguments, recipe_of


def add_training(commands) -> None:
    for name, stage in STAGES.items():
        command = commands.add_parser(stage.command, help=stage.help, description=stage.help)
        add_recipe_arguments(command)
        command.set_defaults(run=run_training, stage=name, all_processes=True)


def add_check_config(commands) -> None:
    help = "read a recipe, print what its stages read or every problem"
    command = commands.add_parser("check-config", help=help, description=help)
    add_recipe_arguments(command)
    command.set_defaults(run=run_check_config)


def run_training(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    importlib.import_module(f"latdiff.recipes.{options.stage}").main(recipe, options.quiet)


def run_check_config(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    read = {*Recipe.model_fields, *recipe.sections()}
    shown = {key: value for key, value in recipe.as_dict().items() if key in read}
    print(yaml.safe_dump(shown, sort_keys=False), end="")
