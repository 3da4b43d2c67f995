"""Text to latents and back: tokenizer, frozen backbone and autoencoder joined, in batches."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig

from latdiff.config import DECODING
from latdiff.data.tokens import pad, sentences, tokenize
from latdiff.errors import UserError, nearest
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.backbone import encode_features, generate_ids
from latdiff.models.conditions import Source

# a text for every latent, the same for the same seed, and an end-of-text that the decoder chose itself
OWN_OPTIONS = {"max_length", "max_new_tokens", "eos_token_id", "forced_eos_token_id", "num_return_sequences",
               "return_dict_in_generate", "do_sample"}


class TextError(UserError):
    """Texts that cannot be encoded, in one sentence."""


class Written(NamedTuple):
    """texts: list[str]; cut: list[bool], which of them the token limit broke off."""

    texts: list[str]
    cut: list[bool]


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

    def split(self, text: str) -> list[str]:
        """A long text in pieces that each fit, in order, cut at sentence ends; only white space between them is lost.

        A piece is as many sentences as fit. A full stop with a space behind it is taken for an end, that of "Mr. Hill"
        as well. Raises TextError for an empty text and for a sentence that does not fit by itself.
        """
        if not text.strip():
            raise TextError("there is no text to split: it is empty")
        first, *others = sentences(text)
        pieces = [first]
        for sentence in others:
            longer = pieces[-1] + sentence
            if self.fits([longer.strip()])[0]:
                pieces[-1] = longer
            else:
                pieces.append(sentence)
        pieces = [piece.strip() for piece in pieces]
        self._refuse_long_sentences(pieces)
        return pieces

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

    def decode(self, latents: Tensor, batch_size: int = 256, preset: str = "greedy", **options) -> list[str]:
        """Texts of latents [B, L, D], as `write` makes them: what was cut is warned of, `write` says which."""
        return self.write(latents, batch_size, preset, **options).texts

    @torch.no_grad()
    def write(self, latents: Tensor, batch_size: int = 256, preset: str = "greedy", **options) -> Written:
        """Texts of latents [B, L, D], and which of them were cut.

        Args:
            latents: whitened, [B, L, D].  batch_size: how many at once.
            preset: of config.DECODING: greedy, or ld4lg, the beam search of LD4LG's code.
            options: on top of it, for transformers' `generate`, e.g. num_beams=8.

        A text ends where the decoder writes end-of-text; one that reaches the autoencoder's max_tokens before that
        is cut there. Warns, once a call, of how many were. Raises UserError for an unknown preset or option.
        """
        settings = decoding(preset, **options)
        limit, end = self.autoencoder.config.max_tokens, self.tokenizer.eos_token_id
        texts: list[str] = []
        cut: list[bool] = []
        for chunk in latents.to(self.autoencoder.device).split(batch_size):
            features = self.autoencoder.reconstruct(chunk.float())
            ids = generate_ids(self.text_model, features, limit, **settings)
            texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            cut += (ids[:, 1:] != end).all(1).tolist()  # the first is the start token, in BART the same as the end
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(cut)} texts are cut: the decoder reached the autoencoder's max_tokens, {limit}, "
                "before an end of text",
                stacklevel=4,
            )
        return Written(texts, cut)

    def round_trip(self, latents: Tensor, texts: list[str]) -> Tensor:
        """How far latents [B, L, D] lie from those of the B texts that were written from them, read again: [B].

        Root mean square over L and D, in a latent's standard deviations; infinite for a text that is blank or too long
        to be read. Latents that no text has leave the decoder to guess, and let a head read what is not written.
        """
        read = torch.tensor([bool(text.strip()) and fits for text, fits in zip(texts, self.fits(texts), strict=True)])
        found = torch.full((len(texts),), math.inf)
        if read.any():
            again = self.encode(list(itertools.compress(texts, read)))
            found[read] = (again - latents.to(again)[read]).square().mean((1, 2)).sqrt().cpu()
        return found

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
                f"(the first at index {long[0]} has {len(ids[long[0]])}); shorten or drop them, or encode the pieces "
                "that codec.split(text) cuts at sentence ends"
            )

    def _refuse_long_sentences(self, pieces: list[str]) -> None:
        limit = self.autoencoder.config.max_tokens
        for piece in pieces:
            (ids,) = tokenize(self.tokenizer, [piece])
            if len(ids) > limit:
                raise TextError(
                    f"the sentence that begins {piece[:40]!r} has {len(ids)} tokens, more than the {limit} that this "
                    "autoencoder reads, and no end to split it at; break it up or shorten it"
                )


def decoding(preset: str = "greedy", **options) -> dict:
    """Settings for transformers' `generate`: those of a preset of config.DECODING, and options on top of it.

    Raises UserError for an unknown preset, an unknown option, and options that would hide that a text was cut or
    write more than one text of a latent.
    """
    if preset not in DECODING:
        raise UserError(f"no decoding {preset!r}, only {', '.join(DECODING)}{nearest(str(preset), DECODING)}")
    known = vars(GenerationConfig())
    for name in options:
        if name in OWN_OPTIONS:
            raise UserError(
                f"decoding option {name} is {options[name]!r}, but cannot be set: latents give one text each, always "
                "the same, which ends where the decoder ends it or at the autoencoder's max_tokens; leave it out"
            )
        if name not in known:
            raise UserError(
                f"no decoding option {name!r}{nearest(name, known)}; they are those of transformers' GenerationConfig, "
                "e.g. num_beams, repetition_penalty, no_repeat_ngram_size"
            )
    # an end forced at the limit would hide that the text was cut there
    return DECODING[preset] | options | {"forced_eos_token_id": None}
