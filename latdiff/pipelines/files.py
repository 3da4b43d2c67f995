"""Pipelines on disk: what a folder holds, and what is missing or damaged, in a sentence."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from latdiff.bars import without_bars
from latdiff.checkpoints import CheckpointError, class_of, folder_of
from latdiff.errors import UserError, first_line
from latdiff.models.saved import refuse_gaps
from latdiff.pipelines.index import check_finished, check_index
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.precision import default_device


def open_checkpoint(folder: str | Path) -> DiffusionPipeline:
    """The pipeline of a folder, in float32, of the class that its model_index.json names.

    Args:
        folder: of a finished pipeline, or the hub id of one.

    Returns:
        A LatentTextDiffusionPipeline, or what other public class of latdiff was saved there.

    Raises:
        CheckpointError: When it holds no pipeline, or one that is incomplete, damaged or of an unknown class.

    Examples:
        >>> from latdiff import open_checkpoint
        >>> pipe = open_checkpoint("storyworld").to("cpu")
        >>> len(pipe(num_samples=2).texts)
        2
    """
    folder = folder_of(folder)
    check_finished(folder)
    try:
        missing = [part for part in check_index(folder) if not (folder / part).is_dir()]
        if missing:
            raise CheckpointError(f"{folder} is incomplete: {', '.join(missing)} missing; copy the whole folder again")
        kind = class_of(folder / "model_index.json")
        pipe = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                    **getattr(kind, "parts_of", lambda _: {})(folder))
    except UserError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors and json each raise kinds of their own
        raise CheckpointError(f"{folder} is cut short or damaged: {first_line(error)}") from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            refuse_gaps(folder / name, part)
    return pipe


def load_for_commands(
    folder: str | Path, quiet: bool = False, kind: type[DiffusionPipeline] = LatentTextDiffusionPipeline
):
    """`open_checkpoint` of one kind, on the GPU where there is one, with bars that go away, or none."""
    with without_bars():
        pipe = open_checkpoint(folder)
    if not isinstance(pipe, kind):
        raise CheckpointError(f"{folder} is a {type(pipe).__name__}, which only `latdiff evaluate` takes")
    pipe.set_progress_bar_config(disable=quiet, leave=False)
    return pipe.to(default_device())
