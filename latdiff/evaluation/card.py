"""The model card of a checkpoint, its README.md."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from latdiff.config import load_recipe
from latdiff.evaluation.report import picture, summary


def write_card(folder: Path) -> None:
    """The checkpoint's README.md: what it is, how to sample from it, and what was measured."""
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    shown = [row["samples"][:5] for row in figures.get("unconditional", [])[:1]]
    samples = "".join(f"- {text}\n" for texts in shown for text in texts)
    sweep = sweep_tables(figures.get("sweep", []))
    measured = "Not measured yet: `latdiff evaluate` does that. What training found:"
    if "seeds" in figures:
        seeds = ", ".join(map(str, figures["seeds"]))
        measured = f"Measured by `latdiff evaluate`, seeds {seeds}, {figures['machine']}; all of it in\n`metrics.json`:"
    names = [picture(folder / "metrics.json", name).name for name in ("lengths", "reconstruction", "denoising")]
    pictures = "".join(f"![]({name})\n" for name in names if (folder / name).exists())
    (folder / "README.md").write_text(
        f"""# {recipe.name}

A latent text diffusion pipeline, trained by latdiff on {recipe.data.source} (`recipe.yaml`, seed {recipe.seed}).

    latdiff sample {folder} --num-samples 8 --seed 0

{measured}

```
{summary(figures)}
```

{"Unsteered samples, the first five:" if samples else ""}

{samples}
{pictures}{sweep}""",
        encoding="utf-8",
    )


def sweep_tables(rows: list[dict]) -> str:
    """Control against fluency as Markdown: a table and a picture for every head."""
    parts = []
    for name, group in itertools.groupby(rows, key=lambda row: row["attribute"]):
        of_head = list(group)
        keys = [key for key in ("mode", "scale", "success", "worst", "validity", "slot_tv_floors", "perplexity",
                            "distinct")
                if key in of_head[0]]
        cells = [[f"{row[key]:.3f}" if key not in ("mode", "scale") else f"{row[key]}" for key in keys]
                 for row in of_head]
        lines = [" | ".join(row) for row in (keys, ["---"] * len(keys), *cells)]
        table = "\n".join(f"| {line} |" for line in lines)
        parts.append(f"\nControl against fluency, head {name}, n = {of_head[0]['n']} a row:\n\n{table}\n\n"
                     f"![](metrics-control-{name}.png)\n")
    return "".join(parts)
