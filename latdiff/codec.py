"""Text to latents and back: tokenizer, frozen backbone and autoencoder joined, in batches."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from latdiff.autoencoder import LatentAutoencoder
from latdiff.backbone import encode_features, generate_ids
from latdiff.conditions import Source
from latdiff.config import UserError
from latdiff.tokens import pad, tokenize


class TextError(UserError):
    """Texts that cannot be encoded, in one sentence."""


class TextCodec:
    """encode(texts) -> latents [B, L, D], whitened; decode(latents [B, L, D]) -> list[str]."""

    def __init__(self, tokenizer, text_model, autoencoder: LatentAutoencoder):
        self.tokenizer, self.text_model, self.autoencoder = tokenizer, text_model, autoencoder

    def to(self, device: torch.device | str) -> TextCodec:
        """Move both models; returns the codec."""
        self.text_model.to(device)
        self.autoencoder.to(device)
        return self

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D)."""
        return self.autoencoder.config.num_latents, self.autoencoder.config.latent_dim

    def fits(self, texts: list[str]) -> list[bool]:
        """Whether each text is short enough for `encode`."""
        return [len(row) <= self.autoencoder.config.max_tokens for row in tokenize(self.tokenizer, texts)]

    @torch.no_grad()
    def encode(self, texts: list[str], batch_size: int = 256) -> Tensor:
        """Whitened latents [B, L, D] in float32, on the autoencoder's device.

        Raises TextError when texts are empty or longer than the autoencoder's max_tokens, with their
        count and the first of them: nothing is cut silently.
        """
        ids = tokenize(self.tokenizer, texts) if texts else []
        self._refuse(texts, ids)
        return self.autoencoder.whiten(self.compress(ids, batch_size))

    @torch.no_grad()
    def read(self, sources: list[str], batch_size: int = 256) -> Source:
        """The frozen encoder's features of source texts, for a denoiser that is told them.

        Raises TextError as `encode` does, though a source is never compressed.
        """
        ids = tokenize(self.tokenizer, sources) if sources else []
        self._refuse(sources, ids)
        return self.features(ids, batch_size)

    @torch.no_grad()
    def features(self, ids: list[list[int]], batch_size: int = 256) -> Source:
        """Features [B, T, H] of tokenized texts, and their mask."""
        ids, mask = (x.to(self.autoencoder.device) for x in pad(ids, self.tokenizer.pad_token_id))
        chunks = zip(ids.split(batch_size), mask.split(batch_size), strict=True)
        return Source(torch.cat([encode_features(self.text_model, *chunk) for chunk in chunks]), mask)

    @torch.no_grad()
    def compress(self, ids: list[list[int]], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of tokenized texts, before whitening."""
        device = self.autoencoder.device
        latents = torch.empty(len(ids), *self.latent_shape, device=device)
        # By length, so that little is padded; written back in the order given.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded, mask = (x.to(device) for x in pad([ids[i] for i in rows], self.tokenizer.pad_token_id))
            latents[rows] = self.autoencoder.compress(encode_features(self.text_model, padded, mask), mask)
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor, batch_size: int = 256, **options) -> list[str]:
        """Texts of latents [B, L, D]; options go to transformers' `generate` (num_beams and the like)."""
        texts: list[str] = []
        for chunk in latents.to(self.autoencoder.device).split(batch_size):
            features = self.autoencoder.reconstruct(chunk.float())
            ids = generate_ids(self.text_model, features, self.autoencoder.config.max_tokens, **options)
            texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def digest(self) -> str:
        """Fingerprint of everything that gives latents their meaning: 16 hex digits of a SHA-256."""
        sha = hashlib.sha256()
        for model in (self.text_model, self.autoencoder):
            for name, tensor in sorted(model.state_dict().items()):
                sha.update(name.encode())
                sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        sha.update("\n".join(f"{k} {v}" for k, v in sorted(self.tokenizer.get_vocab().items())).encode())
        return sha.hexdigest()[:16]

    def _refuse(self, texts: list[str], ids: list[list[int]]) -> None:
        limit = self.autoencoder.config.max_tokens
        if not texts:
            raise TextError("there is no text to encode: the list is empty")
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        long = [i for i, row in enumerate(ids) if len(row) > limit]
        if empty:
            raise TextError(f"{len(empty)} of {len(texts)} texts are empty, the first at index {empty[0]}; drop them")
        if long:
            raise TextError(
                f"{len(long)} of {len(texts)} texts are longer than the {limit} tokens that this autoencoder reads "
                f"(the first at index {long[0]} has {len(ids[long[0]])}); shorten or drop them"
            )
