"""Is a checkpoint whole? Every part is opened by itself, so that one problem does not hide another."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import AutoModelForCausalLM

from latdiff.bars import without_bars
from latdiff.checkpoints import CheckpointError, class_of, links_out
from latdiff.checksums import changed_files
from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import Codec
from latdiff.codecs.t5 import TextCodec
from latdiff.codecs.writing import WritingCodec
from latdiff.errors import UserError, first_line
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.lm import load_pretrained
from latdiff.pipelines.base import CODEC_PARTS
from latdiff.pipelines.index import check_schedule, named_parts
from latdiff.versions import recorded_versions
from latdiff.weights import WeightsError, config_of, count, held_in

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CODE = {".py", ".pyc", ".so", ".sh", ".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz"}


@dataclass
class Checked:
    """What was found in a checkpoint.

    Attributes:
        lines: what each part is, and when and with what the whole was written.
        problems: a sentence each.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def collecting(self, what: str) -> Iterator[None]:
        """Keep a problem with a part, and go on."""
        try:
            yield
        except UserError as error:
            self.problems.append(first_line(error))
        except Exception as error:  # libraries raise kinds of their own
            self.problems.append(f"{what} cannot be opened: {first_line(error)}; copy it again")

    def say(self, name: str, what: str) -> None:
        """Add the line of a part."""
        line = f"{name:20} {what}"
        self.lines.append("".join(letter if letter.isprintable() else "?" for letter in line))


@without_bars()
def check_checkpoint(folder: Path) -> Checked:
    """Open every part of a checkpoint and compare their digests.

    Args:
        folder: of a pipeline, or of a codec alone.

    Returns:
        A line for every part, and all problems.

    Raises:
        CheckpointError: Where there is neither.
    """
    found, parts = Checked(), {}
    is_codec = any((folder / name).is_dir() for name in ("codec", "autoencoder"))
    if (folder / "model_index.json").is_file():
        with found.collecting("model_index.json"):
            class_of(folder / "model_index.json")
            parts = named_parts(folder)
            found.problems += [f"{folder / part} is missing; copy the whole folder again"
                               for part in parts if not (folder / part).is_dir()]
    elif not is_codec:
        raise CheckpointError(f"{folder} holds no pipeline (no model_index.json) and no codec (no folder codec or "
                              "autoencoder); name the folder of one, or storyworld or english, which come with latdiff")
    whole = all((folder / name).is_dir() for name in CODEC_PARTS if name in parts)
    digest = _codec(folder, found) if is_codec and whole else None
    if "language_model" in parts:
        _language_model(folder, found)
    for name in ("denoiser", "planner"):
        if name in parts and (folder / name).is_dir():
            _network(folder / name, digest, found)
    if "scheduler" in parts and (folder / "scheduler").is_dir():
        _scheduler(folder / "scheduler", parts["scheduler"][1], found)
    for head in sorted(folder.glob("heads/*/")):
        _head(head, digest, found)
    _files(folder, found)
    return found


def _codec(folder: Path, found: Checked) -> str | None:
    """The digest of the codec, None where it cannot be opened."""
    with found.collecting(f"the codec in {folder}"):
        codec: Any = load_codec(folder)
        for name in CODEC_PARTS:
            if (folder / name).is_dir():
                found.say(name, f"{len(codec.tokenizer):,} tokens" if name == "tokenizer" else _weights(folder / name))
        if (folder / "codec" / "adapter").is_dir():
            found.say("codec/adapter", _weights(folder / "codec" / "adapter"))
        if isinstance(codec, WritingCodec):
            found.say("  language model", f"{codec.config.language_model}, {_size(codec.language_model)}, digest "
                                          f"{codec.config.writer_digest}, as when the codec was trained")
            found.say("  encoder", f"{codec.config.encoder}, {_size(codec.encoder)}, digest {codec.encoder_weights}")
        found.say("latents", f"[{', '.join(map(str, codec.latent_shape))}] of codec {codec.digest}"
                             f"{_recomputed(codec, folder)}")
        return codec.digest
    return None


