"""Latents with a label for each of a checkpoint's heads: of which texts, and who says the label?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latdiff.codecs.protocol import Codec
from latdiff.data.corpus import load_labelled
from latdiff.errors import UserError, shown
from latdiff.heads.attribute import AttributeHead
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.worlds import Oracle

TEXTS = 400
ITSELF = "labelled by the head itself"


@dataclass(frozen=True)
class LabelledLatents:
    """N latents and their labels.

    Attributes:
        head: whose labels they are.
        latents: [N, L, D].
        labels: N of them.
        source: what they are latents of and who labelled them, in a few words.
    """

    head: AttributeHead
    latents: Tensor
    labels: np.ndarray
    source: str


def of_data(codec: Codec, head: AttributeHead, texts: list[str], labels: list[str]) -> LabelledLatents:
    """The latents of labelled texts, of those that have one of the head's labels and that the codec can read.

    Raises:
        UserError: Where that are fewer than two texts.
    """
    known = {str(label): label for label in head.classes_.tolist()}
    kept = [(text, known[label]) for text, label, fits in zip(texts, labels, codec.fits(texts), strict=True)
            if fits and label in known][:TEXTS]
    if len(kept) < 2:
        raise UserError(f"{len(kept)} of the labelled texts have one of the labels of the head {head.name} "
                        f"({', '.join(known)}) and are short enough, two are the least; name another file or column")
    return LabelledLatents(head, codec.encode([text for text, _ in kept]), np.array([label for _, label in kept]),
                           "texts and labels that were given")


def of_world(codec: Codec, heads: list[AttributeHead], oracle: Oracle, name: str, seed: int) -> Iterator[
        LabelledLatents]:
    """The latents of texts of a world, exactly labelled where the head is of one of its attributes."""
    sampled = oracle.sample(TEXTS, seed=seed)
    sampled = list(itertools.compress(sampled, codec.fits([one.text for one in sampled])))
    latents = codec.encode([one.text for one in sampled])
    for head in heads:
        if set(map(str, head.classes_.tolist())) <= set(oracle.attributes.get(head.name, ())):
            labels, by = np.array([one.attributes[head.name] for one in sampled]), "labelled exactly"
        else:
            labels, by = head.predict(latents), ITSELF
        yield LabelledLatents(head, latents, labels, f"texts of {name}, {by}")


def of_model(pipe: LatentTextDiffusionPipeline, heads: list[AttributeHead], seed: int) -> Iterator[LabelledLatents]:
    """Latents that the model samples, which no one but the head can label."""
    latents = pipe(num_samples=TEXTS, generator=torch.Generator().manual_seed(seed), output_type="latent").latents
    for head in heads:
        yield LabelledLatents(head, latents, head.predict(latents), f"texts of the model's own, {ITSELF}")


def read_labelled_words(flag: str, wanted: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """The head, texts and labels of every HEAD=DATA[:COLUMN[:TEXTS]].

    Raises:
        UserError: For other words, and what `load_labelled` does.
    """
    for words in wanted:
        name, equals, rest = words.partition("=")
        # a colon only splits off a column where the whole is no file
        source, _, named = (rest, "", "") if _exists(rest) else rest.partition(":")
        column, _, texts = named.partition(":")
        if not (name and equals and source):
            raise UserError(f"{flag} is {shown(words, 200)}, must be HEAD=DATA, HEAD=DATA:COLUMN or "
                            "HEAD=DATA:COLUMN:TEXT_COLUMN, e.g. tone=other.jsonl:stars:review")
        yield name, *load_labelled(source, texts or "text", column or "label")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long a name, or a folder that may not be entered
        return False
