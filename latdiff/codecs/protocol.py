"""What every codec can do: text to latents and back. The pipeline, heads and figures know no more of one than this."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from latdiff.errors import UserError, shown
from latdiff.models.conditions import Source


class TextError(UserError):
    """Texts that cannot be encoded, in one sentence."""


class Decoded(NamedTuple):
    """Texts of latents.

    Attributes:
        texts: one for each latent.
        cut: which of them the token limit broke off.
    """

    texts: list[str]
    cut: list[bool]


@runtime_checkable
class Codec(Protocol):
    """Text to latents [B, L, D] and back; a new one inherits `decode`, `round_trip` and `push_to_hub`.

    A codec that is saved with a pipeline is a diffusers ModelMixin, or has `save_pretrained` and `from_pretrained`.

    Attributes:
        latent_shape: (L, D).
        digest: what tells its latents from those of any other codec; a denoiser and a head remember it.
        device: where its models are.
        condition_dim: H of `encode_condition`; 0 where it cannot.
        continues: whether its texts go on from their source text, where there is one.
        presets: names of ways to decode, which `generate` takes as `preset`, the default first; none where there is but
            one way.
    """

    latent_shape: Any  # a field or a property, which no narrower type lets a codec choose
    digest: Any
    device: Any
    condition_dim: Any = 0
    continues: Any = False
    presets: tuple[str, ...] = ()

    @abstractmethod
    def to(self, device: torch.device | str) -> Codec:
        """Move its models; returns the codec."""

    @abstractmethod
    def encode(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of B texts in float32, of about zero mean and unit variance.

        Raises:
            TextError: When a text is missing, empty or too long: nothing is cut silently.
        """

    @abstractmethod
    def generate(
        self, latents: Tensor, cond: Sequence[str] | None = None, batch_size: int = 256,
        generators: Sequence[torch.Generator] | None = None, **options,
    ) -> Decoded:
        """Texts of latents, and which of them were cut.

        Args:
            latents: [B, L, D].
            cond: the source text of each, for a codec that writes on from it.
            batch_size: how many at once.
            generators: one for each text, from which alone it draws the random numbers that it may need.
            options: the codec's own.
        """

    @abstractmethod
    def fits(self, texts: Iterable[str], max_tokens: int | None = None) -> list[bool]:
        """Whether each text is short enough for `encode`, or has at most so many tokens."""

    def check_options(self, **options) -> None:
        """Raise UserError for options that `generate` does not know, before anything is sampled."""
        if options:
            raise UserError(f"{type(self).__name__} decodes without options, and was given {', '.join(options)}")

    def encode_condition(self, sources: Iterable[str], batch_size: int = 256) -> Source:
        """Features [B, T, H] of source texts, for a denoiser that is conditioned on them.

        Raises:
            UserError: By a codec that cannot.
        """
        raise UserError(f"{type(self).__name__} reads no source texts; condition the denoiser on a class")

    def conditions(self, sources: Sequence[str], folder: Path) -> Callable[[list[int]], Source]:
        """A function from rows of source texts to `encode_condition` of them, as a training asks for batch after batch.

        A codec whose features are small encodes them once, and keeps them in `folder` until the training is over.
        """
        return lambda rows: self.encode_condition([sources[row] for row in rows])

    def decode(self, latents: Tensor, cond: Sequence[str] | None = None, batch_size: int = 256, **options) -> list[str]:
        """Texts of latents [B, L, D]: those of `generate`, which also says which of them were cut.

        Raises:
            UserError: For what are no latents of this codec, see `as_latents`, and by `generate`.
        """
        return self.generate(as_latents(latents, self.latent_shape), cond, batch_size, **options).texts

    def token_accuracy(self, latents: Tensor, texts: list[str], batch_size: int = 256) -> float | None:
        """Share of tokens that the decoder ranks first, given latents [B, L, D] and the right tokens before.

        Returns:
            0 to 1, or None by a codec that does not decode token by token.
        """
        return None

    def push_to_hub(
        self, repo_id: str, commit_message: str | None = None, private: bool | None = None, token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the codec to the Hugging Face hub, where `load_codec("owner/name")` finds it.

        Arguments and errors are as in a pipeline's `push_to_hub`.
        """
        from latdiff.codecs.files import push_codec  # which imports codecs

        return push_codec(self, repo_id, commit_message, private, token, create_pr)

    def round_trip(self, latents: Tensor, texts: list[str], batch_size: int = 256) -> Tensor:
        """How far latents lie from those of the texts that were written from them, read again.

        Latents that no text has leave the decoder to guess, and let a head read what is not written.

        Args:
            latents: [B, L, D].
            texts: the B texts.
            batch_size: how many to encode at once.

        Returns:
            [B], the root mean square over L and D, in a latent's standard deviations; infinite for a text that is blank
            or too long to be read.
        """
        read = [bool(text.strip()) and fits for text, fits in zip(texts, self.fits(texts), strict=True)]
        found = torch.full((len(texts),), math.inf)
        if any(read):
            again = self.encode(list(itertools.compress(texts, read)), batch_size)
            rows = torch.tensor(read)
            found[rows] = (again - latents.to(again)[rows.to(latents.device)]).square().mean((1, 2)).sqrt().cpu()
        return found


def as_latents(given: Any, latent_shape: Sequence[int]) -> Tensor:
    """Latents [B, L, D] as a tensor, of a tensor or an array.

    Args:
        given: what was given.
        latent_shape: (L, D).

    Raises:
        UserError: For anything else, another shape, numbers that are not real or of floating point, NaN and infinity.
    """
    wanted = f"must be a tensor [B, {', '.join(map(str, latent_shape))}] of floating-point numbers"
    try:
        found = torch.tensor(given) if isinstance(given, np.ndarray) else given
    except TypeError:  # of a dtype that torch does not have
        found = None
    if not isinstance(found, Tensor):
        raise UserError(f"latents is {shown(given)}, {wanted}, as of codec.encode or torch.randn")
    if found.dim() != 3 or tuple(found.shape[1:]) != tuple(latent_shape) or not found.is_floating_point():
        kind = str(found.dtype).removeprefix("torch.")
        raise UserError(f"latents is of shape {list(found.shape)} and dtype {kind}, {wanted}")
    wrong = (~found.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if wrong:
        raise UserError(f"{len(wrong)} of {len(found)} latents hold NaN or infinity, the first at index {wrong[0]}; no "
                        "text can be made of them; look at what made them, or drop them")
    return found


def as_texts(texts: Iterable[str] | str, what: str = "text") -> list[str]:
    """A list of texts: a single one counts as one, an array, a Series or a tuple as what it holds.

    Args:
        texts: what was given.
        what: what to call one of them in a message.

    Raises:
        TextError: When there is none, and for what is no text, is blank or cannot be written as UTF-8, with its index.
    """
    found = listed_texts(texts, what)
    if not found:
        raise TextError(f"there is no {what} to encode: the list is empty")
    empty = [index for index, text in enumerate(found) if not text.strip()]
    if empty:
        raise TextError(f"{len(empty)} of {len(found)} {what}s are empty, the first at index {empty[0]}; drop them")
    return found


def listed_texts(texts: Iterable[str] | str, what: str = "text") -> list[str]:
    """As `as_texts` does, but there may be none, and they may be blank.

    Raises:
        TextError: For what holds no texts, and for what is no text or cannot be written as UTF-8, with its index.
    """
    if isinstance(texts, (bytes, bytearray, Mapping)) or not hasattr(texts, "__iter__"):
        raise TextError(f"{what}s is {shown(texts)}, a {type(texts).__name__}; must be a str or a list of them")
    try:
        found = [texts] if isinstance(texts, str) else list(texts)
    except TypeError:  # of an array without dimensions
        raise TextError(f"{what}s is {shown(texts)}, of no dimension; must be a str or a list of them") from None
    for index, text in enumerate(found):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TextError(f"{what} {index} of {len(found)} is {shown(text)}, a {kind}; drop it, or give a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"{what} {index} of {len(found)} holds {text[error.start]!a}, half of a surrogate pair; drop it, or "
                "repair it with text.encode('utf-16', 'surrogatepass').decode('utf-16')"
            ) from None
    return found
