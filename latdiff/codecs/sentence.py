"""The sentence codec: a frozen encoder's vector of a text as latents, and a language model that writes from them."""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from transformers import PreTrainedModel

from latdiff.codecs.protocol import Codec, Decoded, TextError, as_texts
from latdiff.config import DECODING
from latdiff.config.stages.sentence import PRESETS
from latdiff.data.tokens import pad
from latdiff.errors import UserError, check_whole, nearest
from latdiff.fetch import located
from latdiff.lm import context, left_padded, write
from latdiff.models.conditions import Source
from latdiff.models.soft_prompts import SoftPrompts
from latdiff.models.writer import (
    SentenceModelError,
    load_encoder,
    load_writer,
    merge_updates,
    sentence_vectors,
    writer_features,
)

SETTINGS: dict[str, dict[str, Any]] = {"sampled": {"top_p": 0.9}, "greedy": {"greedy": True}, "beam": {"num_beams": 4}}


class SentenceCodec(ModelMixin, ConfigMixin, Codec):
    """Text to the whitened vector of a sentence encoder, and back by a language model that reads it as soft prompts.

    After DGLM (Lovelace et al. 2024, section 3). A vector holds what a text says, hardly its words: what comes back
    says the same in the language model's words. Saved are the soft prompts, the low-rank updates of the language model
    and the names of the two models, which stay where they are.

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
        codec_digest: of the encoder and the whitening, set by `whiten`.
        writer_digest: of the language model as it came, set by `attach`.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file
    _keep_in_fp32_modules: ClassVar = ["mean", "sd"]
    presets = PRESETS
    latent_shape: Any

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
        self._frozen: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, folder, *arguments, **settings) -> SentenceCodec:
        """As diffusers'; the two models that its configuration names are loaded beside it.

        Raises:
            UserError: When one is not here, or is not the one that it was trained with.
        """
        codec = super().from_pretrained(folder, *arguments, **settings)
        codec.attach()
        if codec.config.rank:
            codec.language_model.load_adapter(str(Path(folder) / "adapter"))
            merge_updates(codec.language_model)
        for part in (codec.language_model, codec.encoder):
            part.to(codec.dtype)
        return codec.requires_grad_(False).eval()

    def save_pretrained(self, folder, *arguments, **settings) -> None:
        """As diffusers'; the low-rank updates go to the folder `adapter` in it, in peft's format."""
        super().save_pretrained(folder, *arguments, **settings)
        if self.config.rank:
            for adapter in self.language_model.peft_config.values():
                adapter.base_model_name_or_path = self.config.language_model  # else a path of this machine
            self.language_model.save_pretrained(Path(folder) / "adapter")

    def attach(self, language_model=None, tokenizer=None, encoder=None, encoder_tokenizer=None) -> SentenceCodec:
        """Take the two frozen models and their tokenizers, by default those that the configuration names.

        Args:
            language_model: a causal language model, frozen.
            tokenizer: its.
            encoder: a sentence encoder, frozen.
            encoder_tokenizer: its.

        Raises:
            UserError: When one is not here, or does not fit.
        """
        config = self.config
        if language_model is None:
            tokenizer, language_model = load_writer(located(config.language_model))
        if encoder is None:
            encoder_tokenizer, encoder = load_encoder(located(config.encoder))
        for name, part, wanted in (("language_model", language_model, config.prompt_dim),
                                   ("encoder", encoder, math.prod(self.latent_shape))):
            if part.config.hidden_size != wanted:
                raise SentenceModelError(
                    f"{name} is {getattr(config, name)!r}, of width {part.config.hidden_size}, must be of width "
                    f"{wanted}; name the one that the codec was trained with"
                )
        words = "\n".join(f"{piece} {row}" for piece, row in sorted(tokenizer.get_vocab().items()))
        found = digest_of(language_model.get_input_embeddings().state_dict(), words)
        if config.writer_digest not in ("", found):
            raise SentenceModelError(
                f"language_model is {config.language_model!r}, which is not the one that the codec was trained with "
                f"(it is {found}, was {config.writer_digest}); name that one"
            )
        self.register_to_config(writer_digest=found)
        self._frozen = {"tokenizer": tokenizer, "language_model": language_model,
                        "encoder_tokenizer": encoder_tokenizer, "encoder": encoder}
        if config.codec_digest not in ("", self.fingerprint()):
            raise SentenceModelError(
                f"encoder is {config.encoder!r}, which is not the one that the codec was trained with (its latents are "
                f"{self.fingerprint()}, were {config.codec_digest}); name that one"
            )
        return self

    @property
    def language_model(self) -> PreTrainedModel:
        """The causal language model that writes."""
        return self._frozen["language_model"]

    @property
    def tokenizer(self):
        """The language model's."""
        return self._frozen["tokenizer"]

    @property
    def encoder(self) -> PreTrainedModel:
        """The sentence encoder."""
        return self._frozen["encoder"]

    @property
    def digest(self) -> str:
        """Of the encoder and the whitening, which alone give latents their meaning."""
        return self.config.codec_digest or self.fingerprint()

    def fingerprint(self) -> str:
        """What `digest` is once the whitening is known."""
        return digest_of({"mean": self.mean, "sd": self.sd}, f"{self.encoder_digest} {self.latent_shape}")

    @property
    def encoder_digest(self) -> str:
        """Of the encoder's weights."""
        return digest_of(self.encoder.state_dict())

    def _apply(self, fn, *arguments, **settings):
        """Move or convert the frozen models too, which are no submodules and so are not saved.

        The whitening is moved but not rounded, for its digest would be another.
        """
        whitening = {"mean": self.mean, "sd": self.sd}
        for part in (self._frozen.get("language_model"), self._frozen.get("encoder")):
            if part is not None:
                part._apply(fn, *arguments, **settings)
        super()._apply(fn, *arguments, **settings)
        for name, exact in whitening.items():
            setattr(self, name, exact.to(self.mean.device))
        return self

    def fits(self, texts: Iterable[str], max_tokens: int | None = None) -> list[bool]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        most = self.config.max_tokens if max_tokens is None else max_tokens
        return [len(row) <= most for row in self.tokenize(texts)] if texts else []

    def tokenize(self, texts: Iterable[str], starts: Iterable[str] = ()) -> list[list[int]]:
        """The language model's ids of every text, end-of-text included, nothing cut.

        Args:
            texts: B of them.
            starts: the first words of each, which the text itself is without; '' or none where it is whole.
        """
        texts, begun = list(texts), list(starts)
        if begun:
            texts = [f" {text}" if start else text for text, start in zip(texts, begun, strict=True)]
        return [[*row, self.tokenizer.eos_token_id] for row in self.ids(texts)]

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """The language model's ids of every text, and nothing else."""
        return self.tokenizer(list(texts), truncation=False, add_special_tokens=False).input_ids

    def encode(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        texts = as_texts(texts)
        lengths = [len(row) for row in self.tokenize(texts)]
        long = [i for i, length in enumerate(lengths) if length > self.config.max_tokens]
        if long:
            raise TextError(
                f"{len(long)} of {len(texts)} texts are longer than the {self.config.max_tokens} tokens that this "
                f"codec writes (the first at index {long[0]} has {lengths[long[0]]}); shorten or drop them"
            )
        return self.whitened(self.vectors(texts, batch_size))

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], batch_size: int = 256, progress=lambda rows: rows) -> Tensor:
        """Vectors [B, E] of texts, of norm 1; `progress` wraps the batches, as tqdm does."""
        check_whole("batch_size", batch_size)
        ids = self._frozen["encoder_tokenizer"](list(texts), truncation=True, max_length=self._encoder_limit).input_ids
        pad_id = self._frozen["encoder_tokenizer"].pad_token_id or 0
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = torch.empty(len(ids), math.prod(self.latent_shape), device=self.device)
        for start in progress(range(0, len(order), batch_size)):
            rows = order[start : start + batch_size]
            found[rows] = sentence_vectors(self.encoder, *pad([ids[i] for i in rows], pad_id)).float()
        return found

    @property
    def continues(self) -> bool:
        """Whether its texts go on from the first words that they are conditioned on."""
        return self.config.continues

    @property
    def condition_dim(self) -> int:
        """E: a source text is one vector."""
        return math.prod(self.latent_shape)

    def encode_condition(self, sources: Iterable[str], batch_size: int = 256) -> Source:
        """Vectors [B, 1, E] of source texts, whitened; raises TextError for what is empty or too long."""
        sources = as_texts(sources, "source")
        most = context(self.language_model) - self.config.num_prompts - self.config.max_tokens
        most = min(most, self._encoder_limit)
        long = [i for i, row in enumerate(self.ids(sources)) if len(row) > most]
        if long:
            raise TextError(f"source {long[0]} of {len(sources)} is longer than the {most} tokens that leave room for "
                            "a text behind it; give its end alone")
        return self._source(sources, batch_size)

    def conditions(self, sources: Sequence[str]) -> Callable[[list[int]], Source]:
        """As the protocol says; '' is no condition. All are encoded once, [N, 1, E] in float32."""
        return self._source(sources).__getitem__

    def _source(self, sources: Sequence[str], batch_size: int = 256) -> Source:
        features = self.whitened(self.vectors(sources, batch_size)).flatten(1)[:, None]
        return Source(features, torch.tensor([[bool(one)] for one in sources], device=self.device))

    @property
    def _encoder_limit(self) -> int:
        """Tokens of a text that the encoder reads; what is behind them is not in the vector."""
        most = getattr(self.encoder.config, "max_position_embeddings", None) or sys.maxsize
        return min(most, self._frozen["encoder_tokenizer"].model_max_length, sys.maxsize)

    def whiten(self, vectors: Tensor) -> SentenceCodec:
        """Take mean and standard deviation [E] of vectors [N, E] for the whitening; returns the codec."""
        self.mean.copy_(vectors.mean(0))
        self.sd.copy_(vectors.std(0).clamp(min=1e-4))
        self.register_to_config(codec_digest="")
        self.register_to_config(codec_digest=self.fingerprint())
        return self

    def whitened(self, vectors: Tensor) -> Tensor:
        """Vectors [B, E] to latents [B, L, D]."""
        return ((vectors - self.mean) / self.sd).unflatten(1, self.latent_shape)

    def prompts(self, latents: Tensor) -> Tensor:
        """Soft prompts [B, K, H] of latents [B, L, D] to be decoded."""
        latents = latents.to(self.device, self.soft_prompts.out.weight.dtype)
        noise = torch.full((len(latents),), float(self.config.assumed_noise))
        return self.soft_prompts(latents, noise.to(latents))

    @torch.no_grad()
    def generate(
        self, latents: Tensor, cond: Sequence[str] | None = None, batch_size: int = 256,
        generators: Sequence[torch.Generator] | None = None, preset: str = "sampled", **options,
    ) -> Decoded:
        """Texts of latents, and which of them were cut: those that reach `max_tokens` before their end, with a warning.

        Args:
            latents: [B, L, D].
            cond: the first words of each text, where it `continues`; what is written goes on from them.
            batch_size: how many at once, times the beams.
            generators: one for each text, which it is sampled with (default: text i of seed i).
            preset: sampled, token by token from the likeliest ones that together hold top_p; greedy; or beam.
            options: top_p of sampled, num_beams of beam.

        Raises:
            UserError: For an unknown preset or option.
        """
        check_whole("batch_size", batch_size)
        settings = decoding(preset, **options)
        given = generators or [torch.Generator().manual_seed(row) for row in range(len(latents))]
        starts = self.ids(cond) if cond and self.continues else [[]] * len(latents)
        rows: list[list[int]] = []
        for first in range(0, len(latents), batch_size):
            part = slice(first, first + batch_size)
            prompts = self.prompts(latents[part])
            if preset == "beam":
                rows += self._beam(prompts, starts[part], **settings)
            else:
                rows += write(self.language_model, starts[part], given[part], self.config.max_tokens, prompts=prompts,
                              **settings)
        end = self.tokenizer.eos_token_id
        cut = [end not in row for row in rows]
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(cut)} texts are cut: the language model reached the codec's max_tokens, "
                f"{self.config.max_tokens}, before an end of text",
                stacklevel=4,
            )
        texts = (self.tokenizer.decode(row, skip_special_tokens=True) for row in rows)
        return Decoded([" ".join(text.split()) for text in texts], cut)  # white space as in texts that are read

    def _beam(self, prompts: Tensor, starts: list[list[int]], num_beams: int) -> list[list[int]]:
        """Ids of the likeliest texts that a beam search finds behind the starts and their prompts [B, K, H]."""
        words, mask = left_padded(starts, prompts.device)
        inputs = torch.cat([self.language_model.get_input_embeddings()(words).to(prompts), prompts], 1)
        ids = self.language_model.generate(
            inputs_embeds=inputs, attention_mask=F.pad(mask, (0, prompts.shape[1]), value=1),
            **DECODING["greedy"] | {"num_beams": num_beams},
            max_new_tokens=self.config.max_tokens, pad_token_id=self.tokenizer.eos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        return ids.tolist()

    def check_options(self, **options) -> None:
        decoding(**options)

    @torch.no_grad()
    def token_accuracy(self, latents: Tensor, texts: list[str], batch_size: int = 256) -> float:
        right = total = 0
        for start in range(0, len(texts), batch_size):
            ids = self.tokenize(texts[start : start + batch_size])
            features = writer_features(self.language_model, self.prompts(latents[start : start + batch_size]), ids)
            guessed = self.language_model.get_output_embeddings()(features).argmax(-1).tolist()
            wanted = [one for row in ids for one in row]
            right += sum(a == b for a, b in zip(guessed, wanted, strict=True))
            total += len(wanted)
        return right / total


def decoding(preset: str = "sampled", **options) -> dict[str, Any]:
    """Settings of a preset with options on top; raises UserError for unknown ones and for values out of range."""
    if preset not in SETTINGS:
        raise UserError(f"no decoding {preset!r}, only {', '.join(SETTINGS)}{nearest(str(preset), SETTINGS)}")
    settings = SETTINGS[preset]
    for name, value in options.items():
        if name not in settings or name == "greedy":
            known = "num_beams with beam, top_p with sampled"
            raise UserError(f"decoding option {name} is set with {preset}, which has no such option; there is {known}")
        if name == "num_beams":
            check_whole(name, value)
        elif not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise UserError(f"top_p is {value}, must be above 0 and at most 1")
    return settings | options


def digest_of(tensors: dict[str, Tensor], words: str = "") -> str:
    """16 hex digits of a SHA-256 of named tensors, in float32, and words."""
    sha = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
