"""Recipes: sections that stages declare, set by YAML and `section.key=value`; all problems are reported at once.

A recipe is read before anything heavy is imported, so a typo fails within a second:

    recipe = load_recipe("storyworld", ["train_autoencoder.steps=500"])
    recipe.train_autoencoder.steps   # 500
"""

from latdiff.config.reading import CONFIG_FOLDER, RecipeError
from latdiff.config.recipe import (
    Recipe,
    add_recipe_arguments,
    load_recipe,
    recipe_from_command_line,
    recipe_of,
)
from latdiff.config.sections import (
    DECODING,
    MIN_PER_CLASS,
    NORMALISATIONS,
    SCHEDULERS,
    STAGES,
    TIMES,
    DataConfig,
    SamplingConfig,
    Section,
    sampler_words,
    stage,
)

__all__ = [
    "CONFIG_FOLDER",
    "DECODING",
    "MIN_PER_CLASS",
    "NORMALISATIONS",
    "SCHEDULERS",
    "STAGES",
    "TIMES",
    "DataConfig",
    "Recipe",
    "RecipeError",
    "SamplingConfig",
    "Section",
    "add_recipe_arguments",
    "load_recipe",
    "recipe_from_command_line",
    "recipe_of",
    "sampler_words",
    "stage",
]
