"""The page itself, in Gradio: what is clicked becomes a request, what comes back is shown."""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from latdiff.demo import examples, requests, showing
from latdiff.demo.drawing import Frame, frames
from latdiff.demo.fitting import ENDINGS, Fitted, fit, heads_of, replaced
from latdiff.demo.panel import Group, Panel, panel_of, sampler_choices
from latdiff.demo.shelf import Shelf
from latdiff.errors import UserError

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
RAW: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}  # `requests` checks what arrives
LIVE: dict[str, Any] = {"interactive": True}  # Gradio takes a box for output that only listeners of `_sliders` read
HEAD = """# Latent text diffusion, steered by sliders
Each text is denoised as a whole from random latents. A slider pushes every denoising step towards a value: 0 is off,
1 is the usual push. Move one, press **Sample**, and compare with what the same noise gives without it."""
EDIT = """Your text is read into latents, noised part of the way, and denoised again towards the sliders. The rest of it
should stay. It must be of the kind that the checkpoint was trained on."""
FIT = """A head is a logistic regression on latents, fitted in seconds; the model itself is not trained again. Paste or
upload labelled texts, as CSV with a first line of column names or as JSON lines, at least five of each label and better
a hundred. The head's sliders then stand at the top of the list, for you alone, until the page is loaded again; all
sliders return to 0."""


