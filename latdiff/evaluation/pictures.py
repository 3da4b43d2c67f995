"""Which pictures can be drawn of a checkpoint, and why can the others not?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from latdiff.checkpoints import class_of, name_of
from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import Codec
from latdiff.config import load_recipe
from latdiff.diffusion.guidance import Guide
from latdiff.errors import UserError, first_line
from latdiff.evaluation.figures import require_matplotlib
from latdiff.evaluation.labelled import LabelledLatents, of_data, of_model, of_world
from latdiff.evaluation.plots import plot_control, plot_denoising, plot_lengths, plot_reconstruction
from latdiff.evaluation.report import grouped, of_any_figures, older_figures, picture, writer
from latdiff.evaluation.views import curves_of, plot_curves, plot_latents, plot_trajectory
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import label_heads
from latdiff.pipelines.files import load_for_commands
from latdiff.pipelines.index import check_finished
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.pipelines.output import check_guides
from latdiff.pipelines.trajectory import Step, trajectory
from latdiff.precision import default_device
from latdiff.progress import CURVES, read_curves
from latdiff.storage import StorageError
from latdiff.training import Run
from latdiff.worlds import world

ROWS = 9  # steps of a trajectory that are shown
MOST_STAGES = 24  # of a training; each has a panel


@dataclass(frozen=True)
class Drawn:
    """A picture, or why there is none.

    Attributes:
        name: of the picture, such as "latents".
        path: of its file; None where it was not drawn.
        reason: why it was not, and what to do about it.
    """

    name: str
    path: Path | None
    reason: str = ""


@dataclass
class Subject:
    """A checkpoint to draw pictures of.

    Attributes:
        folder: the checkpoint's.
        given: what the user called it.
        document: the JSON file, which need not exist, that pictures lie beside and are named after.
        seed: of texts and of noise.
        guides: that steer the trajectory; none for one of the first head's.
        labelled: head -> texts and labels of the user's.
        quiet: no progress bars.
    """

    folder: Path
    given: str
    document: Path
    seed: int = 0
    guides: list[Guide] = field(default_factory=list)
    labelled: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    quiet: bool = True

    def check(self) -> None:
        """Raise CheckpointError for a folder in which there is nothing to draw."""
        if not any((self.folder / name).exists() for name in (CURVES, "metrics.json", "autoencoder", "codec")):
            check_finished(self.folder)

    @property
    def name(self) -> str:
        """Of the checkpoint, for titles."""
        return name_of(self.given)

    @cached_property
    def figures(self) -> dict:
        """What was measured."""
        return older_figures(self.folder / "metrics.json")

    @cached_property
    def pipe(self) -> LatentTextDiffusionPipeline:
        """Its pipeline. Raises CheckpointError where there is none, or one of another kind."""
        return load_for_commands(self.folder, self.quiet)

    @cached_property
    def codec(self) -> Codec:
        """Its codec, which is there before its pipeline."""
        if (self.folder / "model_index.json").exists():
            return self.pipe.codec
        return load_codec(self.folder).to(default_device())

    @cached_property
    def heads(self) -> list[AttributeHead]:
        """Its heads of labels. Raises CheckpointError for one of another codec."""
        heads = label_heads(self.folder)
        if heads:
            check_guides(self.codec, [head.guide((1.0,) * len(head.classes_), None, "x0") for head in heads])
        return heads


def curves(subject: Subject, path: Path) -> list[Path]:
    """The loss of each stage."""
    found = curves_of(read_curves(subject.folder / CURVES))
    if not found:
        raise UserError(f"{subject.given} has no {CURVES}, which training writes")
    if len(found) > MOST_STAGES:
        raise UserError(f"{CURVES} has {len(found)} stages, more than any training ({MOST_STAGES} can be drawn)")
    plot_curves(found, path, subject.name)
    return [path]


def latents(subject: Subject, path: Path) -> list[Path]:
    """Latents by the labels of each head."""
    if not subject.heads:
        raise UserError(f"no heads of labels; fit one with `latdiff fit-head {subject.given} --data FILE --name NAME`")
    plot_latents(list(_labelled_latents(subject)), path, subject.name)
    return [path]


def _labelled_latents(subject: Subject) -> Iterator[LabelledLatents]:
    """Latents of the user's own texts where there are any, else of the world's, else of the model's."""
    own = [head for head in subject.heads if head.name in subject.labelled]
    others = [head for head in subject.heads if head.name not in subject.labelled]
    for head in own:
        yield of_data(subject.codec, head, *subject.labelled[head.name])
    if not others:
        return
    recipe = subject.folder / "recipe.yaml"
    source = load_recipe(str(recipe), saved=True).data.source if recipe.exists() else ""
    oracle = world(source)
    if oracle:
        yield from of_world(subject.codec, others, oracle, source, subject.seed)
    else:
        yield from of_model(subject.pipe, others, subject.seed)


