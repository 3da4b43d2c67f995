"""The model card of a checkpoint: its README.md, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from latdiff.config import Recipe, load_recipe
from latdiff.data.sources import HUB_ID
from latdiff.errors import UserError
from latdiff.evaluation.report import grouped, of_any_figures, older_figures, picture, summary
from latdiff.heads.files import label_heads
from latdiff.heads.guessing import held_out
from latdiff.storage import written_whole

TEMPLATE = """---
{{ card_data }}
---

# {{ recipe.name }}

A latent diffusion model of text, trained by latdiff on {{ recipe.data.source }} (`recipe.yaml`, seed \
{{ recipe.seed }}): a denoiser draws a few latent vectors, and a decoder writes them out as a text.

## Sampling

    latdiff sample {{ folder }} --num-samples 8 --seed 0{{ ' --%s "%s"' % (flag, words) if words }}

or in Python, with `from latdiff import open_checkpoint`

    open_checkpoint("{{ folder }}")({{ '"%s", ' % words if words }}num_samples=8).texts
{%- if heads %}

## Steering

Heads that come with it, and how often each is right on texts that it was not fitted on:
{% for line in heads %}
- {{ line }}
{%- endfor %}
{%- endif %}

## Measurements

{% if figures.seeds -%}
Measured by `latdiff evaluate`, seeds {{ figures.seeds | join(", ") }}, {{ figures.machine }}\
{{ ", " + figures.date if figures.date }}; all figures are in `metrics.json`.
{%- else -%}
Not evaluated yet: `latdiff evaluate {{ folder }}` does that.{{ " What training measured:" if summary }}
{%- endif %}
{%- if summary %}

```
{{ summary }}
```
{%- endif %}
{%- if samples %}

## Samples

The first five, unchosen and unsteered:
{% for text in samples %}
- {{ text | indent(2) }}
{%- endfor %}
{%- endif %}
{%- if pictures %}

## Pictures
{%- for name, file, caption in pictures %}

![{{ name }}]({{ file }})

{{ caption }}
{%- endfor %}
{%- endif %}
{%- if sweep %}

## Control against fluency
{{ sweep }}
{%- endif %}

"""
BASELINE = """---
{{ card_data }}
---

# {{ folder.name }}

A {{ what }} by latdiff on {{ recipe.data.source }} (`recipe.yaml`, seed {{ recipe.seed }}) for \
comparison with latent diffusion on the same texts. transformers opens it:

    from transformers import AutoTokenizer, {{ auto }}

    model = {{ auto }}.from_pretrained("{{ folder }}")
    tokenizer = AutoTokenizer.from_pretrained("{{ folder }}")

{{ measured }}
"""
CONDITIONS = {"label": "A CLASS", "text": "A source text.", "prefix": "A first sentence.", "start": "The first words"}
CAPTIONS = {
    "curves": "A stage is done where its line is flat; one that still falls gains by more steps. A jump that does not "
              "come back is a learning rate that is too high.",
    "lengths": "The line of each sampler should follow the area of the unseen texts.",
    "reconstruction": "The later the lines fall, the more error of the denoiser the decoder forgives.",
    "denoising": "Where the error falls from 1 to near 0, sampling decides what a text says.",
    "latents": "The arrows are where a head pushes: labels should lie apart along them. Those that lie in one heap "
               "may differ in dimensions that a plane leaves out; the accuracy of the head says whether they do.",
    "trajectory": "Where a head steers, its probability should rise above the dashed line, the same noise unsteered, "
                  "and the text say so at the end. If the last estimate is much larger than real texts, words break.",
}
KNOWN = {"texts", "accuracy", "majority"}  # of a head's report, for its line
TAGS = "text-generation", "latent-diffusion", "text-diffusion"
MARK = "<!-- written by latdiff, which leaves this card alone once it is edited: {} -->"
COLUMNS = {"mode": "", "scale": ".4g"} | dict.fromkeys(
    ("success", "worst", "validity", "slot_tv_floors", "perplexity", "distinct"), ".3f")


def write_card(folder: Path, name: str | None = None) -> None:
    """Write the checkpoint's README.md: what it is, how to sample from it, and what was measured.

    One that somebody has edited is left as it is, with a warning.

    Args:
        folder: The checkpoint, with its recipe.yaml, and with metrics.json and pictures where there are any.
        name: By which it is opened, such as a hub id (default: the folder).

    Raises:
        UserError: As `card_of` does.
    """
    _save(card_of(folder, name), folder, name)


def card_of(folder: Path, name: str | None = None) -> ModelCard:
    """The card that `write_card` writes, with the same arguments.

    Raises:
        UserError: Where there is no recipe.yaml, for figures that no evaluation has written, and for a head that cannot
            be opened.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} has no recipe.yaml, from which its card says what it has learnt; put that of its "
                        "training there, or push the pipeline from Python, with a card of a few lines: push_to_hub")
    figures, recipe = older_figures(folder / "metrics.json"), load_recipe(str(folder / "recipe.yaml"), saved=True)
    files = {name: picture(folder / "metrics.json", name) for name in CAPTIONS}
    pictures = [(name, file.name, CAPTIONS[name]) for name, file in files.items() if file.exists()]
    place = name or (folder.name if folder.is_absolute() else folder)
    heads = head_lines(folder)
    with of_any_figures(folder / "metrics.json"):
        samples = [text for row in figures.get("unconditional", [])[:1] for text in row["samples"][:5]]
        return ModelCard.from_template(
            card_data(recipe), template_str=TEMPLATE, recipe=recipe, folder=place, figures=figures,
            words=CONDITIONS.get(recipe.data.condition), flag="prompt" if recipe.data.condition == "start" else "cond",
            summary=summary(figures), samples=samples, heads=heads, pictures=pictures,
            sweep=sweep_tables(figures.get("sweep", [])),
        )


