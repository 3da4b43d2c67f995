"""The T5 codec: tokenizer, frozen encoder-decoder and latent autoencoder joined, in batches."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from transformers import GenerationConfig

from latdiff.codecs.protocol import Codec, Decoded, TextError, as_texts, listed_texts
from latdiff.config import DECODING
from latdiff.data.packed import PackedIds
from latdiff.data.tokens import IGNORED, labels_of, pad, sentences, tokenize
from latdiff.errors import UserError, check_number, check_whole, nearest, shown
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.backbone import decoder_logits, encode_features, generate_ids
from latdiff.models.conditions import Source

# a text for every latent, the same for the same seed, and an end-of-text that the decoder chose itself
OWN_OPTIONS = {"max_length", "max_new_tokens", "eos_token_id", "forced_eos_token_id", "num_return_sequences",
               "return_dict_in_generate", "do_sample"}
# of transformers' other options, which checks them late or never: the least of a whole number, what a number is above
LEAST = {"num_beams": 1, "num_beam_groups": 1, "min_length": 0, "min_new_tokens": 0, "no_repeat_ngram_size": 0}
PENALTIES = {"repetition_penalty": 0.0, "length_penalty": -math.inf, "diversity_penalty": -math.inf}


class TextCodec(Codec):
    """Text to whitened latents [B, L, D] by a frozen encoder and a compressor, and back by a reconstructor and decoder.

    Args:
        tokenizer: of the backbone.
        text_model: the frozen encoder-decoder: T5, mT5 or BART.
        autoencoder: the compressor and the reconstructor around it.
    """

    presets = tuple(DECODING)

    def __init__(self, tokenizer, text_model, autoencoder: LatentAutoencoder):
        self.tokenizer, self.text_model, self.autoencoder = tokenizer, text_model, autoencoder

    @property
    def components(self) -> dict[str, object]:
        """Its parts, by the names under which a pipeline saves them."""
        return {"tokenizer": self.tokenizer, "text_model": self.text_model, "autoencoder": self.autoencoder}

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D)."""
        return self.autoencoder.config.num_latents, self.autoencoder.config.latent_dim

    @property
    def max_tokens(self) -> int:
        """Of a text, end-of-text included."""
        return self.autoencoder.config.max_tokens

    @property
    def condition_dim(self) -> int:
        """H, the width of the frozen encoder's features."""
        return self.text_model.get_input_embeddings().embedding_dim

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.autoencoder.device

    def to(self, device: torch.device | str) -> TextCodec:
        """Move both models; returns the codec."""
        self.text_model.to(device)
        self.autoencoder.to(device)
        return self

    def tokenize(self, texts: Iterable[str]) -> PackedIds:
        """Ids of every text, end-of-text included, nothing cut."""
        return tokenize(self.tokenizer, list(texts))

    def fits(self, texts: Iterable[str], max_tokens: int | None = None) -> list[bool]:
        texts = listed_texts(texts)
        most = self.max_tokens if max_tokens is None else max_tokens
        return [len(row) <= most for row in self.tokenize(texts)] if texts else []

    def split(self, text: str) -> list[str]:
        """A long text in pieces that each fit, in order, cut at sentence ends; only white space between them is lost.

        A piece is as many sentences as fit. A full stop with a space behind it is taken for an end, that of "Mr. Hill"
        as well.

        Raises:
            TextError: For an empty text and for a sentence that does not fit by itself.
        """
        if not isinstance(text, str):
            raise TextError(f"text is {shown(text)}, a {type(text).__name__}; split takes one str")
        listed_texts(text)
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
        for piece, row in zip(pieces, self.tokenize(pieces), strict=True):
            if len(row) > self.max_tokens:
                raise TextError(
                    f"the sentence that begins {piece[:40]!r} has {len(row)} tokens, more than the {self.max_tokens} "
                    "that this autoencoder reads, and no end to split it at; break it up or shorten it"
                )
        return pieces

    def encode(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        return self.encode_ids(self._ids(as_texts(texts)), batch_size)

    @torch.no_grad()
    def encode_ids(self, ids: Sequence[list[int]], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of tokenized texts."""
        return self.autoencoder.normalise(self.compress(ids, batch_size))

    def encode_condition(self, sources: Iterable[str], batch_size: int = 256) -> Source:
        """The frozen encoder's features [B, T, H]; raises as `encode` does, though a source is never compressed."""
        return self.features(self._ids(as_texts(sources, "source")), batch_size)

    @torch.no_grad()
    def features(self, ids: Sequence[list[int]], batch_size: int = 256) -> Source:
        """Features [B, T, H] of tokenized texts, and their mask."""
        batch_size = check_whole("batch_size", batch_size)
        padded, mask = (x.to(self.device) for x in pad(ids, self.tokenizer.pad_token_id))
        chunks = zip(padded.split(batch_size), mask.split(batch_size), strict=True)
        return Source(torch.cat([encode_features(self.text_model, *chunk) for chunk in chunks]), mask)

    @torch.no_grad()
    def compress(self, ids: Sequence[list[int]], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of tokenized texts, before they are normalised."""
        batch_size = check_whole("batch_size", batch_size)
        latents = torch.empty(len(ids), *self.latent_shape, device=self.device)
        # By length, so that little is padded; written back in the order given.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded, mask = (x.to(self.device) for x in pad([ids[i] for i in rows], self.tokenizer.pad_token_id))
            latents[rows] = self.autoencoder.compress(encode_features(self.text_model, padded, mask), mask)
        return latents

    @torch.no_grad()
    def generate(
        self, latents: Tensor, cond: Sequence[str] | None = None, batch_size: int = 256,
        generators: Sequence[torch.Generator] | None = None, preset: str = "greedy", **options,
    ) -> Decoded:
        """Texts of latents, and which of them were cut.

        A text ends where the decoder writes end-of-text; one that reaches `max_tokens` before that is cut there. Warns,
        once a call, of how many were.

        Args:
            latents: [B, L, D].
            cond: not used: the latents hold all that this decoder reads.
            batch_size: how many at once, times the beams of the preset.
            generators: not used: this decoder draws nothing.
            preset: of config.DECODING: greedy, or ld4lg, the beam search of LD4LG's code.
            options: on top of it, for transformers' `generate`, e.g. num_beams=8.

        Raises:
            UserError: For an unknown preset or option.
        """
        batch_size = check_whole("batch_size", batch_size)
        settings, end = decoding(preset, **options), self.tokenizer.eos_token_id
        texts: list[str] = []
        cut: list[bool] = []
        for chunk in latents.to(self.device).split(batch_size) if len(latents) else ():
            features = self.autoencoder.reconstruct(chunk.float())
            ids = generate_ids(self.text_model, features, self.max_tokens, **settings)
            texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            cut += (ids[:, 1:] != end).all(1).tolist()  # the first is the start token, in BART the same as the end
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(cut)} texts are cut: the decoder reached the autoencoder's max_tokens, "
                f"{self.max_tokens}, before an end of text",
                stacklevel=4,
            )
        return Decoded(texts, cut)

    def check_options(self, **options) -> None:
        decoding(**options)

    @torch.no_grad()
    def token_accuracy(self, latents: Tensor, texts: list[str], batch_size: int = 256) -> float:
        ids, right, total = self.tokenize(texts), 0, 0
        for start in range(0, len(ids), batch_size):
            labels = labels_of(*pad(ids[start : start + batch_size], self.tokenizer.pad_token_id)).to(self.device)
            features = self.autoencoder.reconstruct(latents[start : start + batch_size].to(self.device))
            guessed = decoder_logits(self.text_model, features, labels).argmax(-1)
            right += int(((guessed == labels) & (labels != IGNORED)).sum())
            total += int((labels != IGNORED).sum())
        return right / total

    @cached_property
    def digest(self) -> str:
        """What was stored when the codec was finished; of an older one, `fingerprint` of weights and vocabulary."""
        return self.autoencoder.config.codec_digest or self.fingerprint(with_settings=False)

    def seal(self) -> TextCodec:
        """Store the digest of the finished codec in the autoencoder's configuration; returns the codec."""
        self.__dict__.pop("digest", None)
        self.autoencoder.register_to_config(codec_digest=self.fingerprint())
        return self

    def verify(self) -> None:
        """Compute the digest of the weights again, in float32.

        Raises:
            UserError: When it is not the stored one: a part was changed or damaged after it was saved.
        """
        found = [self.fingerprint(), self.fingerprint(with_settings=False)]  # the latter of a codec of before 0.1.0
        if self.digest not in found:
            raise UserError(f"tokenizer, text model and autoencoder are codec {found[0]}, but were saved as "
                            f"{self.digest}; load them in float32, or copy the whole folder again")

    def fingerprint(self, with_settings: bool = True) -> str:
        """Of all that gives latents their meaning: 16 hex digits of a SHA-256 of weights, vocabulary, settings."""
        sha = hashlib.sha256()
        for model in (self.text_model, self.autoencoder):
            for name, tensor in sorted(model.state_dict().items()):
                sha.update(name.encode())
                sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        sha.update("\n".join(f"{k} {v}" for k, v in sorted(self.tokenizer.get_vocab().items())).encode())
        if with_settings:
            settings = {key: value for key, value in self.autoencoder.config.items()
                        if not key.startswith("_") and key != "codec_digest"}
            sha.update(json.dumps(settings, sort_keys=True).encode())
        return sha.hexdigest()[:16]

    def _ids(self, texts: list[str]) -> PackedIds:
        """Raises TextError for texts that are too long, with their count and the first of them."""
        ids = self.tokenize(texts)
        long = [i for i, row in enumerate(ids) if len(row) > self.max_tokens]
        if long:
            raise TextError(
                f"{len(long)} of {len(texts)} texts are longer than the {self.max_tokens} tokens that this autoencoder "
                f"reads (the first at index {long[0]} has {len(ids[long[0]])}); shorten or drop them, or encode the "
                "pieces that codec.split(text) cuts at sentence ends"
            )
        return ids


def decoding(preset: str = "greedy", **options) -> dict:
    """Settings for transformers' `generate`: those of a preset of config.DECODING, and options on top of it.

    Raises UserError for an unknown preset, an unknown option, numbers out of range, and options that would hide that a
    text was cut or write more than one text of a latent.
    """
    if not isinstance(preset, str) or preset not in DECODING:
        raise UserError(f"no decoding {shown(preset)}, only {', '.join(DECODING)}{nearest(str(preset), DECODING)}")
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
    for name in sorted(options.keys() & LEAST.keys()):
        if options[name] is not None:
            options[name] = check_whole(name, options[name], LEAST[name])
    for name in sorted(options.keys() & PENALTIES.keys()):
        if options[name] is not None:
            options[name] = check_number(name, options[name], above=PENALTIES[name])
    # an end forced at the limit would hide that the text was cut there
    return DECODING[preset] | options | {"forced_eos_token_id": None}
