"""The sentence codec: a frozen encoder's vector of a text as latents, and a language model that writes from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from latdiff.codecs.protocol import TextError, as_texts
from latdiff.codecs.writing import WritingCodec, digest_of
from latdiff.data.tokens import pad
from latdiff.errors import check_whole
from latdiff.latents import write_latents
from latdiff.lm import context
from latdiff.models.conditions import Source
from latdiff.models.soft_prompts import SoftPrompts
from latdiff.models.writer import SentenceModelError, sentence_vectors
from latdiff.resuming import digest_of as digest_of_texts


class SentenceCodec(WritingCodec):
    """Text to the whitened vector of a sentence encoder, and back by a language model that reads it as soft prompts.

    After DGLM (Lovelace et al. 2024, section 3). A vector holds what a text says, hardly its words: what comes back
    says the same in the language model's words.

    Args:
        language_model: name, folder or hub id of a causal language model.
        encoder: name, folder or hub id of a sentence encoder, whose vectors have E numbers.
        num_latents: L, in how many latents they are laid.
        latent_dim: D; L times D is E.
        prompt_dim: H, the width of the language model.
        num_prompts: K, soft prompts that it reads.
        width: of the hidden layer that makes them.
        rank: of the language model's low-rank updates; 0: none.
        continues: whether it was trained to go on from the first words of a text.
        max_tokens: of a text, end-of-text included.
        assumed_noise: sd of the noise that is assumed on latents to be decoded.
        codec_digest: of the encoder and the whitening, set by `set_whitening`.
        writer_digest: of the language model as it came, set by `attach`.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file
    _keep_in_fp32_modules: ClassVar = ["mean", "sd"]

    @register_to_config
    def __init__(
        self, language_model: str, encoder: str, num_latents: int = 8, latent_dim: int = 48, prompt_dim: int = 576,
        num_prompts: int = 8, width: int = 1024, rank: int = 16, continues: bool = False, max_tokens: int = 40,
        assumed_noise: float = 0.2, codec_digest: str = "", writer_digest: str = "",
    ):
        super().__init__()
        size = num_latents * latent_dim
        self.latent_shape = (num_latents, latent_dim)
        self.soft_prompts = SoftPrompts(size, num_prompts, prompt_dim, width)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("sd", torch.ones(size))
        self.register_buffer("ending", torch.zeros(prompt_dim))
        self._frozen: dict[str, Any] = {}

    @property
    def reader(self) -> SoftPrompts:
        """What makes soft prompts [B, K, H] of latents [B, L, D] and the sd [B] of the noise on them."""
        return self.soft_prompts

    @property
    def encoder_width(self) -> int:
        """E."""
        return math.prod(self.latent_shape)

    def exact(self) -> Iterator[tuple[nn.Module, str]]:
        """The whitening."""
        yield from ((self, "mean"), (self, "sd"))

    def fingerprint(self) -> str:
        """Of the encoder and the whitening, which alone give latents their meaning."""
        return digest_of({"mean": self.mean, "sd": self.sd}, f"{self.encoder_weights} {self.latent_shape}")

    def refuse_another_encoder(self) -> None:
        """Raise SentenceModelError where latents are not those that the codec was trained with."""
        if self.config.codec_digest not in ("", self.fingerprint()):
            raise SentenceModelError(
                f"encoder is {self.config.encoder!r}, which is not the one that the codec was trained with (its "
                f"latents are {self.fingerprint()}, were {self.config.codec_digest}); name that one"
            )

    def latents_of(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of texts that are known to fit."""
        return self.whitened(self.vectors(texts, batch_size))

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Vectors [B, E] of texts, of norm 1."""
        batch_size = check_whole("batch_size", batch_size)
        ids = self.encoder_ids(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = torch.empty(len(ids), math.prod(self.latent_shape), device=self.device)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found[rows] = sentence_vectors(self.encoder, *pad([ids[i] for i in rows], self.encoder_pad)).float()
        return found

    @property
    def condition_dim(self) -> int:
        """E: a source text is one vector."""
        return math.prod(self.latent_shape)

    def encode_condition(self, sources: Iterable[str], batch_size: int = 256) -> Source:
        """Vectors [B, 1, E] of source texts, whitened; raises TextError for what is empty or too long."""
        sources = as_texts(sources, "source")
        _refuse_long(self.encoder_ids(sources, cut=False), self.encoder_limit, "that the encoder reads")
        if self.continues:
            room = context(self.language_model) - self.config.num_prompts - self.config.max_tokens
            _refuse_long(self.ids(sources), room, "that leave the language model room for a text behind it")
        return self._source(self.vectors(sources, batch_size), sources)

    def conditions(self, sources: Sequence[str], folder: Path) -> Callable[[list[int]], Source]:
        """As the protocol says; '' is no condition."""
        vectors = write_latents(folder, self.encoder_weights, digest_of_texts(sources), len(sources),
                                lambda rows: self.vectors(sources[rows.start : rows.stop]))
        return lambda rows: self._source(vectors[rows].to(self.device), [sources[row] for row in rows])

    def _source(self, vectors: Tensor, sources: Sequence[str]) -> Source:
        features = self.whitened(vectors).flatten(1)[:, None]
        return Source(features, torch.tensor([[bool(one)] for one in sources], device=self.device))

    def set_whitening(self, mean: Tensor, variance: Tensor) -> SentenceCodec:
        """Fix the statistics [E] of the vectors that it is to whiten; returns the codec, sealed."""
        self.mean.copy_(mean)
        self.sd.copy_(variance.sqrt().clamp(min=1e-4))
        return self.seal()

    def whitened(self, vectors: Tensor) -> Tensor:
        """Vectors [B, E] to latents [B, L, D]."""
        return ((vectors - self.mean) / self.sd).unflatten(1, self.latent_shape)


def _refuse_long(sources: Sequence[list[int]], most: int, why: str) -> None:
    """Raise TextError for the first of the sources' rows of ids that has more than `most`."""
    for place, row in enumerate(sources):
        if len(row) > most:
            raise TextError(f"source {place} of {len(sources)} has {len(row)} tokens, more than the {most} {why}; give "
                            "its end alone")
