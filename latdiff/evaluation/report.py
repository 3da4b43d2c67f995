"""What is written about a checkpoint: figures as JSON, and a summary for a person."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latdiff.errors import UserError
from latdiff.evaluation.metrics import mean_of
from latdiff.precision import compute_dtype


def reconstruction_table(measured: dict) -> str:
    """The figures of `reconstruction`, as a person reads them."""
    rows = [("tokens right", measured["token_accuracy"]), ("exact match", measured["exact_match"])]
    rows += [(f"exact match, latent noise of {sd} sd", share) for sd, share in measured["under_noise"].items()]
    lines = [f"{name:34} {value:.3f}" for name, value in rows]
    return "\n".join([f"reconstruction of {measured['n']:,} unseen texts", *lines])


def denoising_line(measured: dict) -> str:
    """The figures of `denoising` at every second time."""
    pairs = list(zip(measured["times"], measured["errors"], strict=True))[::2]
    return "error of the denoiser (1 knows nothing) at " + ", ".join(f"time {t:g} {error:.3f}" for t, error in pairs)


def summary(document: dict) -> str:
    """The document's main figures, a line each, always with the figure that keeps them honest."""
    lines = []
    if "reconstruction" in document:
        lines.append(reconstruction_table(document["reconstruction"]))
    if "denoising" in document:
        lines.append(denoising_line(document["denoising"]))
    scorers = document.get("scorers", {})
    lines += [f"{name} is judged by {judge}" for name, judge in scorers.get("judges", {}).items()]
    lines += [f"{figure} by {scorers[key]}" for key, figure in (
        ("fluency", "perplexity"), ("mauve", "MAUVE"), ("bert_score", "BERTScore")) if key in scorers]
    spread = document.get("sd", {})
    if "unseen" in document:
        lines.append(f"{document['unseen']['n']:,} unseen texts: {_quality(document['unseen'], {})}")
    rows = document.get("unconditional", [])
    for row, sd in zip(rows, spread.get("unconditional", [{}] * len(rows)), strict=True):
        seconds = f", {row['seconds']:.0f} s" if "seconds" in row else ""
        lines.append(f"{row['n']:,} samples, {writer(row)}: {_quality(row, sd)}{seconds}")
    if spread:
        lines.append(f"means ± standard deviations over {len(document['seeds'])} seeds, so many samples each")
    for scale, rows in grouped(document.get("by_class", []), "guidance_scale"):
        weight = "" if scale is None else f", guidance scale {scale:g}"
        lines.append(_success(f"told its {rows[0]['attribute']}{weight}", rows))
    for row in document.get("by_source", []):
        near = f", BERTScore {row['bert_score']:.3f}" if "bert_score" in row else ""
        as_they_are = f"the sources as they are {row['sources_as_they_are']:.1f} and {row['sari_of_sources']:.1f}"
        lines.append(f"told its source, guidance scale {row['guidance_scale']:g}, best of {row['candidates']}: BLEU "
                     f"{row['bleu']:.1f}, SARI {row['sari']:.1f} ({as_they_are}){near}{_fluency([row])}, "
                     f"{row['n']:,} texts")
    steered = list(grouped(document.get("guided", []), "attribute"))
    if document.get("composed"):
        steered.append((f"{' and '.join(document['composed'][0]['targets'])} at once", document["composed"]))
    lines += [_success(f"steered by {names}", rows) + f" at scale {rows[0]['scale']:g}" for names, rows in steered]
    reranked = [row | {"names": list(row["targets"])} for row in document.get("reranked", [])]
    for names, rows in grouped(reranked, "names"):
        lines.append(_success(f"best of {rows[0]['best_of']} by the head of {' and of '.join(names)}", rows))
    return "\n".join(lines)


def grouped(rows: list[dict], key: str) -> Iterator[tuple[Any, list[dict]]]:
    """Each value of a key, None where there is none, with the neighbouring rows that have it."""
    for value, group in itertools.groupby(rows, key=lambda row: row.get(key)):
        yield value, list(group)


def writer(row: dict) -> str:
    """Who wrote a row's texts: "ddpm 25 steps", "nucleus 0.9", the name of a file."""
    if "scheduler" in row:
        return f"{row['scheduler']} {row['steps']} steps" + (f", keep {row['keep']:g}" if "keep" in row else "")
    return next((str(row[key]) for key in ("sampler", "file") if key in row), "no settings")


def _quality(row: dict, sd: dict) -> str:
    """The figures of unsteered texts, with their standard deviations over seeds where there are several."""

    def shown(key: str, digits: int = 3) -> str:
        return f"{row[key]:.{digits}f}" + (f" ± {sd[key]:.{digits}f}" if key in sd else "")

    parts = []
    if "validity" in row:
        tv, around = row["slot_tv"], f" ± {sd['slot_tv']['mean']:.3f}" if "slot_tv" in sd else ""
        parts += [f"valid {shown('validity')}", f"slot TV {tv['mean']:.3f}{around} (floor {tv['floor']:.3f})"]
    parts.append(f"distinct {shown('distinct')}")
    parts += [f"perplexity {shown('perplexity', 1)}"] if "perplexity" in row else []
    parts += [f"MAUVE {shown('mauve')}"] if "mauve" in row else []
    parts += [f"diversity {shown('diversity')}"] if "diversity" in row else []
    parts += [f"round trip {shown('round_trip', 2)} sd"] if "round_trip" in row else []
    return ", ".join([*parts, f"memorised {shown('memorised')}"])


def _success(title: str, rows: list[dict]) -> str:
    valid = f", valid {mean_of(rows, 'validity'):.3f}" if "validity" in rows[0] else ""
    worst = min(row["success"] for row in rows)
    return (f"{title}: right {mean_of(rows, 'success'):.3f} (worst {worst:.3f}){valid}{_fluency(rows)}, "
            f"{sum(row['n'] for row in rows):,} samples")


def _fluency(rows: list[dict]) -> str:
    return f", perplexity {mean_of(rows, 'perplexity'):.1f}" if "perplexity" in rows[0] else ""


def picture(document: Path, name: str) -> Path:
    """Where a picture of a document lies: docs/lab/results/e2e.json -> docs/lab/results/e2e-lengths.png."""
    return document.with_name(f"{document.stem}-{name}.png")


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


def machine(dtype: str = "auto") -> str:
    """The processor, its threads, the GPU and the dtype that is denoised in, for beside a figure."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    computed = compute_dtype(dtype, "cuda" if gpu else "cpu")
    return (f"{_processor()}, {torch.get_num_threads()} threads{gpu}, {str(computed).removeprefix('torch.')}, torch "
            f"{torch.__version__}")


def _processor() -> str:
    """The model's name where the system says it, as Linux does; else the architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