def head_lines(folder: Path) -> list[str]:
    """A line of Markdown for every head of labels in a checkpoint: how it is asked for, and how good it is."""
    lines = []
    for head in label_heads(folder):
        labels = ", ".join(f"`{label}`" for label in map(str, head.classes_))
        known = f": {held_out(head.report)}" if set(head.report or ()) >= KNOWN else ""
        lines.append(f"`--guide {head.name}=LABEL`, {labels}{known}")
    return lines


def write_baseline_card(folder: Path, what: str, auto: str, measured: str) -> None:
    """Write the README.md of a model that is no latent diffusion: what it is, and how to open it.

    Args:
        folder: The model's, with its recipe.yaml.
        what: What it is and how it came about, e.g. "causal language model, trained from scratch".
        auto: The class of transformers that opens it, e.g. AutoModelForCausalLM.
        measured: A sentence with what training measured, or what would.
    """
    recipe = load_recipe(str(folder / "recipe.yaml"), saved=True)
    place = Path(folder.name) if folder.is_absolute() else folder
    card = ModelCard.from_template(
        card_data(recipe, "transformers", ["text-generation"]), template_str=BASELINE, recipe=recipe, folder=place,
        what=what, auto=auto, measured=measured,
    )
    _save(card, folder)


def _save(card: ModelCard, folder: Path, name: str | None = None) -> None:
    """Write a card with a digest of itself behind it; warn and leave it where the one that is there was edited."""
    path, text = folder / "README.md", str(card).rstrip() + "\n\n"
    if path.is_file() and not path.is_symlink() and not _is_ours(path.read_text(encoding="utf-8", errors="replace")):
        warnings.warn(f"{Path(name or folder, path.name)} has been edited since latdiff wrote it, and stays as it is; "
                      "move it away for a new card", stacklevel=3)
        return
    with written_whole(path) as beside:
        beside.write_text(f"{text}{MARK.format(_digest(text))}\n", encoding="utf-8")


def _is_ours(text: str) -> bool:
    """Whether a card is still as it was written."""
    above, mark, _ = text.rpartition(MARK.partition("{")[0])
    return bool(mark) and text == f"{above}{MARK.format(_digest(above))}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def card_data(recipe: Recipe, library: str = "latdiff", tags: Sequence[str] = TAGS) -> ModelCardData:
    """The front matter of a recipe's card. It names no licence, for the recipe knows none.

    Args:
        recipe: The checkpoint's recipe.
        library: That opens the checkpoint.
        tags: By which the hub finds it.

    Returns:
        Tags, the ids of the hub's data sets among its sources, and the language where latdiff writes the texts.
    """
    sources = recipe.data.source, *recipe.data.extra_sources
    ids = [HUB_ID.fullmatch(source) for source in sources if not Path(source).expanduser().exists()]
    return ModelCardData(
        library_name=library, pipeline_tag="text-generation", tags=list(tags),
        datasets=[found[1] for found in ids if found] or None,
        language="en" if sources == ("storyworld",) else None,
    )


def sweep_tables(rows: list[dict]) -> str:
    """Control against fluency as Markdown: a table and a picture for every head."""
    parts = []
    for name, of_head in grouped(rows, "attribute"):
        keys = [key for key in COLUMNS if key in of_head[0]]
        cells = [[f"{row[key]:{COLUMNS[key]}}" for key in keys] for row in of_head]
        table = "\n".join(f"| {' | '.join(line)} |" for line in (keys, ["---"] * len(keys), *cells))
        parts.append(f"\nHead {name}, {of_head[0]['n']:,} texts a row:\n\n{table}\n\n"
                     f"![control of {name}]({picture(Path('metrics.json'), f'control-{name}').name})\n\n"
                     "The higher a line at the same validity, variety or perplexity, the better its mode.\n")
    return "".join(parts).rstrip()
