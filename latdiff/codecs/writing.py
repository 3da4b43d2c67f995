"""What codecs share whose texts a frozen causal language model writes from soft prompts."""

from __future__ import annotations

import hashlib
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from latdiff.codecs.adapter import load_updates
from latdiff.codecs.presets import decoding
from latdiff.codecs.protocol import Codec, Decoded, TextError, as_texts, listed_texts
from latdiff.config import DECODING
from latdiff.config.writing import PRESETS
from latdiff.data.packed import PackedIds, PackedTexts
from latdiff.data.tokens import plain_ids
from latdiff.errors import check_whole
from latdiff.fetch import located
from latdiff.lm import led, write
from latdiff.models.saved import SavedModel
from latdiff.models.writer import (
    SentenceModelError,
    fit_end,
    load_encoder,
    load_writer,
    merge_updates,
    writer_features,
)


class WritingCodec(SavedModel, Codec):
    """Latents [B, L, D] to soft prompts [B, K, H], from which a frozen causal language model writes.

    Saved are a codec's own weights, the low-rank updates of the language model, what is added to its output embedding
    of end-of-text (`ending`, [H]), and the names of the two frozen models, which stay where they are. A subclass says
    how texts become latents (`latents_of`) and latents prompts (`reader`). Its configuration has

        language_model: name, folder or hub id of a causal language model.
        encoder: of the frozen model that reads, likewise.
        prompt_dim: H, the width of the language model.
        rank: of the language model's low-rank updates; 0: none.
        max_tokens: of a text, end-of-text included.
        assumed_noise: sd of the noise that is assumed on latents to be decoded.
        codec_digest: of all that gives latents their meaning, set when that is finished.
        writer_digest: of the language model as it came, set by `attach`.
    """

    presets = tuple(PRESETS)
    latent_shape: Any
    ending: Tensor  # [H], a buffer: what is added to the output embedding of end-of-text
    _frozen: dict[str, Any]

    @property
    @abstractmethod
    def reader(self) -> nn.Module:
        """What makes soft prompts [B, K, H] of latents [B, L, D] and the sd [B] of the noise on them."""

    @abstractmethod
    def latents_of(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of texts that are known to fit."""

    @property
    @abstractmethod
    def encoder_width(self) -> int:
        """E, which the encoder's features must have."""

    def keep_latents(self) -> None:
        """Leave only what reads latents to be trained, so that they stay what they are."""
        self.requires_grad_(False)
        self.reader.requires_grad_(True)

    @abstractmethod
    def fingerprint(self) -> str:
        """What `digest` is once the codec is finished."""

    @abstractmethod
    def refuse_another_encoder(self) -> None:
        """Raise SentenceModelError where the encoder is not the one that the codec was trained with."""

    def exact(self) -> Iterator[tuple[nn.Module, str]]:
        """Modules and names of buffers that stay in float32, for the digest or the latents would be others."""
        yield from ()

    @classmethod
    def from_pretrained(cls, folder, *arguments, **settings) -> Self:
        """As diffusers'; the two models that its configuration names are loaded beside it.

        Raises:
            UserError: When one is not here, or is not the one that it was trained with.
        """
        codec = super().from_pretrained(folder, *arguments, **settings)
        codec.attach()
        if codec.config.rank:
            load_updates(Path(folder) / "adapter", codec.config.rank, codec.language_model)
            merge_updates(codec.language_model)
        for part in (codec.language_model, codec.encoder):
            part.to(codec.dtype)
        return codec.requires_grad_(False).eval()

    def save_pretrained(self, folder, *arguments, **settings) -> None:
        """As diffusers'; the low-rank updates go to the folder `adapter` in it, in peft's format."""
        super().save_pretrained(folder, *arguments, **settings)
        if self.config.rank:
            for adapter in self.language_model.peft_config.values():
                adapter.base_model_name_or_path = None  # the codec's configuration names it; peft would ask the hub
            self.language_model.save_pretrained(Path(folder) / "adapter")

    push_to_hub = Codec.push_to_hub  # not that of diffusers' models, which knows no card of ours

    def attach(self, language_model=None, tokenizer=None, encoder=None, encoder_tokenizer=None) -> Self:
        """Take the two frozen models and their tokenizers, by default those that the configuration names.

        Args:
            language_model: a causal language model, frozen.
            tokenizer: its.
            encoder: the model that reads, frozen.
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
                                   ("encoder", encoder, self.encoder_width)):
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
        if "hook" in self._frozen:
            self._frozen["hook"].remove()
        self._frozen = {"tokenizer": tokenizer, "language_model": language_model,
                        "encoder_tokenizer": encoder_tokenizer, "encoder": encoder,
                        "hook": language_model.get_output_embeddings().register_forward_hook(self._end_as_learnt)}
        self.refuse_another_encoder()
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
        """The model that reads."""
        return self._frozen["encoder"]

    @property
    def digest(self) -> str:
        """Of all that gives latents their meaning."""
        return self.config.codec_digest or self.fingerprint()

    def seal(self) -> Self:
        """Store the digest of the finished codec in its configuration; returns the codec."""
        self.register_to_config(codec_digest=self.fingerprint())
        return self

    @property
    def encoder_weights(self) -> str:
        """Digest of the encoder's weights."""
        return digest_of(self.encoder.state_dict())

    def _apply(self, fn, *arguments, **settings):
        """Move or convert the frozen models too, which are no submodules and so are not saved."""
        kept = [(part, name, getattr(part, name)) for part, name in self.exact()]
        for frozen in (self._frozen.get("language_model"), self._frozen.get("encoder")):
            if frozen is not None:
                frozen._apply(fn, *arguments, **settings)
        super()._apply(fn, *arguments, **settings)
        for part, name, value in kept:
            setattr(part, name, value.to(getattr(part, name).device))
        return self

    def _end_as_learnt(self, head: nn.Module, given: tuple[Tensor], logits: Tensor) -> Tensor:
        """Logits [..., V] of features [..., H] as if `ending` were added to the output embedding of end-of-text.

        Often that is the input embedding as well, which has to stay as it is.
        """
        logits[..., self.tokenizer.eos_token_id] += given[0] @ self.ending.to(given[0])
        return logits

    @torch.no_grad()
    def learn_to_end(self, latents: Tensor, texts: Sequence[str], starts: Sequence[str] = (), batch_size: int = 64,
                     progress=lambda rows: rows) -> None:
        """Fit `ending` to texts as they are written from their latents (`fit_end`).

        Args:
            latents: [N, L, D].
            texts: N of them.
            starts: the first words of each, as of `tokenize`.
            batch_size: how many at once.
            progress: wraps the batches, as tqdm does.
        """
        self.ending += fit_end(*self._ends(latents, texts, starts, batch_size, progress)).to(self.ending)

    @torch.no_grad()
    def end_probability(self, latents: Tensor, texts: Sequence[str], starts: Sequence[str] = (),
                        batch_size: int = 64) -> float:
        """The geometric mean of the probability of end-of-text behind N texts; arguments as of `learn_to_end`."""
        _, odds, ends = self._ends(latents, texts, starts, batch_size)
        return F.logsigmoid(odds[ends]).mean().exp().item()

    def _ends(self, latents: Tensor, texts: Sequence[str], starts: Sequence[str], batch_size: int,
              progress=lambda rows: rows) -> tuple[Tensor, Tensor, Tensor]:
        """Of the M tokens of texts the features [M, H] that predict them, the odds of an end [M], and where one is [M].

        The odds are the logit of end-of-text minus the log-sum-exp of the others'.
        """
        ids, begun = self.tokenize(texts, starts), self.ids(starts) if starts else [[]] * len(texts)
        head, end = self.language_model.get_output_embeddings(), self.tokenizer.eos_token_id
        features, odds, ends = [], [], []
        for start in progress(range(0, len(ids), batch_size)):
            part = slice(start, start + batch_size)
            found = writer_features(self.language_model, self.prompts(latents[part]), ids[part], begun[part])
            logits = head(found).float()
            own = logits[:, end].clone()
            logits[:, end] = -torch.inf
            features.append(found.float())
            odds.append(own - logits.logsumexp(-1))
            ends.append(torch.tensor([one == end for row in ids[part] for one in row], device=own.device))
        return torch.cat(features), torch.cat(odds), torch.cat(ends)

    def fits(self, texts: Iterable[str], max_tokens: int | None = None) -> list[bool]:
        texts = listed_texts(texts)
        most = self.config.max_tokens if max_tokens is None else max_tokens
        return [len(row) <= most for row in self.tokenize(texts)] if texts else []

    def tokenize(self, texts: Iterable[str], starts: Iterable[str] = ()) -> PackedIds:
        """The language model's ids of every text, end-of-text included, nothing cut.

        Args:
            texts: B of them.
            starts: the first words of each, which the text itself is without; '' or none where it is whole.
        """
        begun = starts if isinstance(starts, Sequence) else list(starts)
        if begun:
            texts = PackedTexts(f" {text}" if start else text for text, start in zip(texts, begun, strict=True))
        return PackedIds([*row, self.tokenizer.eos_token_id] for row in self.ids(texts))

    def ids(self, texts: Iterable[str]) -> PackedIds:
        """The language model's ids of every text, and nothing else."""
        return plain_ids(self.tokenizer, texts, truncation=False, add_special_tokens=False)

    def encode(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        texts = as_texts(texts)
        lengths = [len(row) for row in self.tokenize(texts)]
        long = [i for i, length in enumerate(lengths) if length > self.config.max_tokens]
        if long:
            raise TextError(
                f"{len(long)} of {len(texts)} texts are longer than the {self.config.max_tokens} tokens that this "
                f"codec writes (the first at index {long[0]} has {lengths[long[0]]}); shorten or drop them"
            )
        return self.latents_of(texts, batch_size)

    def encoder_ids(self, texts: Sequence[str], cut: bool = True) -> PackedIds:
        """The encoder's ids of every text, cut where it reads no further, or whole."""
        settings = {"truncation": True, "max_length": self.encoder_limit} if cut else {"verbose": False}
        return plain_ids(self._frozen["encoder_tokenizer"], texts, **settings)

    @property
    def encoder_pad(self) -> int:
        """Id behind a text that the encoder reads."""
        return self._frozen["encoder_tokenizer"].pad_token_id or 0

    @property
    def encoder_limit(self) -> int:
        """Tokens of a text that the encoder reads; what is behind them does not reach the latents."""
        most = getattr(self.encoder.config, "max_position_embeddings", None) or sys.maxsize
        return min(most, self._frozen["encoder_tokenizer"].model_max_length, sys.maxsize)

    @property
    def continues(self) -> bool:
        """Whether its texts go on from the first words that they are conditioned on."""
        return self.config.get("continues", False)

    def prompts(self, latents: Tensor) -> Tensor:
        """Soft prompts [B, K, H] of latents [B, L, D] to be decoded."""
        latents = latents.to(self.device, self.dtype)
        return self.reader(latents, torch.full((len(latents),), float(self.config.assumed_noise)).to(latents))

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
            preset: sampled, token by token from the likeliest ones that together hold top_p; careful, from fewer, with
                an end as soon as that is the likeliest token; greedy; or beam.
            options: top_p of sampled and careful, num_beams of beam.

        Raises:
            UserError: For an unknown preset or option.
        """
        batch_size = check_whole("batch_size", batch_size)
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
                rows += write(self.language_model, starts[part], given[part], self.config.max_tokens, lead=prompts,
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

    def _beam(self, prompts: Tensor, starts: Sequence[list[int]], num_beams: int) -> list[list[int]]:
        """Ids of the likeliest texts that a beam search finds behind the prompts [B, K, H] and their starts."""
        inputs, mask = led(self.language_model, prompts, starts)
        ids = self.language_model.generate(
            inputs_embeds=inputs, attention_mask=mask,
            **DECODING["greedy"] | {"num_beams": num_beams},
            max_new_tokens=self.config.max_tokens, pad_token_id=self.tokenizer.eos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        return ids.tolist()

    def check_options(self, **options) -> None:
        decoding(**options)

    @torch.no_grad()
    def token_accuracy(
        self, latents: Tensor, texts: list[str], batch_size: int = 256, starts: Sequence[str] = ()
    ) -> float:
        """As the protocol says; `starts` are the first words that texts go on from, as of `tokenize`."""
        begun, right, total = self.ids(starts) if starts else [[]] * len(texts), 0, 0
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            ids = self.tokenize(texts[part], starts[part])
            features = writer_features(self.language_model, self.prompts(latents[part]), ids, begun[part])
            guessed = self.language_model.get_output_embeddings()(features).argmax(-1).tolist()
            wanted = [one for row in ids for one in row]
            right += sum(a == b for a, b in zip(guessed, wanted, strict=True))
            total += len(wanted)
        return right / total


def digest_of(tensors: dict[str, Tensor], words: str = "") -> str:
    """16 hex digits of a SHA-256 of named tensors, in float32, and words."""
    sha = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
