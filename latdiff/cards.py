"""What is written about a checkpoint: figures as JSON, a summary for a person, the model card."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

from latdiff.config import UserError, load_recipe
from latdiff.metrics import mean_of


def reconstruction_table(measured: dict) -> str:
    """The figures of `reconstruction`, as a person reads them."""
    rows = [("tokens right", measured["token_accuracy"]), ("exact match", measured["exact_match"])]
    rows += [(f"exact match, latent noise of {sd} sd", share) for sd, share in measured["under_noise"].items()]
    lines = [f"{name:34} {value:.3f}" for name, value in rows]
    return "\n".join([f"reconstruction of {measured['n']:,} unseen texts", *lines])


def summary(document: dict) -> str:
    """The document's main figures, a line each, always with the figure that keeps them honest."""
    lines = []
    if "reconstruction" in document:
        lines.append(reconstruction_table(document["reconstruction"]))
    if "fluency" in document:
        judge = document["fluency"]
        lines.append(f"perplexity a token of {judge['n']:,} unseen texts, by {judge['model']}: {judge['tokens']:.1f}")
    if "mauve" in document:
        crowd = document["mauve"]
        lines.append(f"MAUVE of training texts against {crowd['n']:,} unseen ones, by {crowd['model']}: "
                     f"{crowd['training_texts']:.3f}")  # fmt: skip
    lines += [f"{name} is judged by {judge}" for name, judge in document.get("judges", {}).items()]
    for row in document.get("unconditional", []):
        quality = f"valid {row['validity']:.3f}, slot TV {row['slot_tv']['mean']:.3f} (floor " \
                  f"{row['slot_tv']['floor']:.3f}), " if "validity" in row else ""  # fmt: skip
        quality += f"distinct {row['distinct']:.3f}{_fluency([row])}"
        quality += f", MAUVE {row['mauve']:.3f}" if "mauve" in row else ""
        lines.append(f"{row['n']:,} samples, {row['scheduler']} {row['steps']} steps: {quality}, memorised "
                     f"{row['memorised']:.3f}, {row['seconds']:.0f} s")  # fmt: skip
    for scale, rows in itertools.groupby(document.get("by_class", []), key=lambda row: row["guidance_scale"]):
        rows = list(rows)
        lines.append(_success(f"told its {rows[0]['attribute']}, guidance scale {scale:g}", rows))
    for row in document.get("by_source", []):
        as_they_are = f"the sources as they are {row['sources_as_they_are']:.1f} and {row['sari_of_sources']:.1f}"
        lines.append(f"told its source, guidance scale {row['guidance_scale']:g}, best of {row['candidates']}: BLEU "
                     f"{row['bleu']:.1f}, SARI {row['sari']:.1f} ({as_they_are}){_fluency([row])}, "
                     f"{row['n']:,} texts")  # fmt: skip
    groups = itertools.groupby(document.get("guided", []), key=lambda row: row["attribute"])
    groups = [(f"steered by {name}", list(rows)) for name, rows in groups]
    if document.get("composed"):
        groups.append((f"steered by {' and '.join(document['composed'][0]['targets'])} at once", document["composed"]))
    lines += [_success(title, rows) + f" at scale {rows[0]['scale']:g}" for title, rows in groups]
    return "\n".join(lines)


def _success(title: str, rows: list[dict]) -> str:
    valid = f", valid {mean_of(rows, 'validity'):.3f}" if "validity" in rows[0] else ""
    worst = min(row["success"] for row in rows)
    return (f"{title}: right {mean_of(rows, 'success'):.3f} (worst {worst:.3f}){valid}{_fluency(rows)}, "
            f"{sum(row['n'] for row in rows):,} samples")  # fmt: skip


def _fluency(rows: list[dict]) -> str:
    return f", perplexity {mean_of(rows, 'perplexity'):.1f}" if "perplexity" in rows[0] else ""


def write_card(folder: Path) -> None:
    """The checkpoint's README.md: what it is, how to sample from it, and what was measured."""
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    shown = [row["samples"][:5] for row in figures.get("unconditional", [])[:1]]
    samples = "".join(f"- {text}\n" for texts in shown for text in texts)
    sweep = sweep_tables(figures.get("sweep", []))
    (folder / "README.md").write_text(
        f"""# {recipe.name}

A latent text diffusion pipeline, trained by latdiff on {recipe.data.source} (`recipe.yaml`, seed {recipe.seed}).

    latdiff sample {folder} --num-samples 8 --seed 0

Measured by `latdiff evaluate`, seed {figures.get("seed", "not yet")}, {figures.get("machine", "not yet")}; all of it in
`metrics.json`:

```
{summary(figures)}
```

{"Unsteered samples, the first five:" if samples else ""}

{samples}{sweep}""",
        encoding="utf-8",
    )


def sweep_tables(rows: list[dict]) -> str:
    """Control against fluency as Markdown: a table and a picture for every head."""
    parts = []
    for name, of_head in itertools.groupby(rows, key=lambda row: row["attribute"]):
        of_head = list(of_head)
        keys = [key for key in ("mode", "scale", "success", "worst", "validity", "slot_tv_floors", "perplexity",
                            "distinct")
                if key in of_head[0]]  # fmt: skip
        cells = [[f"{row[key]:.3f}" if key not in ("mode", "scale") else f"{row[key]}" for key in keys]
                 for row in of_head]  # fmt: skip
        lines = [" | ".join(row) for row in (keys, ["---"] * len(keys), *cells)]
        parts.append(f"\nControl against fluency, head {name}, n = {of_head[0]['n']} a row:\n\n"
                     + "\n".join(f"| {line} |" for line in lines) + f"\n\n![](control-{name}.png)\n")  # fmt: skip
    return "".join(parts)


def older_figures(path: Path) -> dict:
    """What a document holds, nothing where there is none. Raises UserError for a file of another kind."""
    if not path.exists():
        return {}
    try:
        return {} | json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} exists but holds no figures ({error}); name another file") from None


def training_figures(folder: Path) -> dict:
    """What training measured of a checkpoint and no evaluation measures again, from its metrics.json."""
    figures = older_figures(folder / "metrics.json")
    return {key: figures[key] for key in ("training", "reconstruction") if key in figures}


def update_metrics(folder: Path, figures: dict) -> None:
    """Put figures into the folder's metrics.json, leaving the others as they are."""
    path = folder / "metrics.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, document | figures)


def row_line(row: dict) -> str:
    """A row of figures on one line, without its samples."""
    figures = ((key, f"{value:.3f}" if isinstance(value, float) else value) for key, value in row.items())
    return " ".join(f"{key} {value}" for key, value in figures if key != "samples")


def write_json(path: Path, document: dict) -> None:
    """Write in one move: a cut-off write leaves the older file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