def a_trajectory(subject: Subject, path: Path) -> list[Path]:
    """One text on its way, steered and unsteered from the same noise."""
    pipe = subject.pipe
    guides = subject.guides or _contrary(subject)

    def on_its_way(steering: list[Guide]) -> list[Step]:
        return trajectory(pipe, steering, guides, ROWS, generator=torch.Generator().manual_seed(subject.seed))

    plot_trajectory(on_its_way(guides), path, subject.name, pipe.config.num_inference_steps,
                    on_its_way([]) if guides else [])
    return [path]


def _contrary(subject: Subject) -> list[Guide]:
    """Towards that label of the first head that the same noise is least likely to have without it."""
    for head in subject.heads[:1]:
        generator = torch.Generator().manual_seed(subject.seed)
        plain = subject.pipe(generator=generator, output_type="latent").latents
        return [head.toward(head.classes_[head.predict_proba(plain)[0].argmin()])]
    return []


def lengths(subject: Subject, path: Path) -> list[Path]:
    """How long texts are, sampled and unseen."""
    unseen = _measured(subject, "unseen")
    rows = {"unseen texts": unseen} | {writer(row): row for row in subject.figures["unconditional"]}
    plot_lengths({name: row["word_histogram"] for name, row in rows.items()}, path, subject.name)
    return [path]


def reconstruction(subject: Subject, path: Path) -> list[Path]:
    """How well texts come back from noised latents."""
    plot_reconstruction(_measured(subject, "reconstruction"), path, subject.name)
    return [path]


def denoising(subject: Subject, path: Path) -> list[Path]:
    """The error of the denoiser by noise level."""
    plot_denoising(_measured(subject, "denoising"), path, subject.name)
    return [path]


def control(subject: Subject, path: Path) -> list[Path]:
    """Control against fluency, a picture for each head."""
    found = []
    for name, rows in grouped(_measured(subject, "sweep", " --sweep-scale"), "attribute"):
        found.append(path.with_name(picture(subject.document, f"control-{name}").name))
        plot_control(rows, found[-1], subject.name)
    return found


def _measured(subject: Subject, section: str, flags: str = ""):
    """A section of metrics.json. Raises UserError where it was not measured."""
    if not subject.figures.get(section):
        raise UserError(f"not measured; `latdiff evaluate {subject.given}{flags}` does that")
    return subject.figures[section]


def has_card(folder: Path) -> bool:
    """Whether a folder holds a latent pipeline and its recipe, of which its model card is written."""
    index = folder / "model_index.json"
    return index.exists() and (folder / "recipe.yaml").exists() and issubclass(class_of(index),
                                                                               LatentTextDiffusionPipeline)


MEASURED: dict[str, Callable[[Subject, Path], list[Path]]] = {
    "lengths": lengths, "reconstruction": reconstruction, "denoising": denoising, "control": control,
}
PICTURES = {"curves": curves, "latents": latents, "trajectory": a_trajectory} | MEASURED


def draw(subject: Subject, wanted: dict[str, Callable[[Subject, Path], list[Path]]] = PICTURES) -> Iterator[Drawn]:
    """Draw what can be drawn.

    Args:
        subject: the checkpoint.
        wanted: name -> what draws a picture of that name, or raises UserError where something is missing.

    Yields:
        Each picture, or why there is none.

    Raises:
        UserError: Where there is no matplotlib.
        StorageError: For a full disk, and for a folder that cannot be written into.
    """
    require_matplotlib()
    for name, draws in wanted.items():
        try:
            with of_any_figures(subject.folder / "metrics.json") if name in MEASURED else nullcontext():
                found = draws(subject, picture(subject.document, name))
            yield from (Drawn(name, path) for path in found)
        except StorageError:
            raise
        except UserError as error:
            yield Drawn(name, None, first_line(error))


def draw_measured(document: dict, path: Path) -> None:
    """Draw what an evaluation has measured.

    Args:
        document: its figures.
        path: of their file, which the pictures lie beside.
    """
    subject = Subject(path.parent, document["checkpoint"], path)
    subject.figures = document
    list(draw(subject, MEASURED))


def log_pictures(run: Run, folder: Path, pipe: LatentTextDiffusionPipeline | None = None) -> None:
    """Add to a run's log the pictures that can be drawn of what it has trained; nothing where it keeps none.

    Args:
        run: the training.
        folder: the checkpoint's.
        pipe: its pipeline, where it need not be opened again.
    """
    if not run.logs:
        return
    with tempfile.TemporaryDirectory() as place:
        subject = Subject(folder, str(folder), Path(place) / "metrics.json")
        if pipe is not None:
            subject.pipe = pipe
        try:
            for one in draw(subject):
                if one.path:
                    run.log_picture(one.path.stem.removeprefix("metrics-"), one.path)
        except UserError as error:
            print(f"the log has no pictures: {error}")
