"""What is written about a checkpoint: figures as JSON, and a summary in plain text."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latdiff.errors import UserError, first_line
from latdiff.evaluation.metrics import mean_of
from latdiff.precision import compute_dtype
from latdiff.storage import new_file, unfinished, write_text

BY_WORDS = "the label's words stand in the text"  # a row's judge, where there is no other
NO_FLUENCY = ("fluency: not measured; `latdiff evaluate ... --fluency MODEL` does that, MODEL a causal language model "
              "from a folder or the hub, or smollm2-135m-instruct")


def reconstruction_table(measured: dict) -> str:
    """The figures of `reconstruction`, one a line."""
    names = "token_accuracy", "exact_match", "copied_by_backbone", "unknown_pieces"
    rows = [(name.replace("_", " "), measured[name]) for name in names if name in measured]
    rows += [(f"exact match, latent noise of {sd} sd", share) for sd, share in measured["under_noise"].items()]
    lines = [f"{name:36} {value:.3f}" for name, value in rows]
    return "\n".join([f"reconstruction of {measured['n']:,} unseen texts", *lines])


def denoising_line(measured: dict) -> str:
    """The figures of `denoising` at every second time."""
    pairs = list(zip(measured["times"], measured["errors"], strict=True))[::2]
    return "error of the denoiser (1: predicting the mean) at " + ", ".join(
        f"time {t:g} {error:.3f}" for t, error in pairs)


def summary(document: dict) -> str:
    """The main figures of an evaluation, one a line, each beside the figure that it has to be compared with.

    Without a judge of fluency, a line says that fluency was not measured, and how it is.

    Args:
        document: What `latdiff evaluate` writes, or a part of it.

    Returns:
        The lines, without a last newline; nothing for a document without figures.
    """
    lines = []
    if "reconstruction" in document:
        lines.append(reconstruction_table(document["reconstruction"]))
    if "denoising" in document:
        lines.append(denoising_line(document["denoising"]))
    scorers = document.get("scorers", {})
    lines += [f"{name} is judged by {judge}" for name, judge in scorers.get("judges", {}).items()]
    lines += [f"{figure} by {scorers[key]}" for key, figure in (
        ("fluency", "perplexity"), ("mauve", "MAUVE"), ("bert_score", "BERTScore")) if key in scorers]
    lines += [NO_FLUENCY] if "unseen" in document and "fluency" not in scorers else []
    spread = document.get("sd", {})
    if "unseen" in document:
        lines.append(f"{document['unseen']['n']:,} unseen texts: {_quality(document['unseen'], {})}")
    rows = document.get("unconditional", [])
    for row, sd in zip(rows, spread.get("unconditional", [{}] * len(rows)), strict=True):
        seconds = f", {row['seconds']:.0f} s" if "seconds" in row else ""
        lines.append(f"{row['n']:,} samples, {writer(row)}: {_quality(row, sd)}{seconds}")
    if spread:
        lines.append(f"means ± standard deviations over {len(document['seeds'])} seeds, as many samples for each")
    for scale, rows in grouped(document.get("by_class", []), "guidance_scale"):
        weight = "" if scale is None else f", guidance scale {scale:g}"
        lines.append(_success(f"conditioned on {rows[0]['attribute']}{weight}", rows))
    for row in document.get("by_source", []):
        near = f", BERTScore {row['bert_score']:.3f}" if "bert_score" in row else ""
        unchanged = f"unchanged sources {row['sources_as_they_are']:.1f} and {row['sari_of_sources']:.1f}"
        lines.append(f"conditioned on a source, guidance scale {row['guidance_scale']:g}, best of {row['candidates']}: "
                     f"BLEU {row['bleu']:.1f}, SARI {row['sari']:.1f} ({unchanged}){near}{_fluency([row])}, "
                     f"{row['n']:,} texts")
    steered = list(grouped(document.get("guided", []), "attribute"))
    composed = [row | {"names": list(row["targets"])} for row in document.get("composed", [])]
    steered += [(f"{' and '.join(names)} at once", rows) for names, rows in grouped(composed, "names")]
    lines += [_success(f"steered by {names}", rows) + f" at scale {rows[0]['scale']:.4g}" for names, rows in steered]
    reranked = [row | {"names": list(row["targets"])} for row in document.get("reranked", [])]
    for names, rows in grouped(reranked, "names"):
        lines.append(_success(f"best of {rows[0]['best_of']} by the head of {' and of '.join(names)}", rows))
    return "\n".join(lines)


def grouped(rows: list[dict], key: str) -> Iterator[tuple[Any, list[dict]]]:
    """Each value of a key, None where there is none, with the neighbouring rows that have it."""
    for value, group in itertools.groupby(rows, key=lambda row: row.get(key)):
        yield value, list(group)


def writer(row: dict) -> str:
    """What a row's texts were sampled with or read from: "ddpm 25 steps", "nucleus 0.9", the name of a file."""
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
    by_words = (" where the label's own words stand in the text (--judge HEAD=DATA has a classifier judge)"
                if rows[0].get("judge") == BY_WORDS else "")
    return (f"{title}: right {mean_of(rows, 'success'):.3f}{by_words} (worst {worst:.3f}){valid}{_fluency(rows)}, "
            f"{sum(row['n'] for row in rows):,} samples")