def _recomputed(codec: Codec, folder: Path) -> str:
    """Whether the digest is that of the weights; raises UserError where it is not.

    What was published in half precision has other weights than those that the digest is of.
    """
    if not isinstance(codec, (TextCodec, WritingCodec)):
        return ", as recorded"
    if codec.digest in _fingerprints(codec):
        return ", computed again"
    parts = [folder / name for name in ("text_model", "autoencoder", "codec") if (folder / name).is_dir()]
    halved = any(weight.dtype in ("F16", "BF16") and len(weight.shape) > 1
                 for part in parts for weight in held_in(part).values())
    if halved:
        return ", as recorded (published in half precision)"
    raise CheckpointError(f"the codec in {folder} is {_fingerprints(codec)[0]} by its weights, but was saved as "
                          f"{codec.digest}: a part is another's, or was changed; copy the whole folder again")


def _fingerprints(codec: TextCodec | WritingCodec) -> list[str]:
    """What the digest may be by the weights; a T5 codec of before 0.1.0 has one without its settings."""
    older: list[dict[str, Any]] = [{"with_settings": False}] if isinstance(codec, TextCodec) else []
    return [codec.fingerprint(**settings) for settings in ({}, *older)]


def _language_model(folder: Path, found: Checked) -> None:
    place = folder / "language_model"
    with found.collecting(str(place)):
        load_pretrained(AutoModelForCausalLM, place, lambda reason: CheckpointError(f"{place} {reason}"),
                        folder / "language_tokenizer")
        found.say("language_model", _weights(place))


def _network(folder: Path, digest: str | None, found: Checked) -> None:
    """A denoiser or planner, of the codec of this digest."""
    with found.collecting(str(folder)):
        network: Any = class_of(folder / "config.json").from_pretrained(folder)
        found.say(folder.name, f"{_weights(folder)}, of codec {network.config.codec_digest}")
        _compare(str(folder), network.config.codec_digest, digest)


def _scheduler(folder: Path, kind: str, found: Checked) -> None:
    with found.collecting(str(folder)):
        check_schedule(folder)
        scheduler = getattr(diffusers, kind).from_pretrained(folder)
        found.say("scheduler", f"{kind}, {scheduler.config.num_train_timesteps:,} steps of noise")


def _head(folder: Path, digest: str | None, found: Checked) -> None:
    with found.collecting(str(folder)):
        head = load_head(folder)
        reads = f"labels {', '.join(map(str, head.classes_))}" if isinstance(head, AttributeHead) else "a number"
        found.say(f"heads/{folder.name}", f"{reads}, {_weights(folder)}, of codec {head.codec_digest}")
        _compare(str(folder), head.codec_digest, digest)


def _compare(what: str, known: str | None, digest: str | None) -> None:
    if None not in (known, digest) and known != digest:
        raise CheckpointError(f"{what} is of codec {known}, but the codec here is {digest}; take all parts from one "
                              "checkpoint, or train it again")


def _weights(folder: Path) -> str:
    """Class, number of weights and dtypes of a part, by its files."""
    try:
        held = held_in(folder)
        config = config_of(folder) if (folder / "config.json").is_file() else {}
    except WeightsError as error:
        raise CheckpointError(f"{folder} {error}") from error
    kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    dtypes = sorted({DTYPES.get(weight.dtype, weight.dtype) for weight in held.values() if weight.dtype[0] != "I"})
    return f"{f'{kind}, ' if kind else ''}{count(held):,} weights, {' and '.join(dtypes)}"


def _size(model: torch.nn.Module) -> str:
    sizes = (weight.numel() for name, weight in model.named_parameters() if "lora_" not in name)
    return f"{type(model).__name__}, {sum(sizes):,} weights"


def _files(folder: Path, found: Checked) -> None:
    """When the whole was written, whether its files are those that were published, and files that do not belong."""
    found.say("written by", recorded_versions(folder))
    changed = changed_files(folder)
    found.say("checksums", "not recorded" if changed is None else "differ" if changed else "all as published")
    found.problems += changed or []
    code = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in CODE)
    if code:
        found.problems.append(f"{folder} holds files that could run code ({', '.join(code[:5])}), which latdiff never "
                              "writes nor reads; delete them")
    found.problems += [f"{link} is a link to {os.path.realpath(link)}, outside the checkpoint; put a copy in its "
                       "place, or delete it" for link in links_out(folder)]
    for file in sorted(folder.glob("*.json")):
        if file.name == "model_index.json":  # read already
            continue
        with found.collecting(str(file)):
            json.loads(file.read_text(encoding="utf-8"))