def build(shelf: Shelf) -> gr.Blocks:
    """The page of a shelf, not yet served."""
    with gr.Blocks(title="latdiff demo", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        _Page(shelf, page)
    return page


class _Page:
    """The components, and what happens when they are used."""

    def __init__(self, shelf: Shelf, page: gr.Blocks):
        self.shelf = shelf
        self.own, self.panel = gr.State(()), gr.State(None)
        gr.Markdown(HEAD)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._settings()
                gr.render(inputs=[self.panel], triggers=[self.panel.change], show_progress="hidden")(self._sliders)
            with gr.Column(scale=5, min_width=320):
                with gr.Tab("Sample", elem_id="tab-sample"):
                    self._sample_tab()
                with gr.Tab("Edit a text", elem_id="tab-edit"):
                    self._edit_tab()
                with gr.Tab("A head of your own", elem_id="tab-fit"):
                    self._fit_tab()
        gr.api(self.sample, api_name="sample", **ONE_AT_A_TIME)
        gr.api(self.edit, api_name="edit", **ONE_AT_A_TIME)
        looked: dict[str, Any] = {
            "fn": self._look, "inputs": [self.checkpoint, self.own],
            "outputs": [self.panel, self.about, self.words, self.label, self.steps, self.sampler],
            "show_progress": "minimal", "show_progress_on": [self.about], **RAW, **ONE_AT_A_TIME}
        page.load(**looked)
        self.checkpoint.change(**looked)
        self.panel.change(lambda panel: [gr.Button(interactive=panel is not None)] * 2, self.panel,
                          [self.go, self.edit_go], api_visibility="private")

    def _settings(self) -> None:
        names = list(self.shelf.folders)
        self.checkpoint = gr.Dropdown(names, value=names[0], label="Checkpoint", elem_id="checkpoint")
        self.about = gr.HTML("opening the checkpoint ...", elem_id="about")
        with gr.Accordion("Steps, sampler, seed, number of texts", open=False, elem_id="settings"):
            self.steps = gr.Slider(1, requests.MOST_STEPS, value=25, step=1, label="Steps", elem_id="steps", **LIVE)
            self.sampler = gr.Dropdown(sampler_choices(), value="", label="Sampler", elem_id="sampler", **LIVE)
            with gr.Row():
                self.seed = gr.Number(0, precision=0, label="Seed", elem_id="seed", min_width=90, **LIVE)
                self.samples = gr.Slider(1, requests.MOST_SAMPLES, value=3, step=1, label="Texts", elem_id="samples",
                                         min_width=120, **LIVE)

    def _sample_tab(self) -> None:
        self.words = gr.Textbox(visible=False, label="First words", elem_id="words", max_length=requests.MOST_LETTERS,
                                **LIVE)
        self.label = gr.Dropdown([("none", "")], value="", visible=False, label="Class", elem_id="class",
                                 **LIVE)
        with gr.Row():
            self.go = gr.Button("Sample", variant="primary", elem_id="go", interactive=False)
            another = gr.Button("Another seed", elem_id="another")
        another.click(lambda: random.randrange(10**6), outputs=[self.seed], api_visibility="private")
        self.drawn = gr.HTML("Texts appear here as they emerge from noise.", elem_id="drawn", min_height=120)

    def _edit_tab(self) -> None:
        gr.Markdown(EDIT)
        self.text = gr.Textbox(label="Your text", lines=4, max_length=requests.MOST_LETTERS, elem_id="text", **LIVE)
        gr.Examples([[text] for text in examples.TEXTS], self.text, label="Or click one")
        self.far = gr.Slider(0.05, 1, value=0.65, step=0.05, label="Strength: how much may change", elem_id="far",
                             **LIVE)
        self.edit_go = gr.Button("Edit", variant="primary", elem_id="edit-go", interactive=False)
        self.edited = gr.HTML(elem_id="edited", min_height=80)

    def _fit_tab(self) -> None:
        gr.Markdown(FIT)
        with gr.Row():
            name = gr.Textbox(label="Name of the attribute", placeholder="tone", elem_id="fit-name", min_width=140)
            text_column = gr.Textbox("text", label="Column of the texts", elem_id="fit-text-column", min_width=140)
            label_column = gr.Textbox("label", label="Column of the labels", elem_id="fit-label-column", min_width=140)
        pasted = gr.Textbox(label="Examples", lines=4, max_lines=4, elem_id="fit-pasted",
                            placeholder='text,label\n"We loved the pasta.",good\n"It was cold.",bad')
        file = gr.File(label=f"Or a file that ends in {', '.join(ENDINGS)}", file_types=list(ENDINGS), height=110,
                       elem_id="fit-file")
        gr.Examples([["narrator", examples.narrators()], ["toss", examples.tosses()]], [name, pasted],
                    label="Or click a set of stories",
                    example_labels=["Who tells the story: I or others", "Labelled by the toss of a coin"])
        go = gr.Button("Fit", variant="primary", elem_id="fit-go")
        fitted = gr.HTML(elem_id="fitted", min_height=80)
        go.click(self._fit, [self.checkpoint, self.own, name, pasted, file, text_column, label_column],
                 [self.own, self.panel, fitted], show_progress="minimal", show_progress_on=[fitted], **RAW,
                 **ONE_AT_A_TIME)

    # What happens when they are used

    def _look(self, checkpoint: Any, own: tuple[Fitted, ...]) -> list[Any]:
        """Open a checkpoint, and make the boxes fit it."""
        try:
            name = requests.text_of("checkpoint", checkpoint, 300)
            with self.shelf.use(name) as opened:
                panel = panel_of(name, opened, own)
        except UserError as error:
            return [None, gr.HTML(showing.problem_html(error), visible=True), *(gr.skip() for _ in range(4))]
        words = {"start": "First words, which the texts go on from (may be empty)",
                 "source": "Source text, which the texts are conditioned on (may be empty)"}.get(panel.condition)
        return [panel, gr.HTML("".join(map(showing.note, panel.problems)), visible=bool(panel.problems)),
                gr.Textbox(value="", visible=words is not None, label=words or ""),
                gr.Dropdown([("none", ""), *((one, one) for one in panel.classes)], value="",
                            visible=bool(panel.classes)),
                panel.steps, gr.Dropdown(sampler_choices(panel), value="")]

    def _sliders(self, panel: Panel | None) -> None:
        """Render the sliders of a panel, and what is clicked with them."""
        if panel is None:
            return
        places: list[tuple[str, str | None]] = []  # head and value of each box; None: the box holds the value itself
        boxes: list[Any] = []
        with gr.Row(elem_classes="ld-tries") as tries_row:
            gr.Markdown("Try" if panel.groups else "This checkpoint has no heads; fit one in the last tab.")
        for place, group in enumerate(panel.groups):
            with gr.Accordion(_title(group), open=place < 2, elem_classes="ld-head"):
                for value, box in _boxes(group):
                    places.append((group.head, value))
                    boxes.append(box)

        def strengths(values: tuple[Any, ...]) -> requests.Strengths:
            found: dict[str, dict[str, Any]] = {}
            number = ""
            for (head, value), given in zip(places, values, strict=True):
                if value is None:
                    number = f"{given}"
                else:
                    found.setdefault(head, {})[value or number] = given
            return found

        def draw(own, steps, sampler, seed, samples, words, label, *values) -> Iterator[str]:
            cond = {"class": label, "": ""}.get(panel.condition, words)
            yield from self._shown(
                lambda: requests.wanted_sample(panel.checkpoint, strengths(values), steps, sampler, seed, samples,
                                               cond),
                own, "without the sliders", "steered")

        def edit(own, steps, sampler, seed, text, far, *values) -> Iterator[str]:
            yield from self._shown(
                lambda: requests.wanted_edit(panel.checkpoint, strengths(values), steps, sampler, seed, text, far),
                own, "your text", "edited")

        asked: dict[str, Any] = {"show_progress": "minimal", **RAW, **ONE_AT_A_TIME}
        common = [self.own, self.steps, self.sampler, self.seed]
        sampling = {"fn": draw, "inputs": [*common, self.samples, self.words, self.label, *boxes],
                    "outputs": [self.drawn], **asked}
        self.go.click(**sampling)
        self.edit_go.click(edit, [*common, self.text, self.far, *boxes], [self.edited], **asked)
        with tries_row:
            for title, values in _tries(panel.groups, places):
                button = gr.Button(title, size="sm", min_width=60)
                button.click(lambda values=values: values, outputs=boxes, api_visibility="private").then(**sampling)

    def _shown(self, wanted, own: tuple[Fitted, ...], before: str, after: str) -> Iterator[str]:
        """Frames of a request as HTML, and what is wrong with it in their place."""
        try:
            asked = wanted()
            for frame in frames(self.shelf, asked, heads_of(own, asked.checkpoint)):
                yield showing.frame_html(frame, before, after)
        except UserError as error:
            yield showing.problem_html(error)
        except Exception as error:
            yield showing.problem_html(_unforeseen(error))

    def _fit(self, checkpoint, own, name, pasted, file, text_column, label_column) -> list[Any]:
        """Fit a visitor's head, and add its sliders."""
        try:
            fitted = fit(self.shelf, own, checkpoint, name, pasted, _uploaded(file), text_column, label_column)
            own = replaced(own, fitted)
            with self.shelf.use(fitted.checkpoint) as opened:
                panel = panel_of(fitted.checkpoint, opened, own)
        except UserError as error:
            return [gr.skip(), gr.skip(), showing.problem_html(error)]
        except Exception as error:
            return [gr.skip(), gr.skip(), showing.problem_html(_unforeseen(error))]
        return [own, panel, showing.fitted_html(fitted, list(heads_of(own, fitted.checkpoint)))]

    # For programs: gradio_client, curl

    def sample(self, checkpoint: str, sliders: dict, steps: int | None = None, sampler: str = "", seed: int = 0,
               samples: int = 1, cond: str = "") -> dict:
        """Sample texts; sliders are {head: {value: strength}}."""
        return self._answer(lambda: requests.wanted_sample(checkpoint, sliders, steps, sampler, seed, samples, cond))

    def edit(self, checkpoint: str, sliders: dict, text: str, strength: float = 0.65, steps: int | None = None,
             sampler: str = "", seed: int = 0) -> dict:
        """Edit a text towards sliders, {head: {value: strength}}."""
        return self._answer(lambda: requests.wanted_edit(checkpoint, sliders, steps, sampler, seed, text, strength))

    def _answer(self, wanted) -> dict:
        last = Frame()
        try:
            for last in frames(self.shelf, wanted()):  # noqa: B007
                pass
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception as error:
            raise gr.Error(str(_unforeseen(error)), print_exception=False) from None
        return {key: asdict(last)[key] for key in ("texts", "plain", "scores", "notes", "seconds")}


def _title(group: Group) -> str:
    right = "" if group.right is None else f" · right on {group.right:.0%}"
    return f"{group.head}{' (yours)' if group.own else ''}{right}{' · at chance' if group.chance else ''}"


def _boxes(group: Group) -> Iterator[tuple[str | None, Any]]:
    """The boxes of a head, each with its value; of a head of numbers one for the number, then a slider."""
    slider: dict[str, Any] = {"minimum": 0, "maximum": requests.MOST_STRENGTH, "value": 0, "step": 0.25, "buttons": [],
                              "min_width": 120}
    if not group.values:
        yield None, gr.Number(0, label=group.head)
        yield "", gr.Slider(**slider, label="strength")
    for value in group.values:
        yield value, gr.Slider(**slider, label=value)


def _tries(groups: tuple[Group, ...], places: list[tuple[str, str | None]]) -> list[tuple[str, list[float]]]:
    """Settings of the sliders to click: a value of each of the first heads, and two at once."""
    firsts = [(group.head, group.values[-1]) for group in groups if group.values and not group.chance][:3]
    picks = [[one] for one in firsts] + ([firsts[:2]] if len(firsts) > 1 else [])
    return [(" + ".join(value for _, value in pick), [float(place in pick) for place in places]) for pick in picks]


def _uploaded(file: Any) -> str | None:
    """The path of a file that Gradio has received; no other is read, whatever a request names."""
    if file is None:
        return None
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise UserError("the file must be one that was uploaded to this page")
    return path


def _unforeseen(error: Exception) -> UserError:
    """A sentence for what latdiff did not foresee, whose traceback goes to the terminal."""
    traceback.print_exception(error, file=sys.stderr)
    return UserError("this request failed in a way that latdiff did not foresee, and the terminal says where; others "
                     "go on")