def _fluency(rows: list[dict]) -> str:
    return f", perplexity {mean_of(rows, 'perplexity'):.1f}" if "perplexity" in rows[0] else ""


def picture(document: Path, name: str) -> Path:
    """The path of a picture beside its document: results/e2e.json, lengths -> results/e2e-lengths.png.

    A name may be that of a head, which may come from anyone: what could lead to another folder becomes a hyphen.
    """
    plain = re.sub(r"[^\w.-]+", "-", name)[:100]
    return document.with_name(f"{document.stem}-{plain}.png")


def older_figures(path: Path) -> dict:
    """The figures that a document holds.

    Args:
        path: The document, which need not exist.

    Returns:
        Its figures, none where it does not exist.

    Raises:
        UserError: For a file that is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        return {} | json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} exists but holds no figures ({error}); name another file") from None


@contextlib.contextmanager
def of_any_figures(path: Path) -> Iterator[None]:
    """Raise UserError where figures are not as an evaluation writes them, for their file may come from anyone.

    Args:
        path: of the file.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds figures that no evaluation has written ({type(error).__name__}: "
                        f"{first_line(error)}); measure again with `latdiff evaluate`") from None


def training_figures(folder: Path) -> dict:
    """The figures in a checkpoint's metrics.json that training measures and no evaluation replaces."""
    figures = older_figures(folder / "metrics.json")
    return {key: figures[key] for key in ("training", "reconstruction") if key in figures}


def refuse_other_texts(folder: Path, digest: str, advice: str) -> None:
    """Raise UserError where a checkpoint has learnt other texts, for what is now called unseen may be among them.

    Args:
        folder: the checkpoint's; nothing is compared where its metrics.json does not say what it has learnt.
        digest: the corpus', of the training texts.
        advice: what to do about it.
    """
    learnt = training_figures(folder).get("training", {}).get("texts_digest", digest)
    if learnt != digest:
        raise UserError(f"{folder} has learnt other texts than those that its recipe leads to now, some of which may "
                        f"be called unseen and are not; {advice}")


def update_metrics(folder: Path, figures: dict) -> None:
    """Add figures to the folder's metrics.json, in place of those of the same names."""
    path = folder / "metrics.json"
    write_json(path, older_figures(path) | figures)


def row_line(row: dict) -> str:
    """A row of figures on one line, without its samples."""
    figures = ((key, f"{value:.3f}" if isinstance(value, float) else value) for key, value in row.items())
    return " ".join(f"{key} {value}" for key, value in figures if key != "samples")


def check_writable(path: Path) -> None:
    """Raise UserError where `write_json` could not write: better before measuring than after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = unfinished(path)
        new_file(beside)
        beside.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file") from None


def write_json(path: Path, document: dict) -> None:
    """Write a document whole or not at all: an interrupted write leaves the older file."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def machine(dtype: str = "auto") -> str:
    """The hardware and precision that figures were measured with.

    Args:
        dtype: The checkpoint's, of which `auto` depends on the processor.

    Returns:
        The processor, its threads, the GPU if there is one, the dtype of the denoiser and the version of torch.
    """
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
