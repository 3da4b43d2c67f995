"""A head's folder: config.json says what it is, model.safetensors holds its weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from latdiff.checkpoints import SHIPPED, folder_of, save_whole, shipped
from latdiff.errors import first_line, nearest, shown
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.inputs import HeadError, check_name, checked_labels
from latdiff.heads.number import LEAST, NumberHead
from latdiff.heads.regression import FOLDS

FILES = ("config.json", "model.safetensors")
TENSORS = {"weight", "bias", "fitted_on"}


def save_head(head: AttributeHead | NumberHead, folder: str | Path) -> None:
    """Write a fitted head's config.json and model.safetensors into the folder, whole or not at all."""
    check_name(head.name)
    folder = Path(folder)
    settings = {key: value.item() if isinstance(value, np.generic) else value
                for key, value in head.get_params().items()}
    of_kind = {"labels": head.classes_.tolist()} if isinstance(head, AttributeHead) else {"sd": head.sd}
    config = {
        "kind": head.kind, "name": settings.pop("name"), **of_kind, "settings": settings, "radius": head.radius,
        "log_snrs": None if head.log_snrs is None else head.log_snrs.tolist(),
        "codec_digest": head.codec_digest, "report": head.report,
    }
    text = json.dumps(config, indent=2) + "\n"
    tensors = {"weight": head.weight, "bias": head.bias, "fitted_on": head.fitted_on}

    def save(place: Path) -> None:
        place.mkdir(parents=True)
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, place / "model.safetensors")
        (place / "config.json").write_text(text, encoding="utf-8")

    save_whole(folder, "config.json", save)


def load_head(folder: str | Path, subfolder: str = "") -> AttributeHead | NumberHead:
    """Read a saved head.

    Args:
        folder: of the head, such as storyworld/heads/sentiment, which comes with latdiff, or
            checkpoints/mine/heads/tone; or the hub id of one.
        subfolder: where in it the head is, such as heads/sentiment in a checkpoint of the hub.

    Returns:
        The head, fitted, on the CPU.

    Raises:
        HeadError: when the folder is missing, incomplete or cut short, or its parts do not belong together.
        UserError: for a hub id that cannot be fetched.

    Examples:
        >>> from latdiff import load_head
        >>> load_head("storyworld/heads/sentiment").classes_.tolist()
        ['negative', 'positive']
    """
    parent = Path(folder).expanduser().parent
    below = parent != Path() and (parent.is_dir() or (SHIPPED / parent).is_dir())  # of what lies here or comes along
    folder = (shipped(folder) if below else folder_of(folder)) / subfolder
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and "labels" in config and "kind" not in config:
            raise HeadError(f"the head in {folder} was written by an older latdiff; fit it again")
        return _made_of(config, load_file(folder / "model.safetensors"))
    except FileNotFoundError:
        raise _no_head(folder) from None
    except HeadError as error:
        raise error if str(folder) in str(error) else HeadError(f"{folder}: {error}; fit it again") from None
    except Exception as error:  # json, safetensors and torch each raise kinds of their own
        raise HeadError(f"the head in {folder} is cut short or damaged ({first_line(error)}); fit it again") from None


def _no_head(folder: Path) -> HeadError:
    """With the heads beside it, or those of the checkpoint that it names or lies in, also of one that comes along."""
    absent = [name for name in FILES if not (folder / name).exists()]
    for place in (folder / "heads", folder.parent / "heads", folder.parent):
        found = (file for root in (Path(), SHIPPED) for file in (root / place).glob("*/config.json"))
        beside = sorted({file.parent.name for file in found})
        if beside:
            break
    if place != folder.parent:
        beside = [str(place / name) for name in beside]
    near = nearest(folder.name if place == folder.parent else str(folder), beside)
    return HeadError(
        f"no head in {folder} ({' and '.join(absent)} missing); fitted heads there: {', '.join(beside) or 'none'}"
        f"{near or '.'} Fit one with `latdiff fit-head`, name another checkpoint's that was fitted on the same codec, "
        "or copy a folder again that lacks files.")


def label_heads(checkpoint: str | Path) -> list[AttributeHead]:
    """All heads of labels in a checkpoint's folder, by name. Raises HeadError where one cannot be loaded."""
    heads = [load_head(config.parent) for config in sorted(Path(checkpoint).glob("heads/*/config.json"))]
    return [head for head in heads if isinstance(head, AttributeHead)]


def _made_of(config: dict, tensors: dict[str, torch.Tensor]) -> AttributeHead | NumberHead:
    kind, report = config["kind"], config["report"]
    if set(tensors) != TENSORS:
        raise HeadError(f"its weights are {', '.join(sorted(tensors)) or 'none'}, must be {', '.join(sorted(TENSORS))}")
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise HeadError(f"its {name} has numbers that are not finite")
    _check_parts(config, tensors)
    fitted = {key: config[key] for key in ("name", "radius", "codec_digest")} | tensors | {"report": report}
    # an older head has no settings, and those that are not the defaults in its report
    old = {key: report[key] for key in ("C", "features", "alpha") if key in report}
    settings = config.get("settings", old)
    if kind == NumberHead.kind:
        head = NumberHead.from_weights(sd=config["sd"], **fitted, **settings)
        head.checked(range(LEAST))  # its settings
        return head
    if kind != AttributeHead.kind:
        raise HeadError(f"its kind is {shown(kind)}, must be {AttributeHead.kind} or {NumberHead.kind}")
    labels = checked_labels(config["name"], config["labels"]).tolist()
    if len(set(labels)) < len(labels) or not all(str(label).strip() for label in labels):
        raise HeadError(f"its labels are {shown(labels)}, must differ, and none may be blank")
    AttributeHead(config["name"], **settings).checked(labels * FOLDS)  # its settings
    log_snrs = None if config["log_snrs"] is None else torch.tensor(config["log_snrs"])
    return AttributeHead.from_weights(config["labels"], log_snrs=log_snrs, **fitted, **settings)


def _check_parts(config: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Raise HeadError for parts that are not what `save_head` writes, before they are found out in use."""
    check_name(config["name"])
    report, levels = config["report"], config.get("log_snrs") or []
    shares = [report[key] for key in ("accuracy", "majority", "alike") if key in report]
    counts = [report[key] for key in ("texts", "different_texts") if report.get(key) is not None]
    right = {
        "codec_digest": config["codec_digest"] is None or isinstance(config["codec_digest"], str),
        "radius": config["radius"] is None or _is_number(config["radius"]),
        "sd": "sd" not in config or _is_number(config["sd"]),
        "log_snrs": isinstance(levels, list) and all(map(_is_number, levels)),
        "report": isinstance(report, dict) and _is_number(report.get("r2", 0))
        and all(_is_number(share) and 0 <= share <= 1 for share in shares)
        and all(_is_number(count) and count > 0 for count in counts),
        "fitted_on": tensors["fitted_on"].dtype == torch.int64,
    }
    wrong = [f"{name} is {shown(config.get(name, tensors.get(name)))}" for name, fits in right.items() if not fits]
    if wrong:
        raise HeadError(f"its {' and its '.join(wrong)}, which no head has")


def _is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
