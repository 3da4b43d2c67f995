"""Which texts may a checkpoint be measured against: those that its own recipe names, or those that were asked for?

A checkpoint may come from anyone, and with it a recipe that names any file of this machine. So what it names is read
without being asked for only where it is no file (a world, a data set of the hub) or lies in the current folder, and the
checkpoint itself is a folder here and no download.
"""

from __future__ import annotations

import os
from pathlib import Path

from latdiff.checkpoints import SHIPPED
from latdiff.config import Recipe, load_recipe
from latdiff.errors import UserError
from latdiff.worlds import world


def recipe_asked_for(own: Path, given: str, data: str | None, named: str | None = None) -> Recipe:
    """The recipe whose corpus a checkpoint is measured against.

    Args:
        own: the checkpoint's recipe.yaml.
        given: what the user called the checkpoint: a path, a name or a hub id.
        data: a source of texts in place of the recipe's.
        named: a recipe that the user named in place of the checkpoint's own.

    Raises:
        UserError: Where the checkpoint's own recipe would have a file read that nobody asked for.
    """
    recipe = load_recipe(named) if named else load_recipe(str(own), saved=True)
    if data is not None:
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": data})})
    if not named:
        _refuse_unasked(recipe.data.source, given, own.is_relative_to(SHIPPED) or Path(given).expanduser().exists())
    return recipe


def _refuse_unasked(source: str, given: str, here: bool) -> None:
    """Raise UserError for a source that is a path and leads out of this folder, or comes with a download."""
    path = Path(source).expanduser()
    leads_out = not Path(os.path.abspath(path)).is_relative_to(Path.cwd())
    if world(source) or not (leads_out or (path.exists() and not here)):
        return
    why = "which lies outside the current folder" if leads_out else "a path here, though the checkpoint is from the hub"
    raise UserError(f"the recipe.yaml of {given} would have {source} read as its data, {why}; a recipe may come from "
                    f"anyone: give --data {source} where it is to be read, or --data PATH for other texts")
