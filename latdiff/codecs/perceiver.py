"""The Perceiver codec of a language model: a frozen encoder's features of all tokens as L latents that draft a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from latdiff.codecs.writing import WritingCodec, digest_of
from latdiff.data.tokens import pad
from latdiff.errors import check_whole
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.drafts import Drafts, directions_of
from latdiff.models.writer import SentenceModelError

# what makes latents of features, among the autoencoder's parts
READS = ("features_in", "token_positions", "queries", "compressor", "latents_out", "whitening")


class PerceiverCodec(WritingCodec):
    """Text to L whitened latents, to hold its words, and back by a language model that reads them as soft prompts.

    LD4LG's autoencoder (Lovelace et al. 2023, section 4.1) around a decoder-only language model. A Perceiver compresses
    the features of a frozen encoder, and the reconstructor's output i is a draft of token i in the language model's own
    embeddings, which it copies and mends.

    Args:
        language_model: name, folder or hub id of a causal language model.
        encoder: name, folder or hub id of the model whose features of tokens [B, T, E] are compressed.
        num_latents: L, and as many soft prompts.
        latent_dim: D.
        width: inner width of compressor and reconstructor.
        depth: blocks in each.
        heads: must divide width.
        prompt_dim: H, the width of the language model.
        feature_dim: E, the width of the encoder.
        rank: of the language model's low-rank updates; 0: none.
        max_tokens: of a text, end-of-text included.
        encoder_tokens: positions that the compressor knows, of the encoder's own tokens.
        assumed_noise: sd of the noise that is assumed on latents to be decoded; 0: the reconstructor is built without
            such an input.
        codec_digest: of the encoder and all that makes latents, set by `seal`.
        encoder_digest: of the encoder alone, likewise.
        writer_digest: of the language model as it came, set by `attach`.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file
    _keep_in_fp32_modules: ClassVar = ["whitening"]

    @register_to_config
    def __init__(
        self, language_model: str, encoder: str, num_latents: int = 24, latent_dim: int = 16, width: int = 256,
        depth: int = 2, heads: int = 4, prompt_dim: int = 576, feature_dim: int = 384, rank: int = 16,
        max_tokens: int = 24, encoder_tokens: int = 512, assumed_noise: float = 0.2, codec_digest: str = "",
        encoder_digest: str = "", writer_digest: str = "",
    ):
        super().__init__()
        self.latent_shape = (num_latents, latent_dim)
        self.autoencoder = LatentAutoencoder(feature_dim, num_latents, latent_dim, width, depth, heads, encoder_tokens,
                                             assumed_noise=assumed_noise)
        self.draft = nn.Linear(feature_dim, prompt_dim)
        self.register_buffer("ending", torch.zeros(prompt_dim))
        self._frozen = {}

    @property
    def reader(self) -> Drafts:
        """What makes soft prompts [B, L, H] of latents [B, L, D] and the sd [B] of the noise on them."""
        return Drafts(self.autoencoder, self.draft, self.language_model.get_input_embeddings().weight)

    @property
    def encoder_width(self) -> int:
        """E."""
        return self.config.feature_dim

    @property
    def encoder_limit(self) -> int:
        """Tokens of a text that the encoder and the compressor read."""
        return min(super().encoder_limit, self.config.encoder_tokens)

    def exact(self) -> Iterator[tuple[nn.Module, str]]:
        """The whitening."""
        whitening = self.autoencoder.whitening
        yield from ((whitening, "running_mean"), (whitening, "running_var"))

    def fingerprint(self) -> str:
        """Of the encoder and all that makes latents, not of what reads them."""
        makes = {name: value for name, value in self.autoencoder.state_dict().items() if name.startswith(READS)}
        return digest_of(makes, f"{self.encoder_weights} {self.latent_shape}")

    def seal(self) -> PerceiverCodec:
        """Store the digests of the finished codec and of its encoder; returns the codec."""
        self.register_to_config(encoder_digest=self.encoder_weights)
        return super().seal()

    def refuse_another_encoder(self) -> None:
        """Raise SentenceModelError where the encoder is not the one that the codec was trained with."""
        if self.config.encoder_digest not in ("", self.encoder_weights):
            raise SentenceModelError(
                f"encoder is {self.config.encoder!r}, which is not the one that the codec was trained with (it is "
                f"{self.encoder_weights}, was {self.config.encoder_digest}); name that one"
            )

    def keep_latents(self) -> None:
        """Leave only what reads latents to be trained, so that they stay what they are."""
        self.requires_grad_(False)
        self.draft.requires_grad_(True)
        for name, weight in self.autoencoder.named_parameters():
            weight.requires_grad_(not name.startswith(READS))

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The frozen encoder's features [B, T, E] of texts, and their mask [B, T]."""
        ids, mask = (x.to(self.device) for x in pad(self.encoder_ids(texts), self.encoder_pad))
        return self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask

    @torch.no_grad()
    def compress(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of texts before they are whitened."""
        batch_size = check_whole("batch_size", batch_size)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts), *self.latent_shape, device=self.device)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found[rows] = self.autoencoder.compress(*self.features([texts[i] for i in rows]))
        return found

    def latents_of(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Latents [B, L, D] of texts that are known to fit."""
        return self.autoencoder.normalise(self.compress(texts, batch_size))

    @torch.no_grad()
    def drafts(self, latents: Tensor) -> list[str]:
        """Texts of latents [B, L, D] without the language model: to every draft the nearest of its embeddings."""
        noise = torch.full((len(latents),), float(self.config.assumed_noise), device=self.device)
        found = self.reader.directions(latents.to(self.device, self.dtype), noise.to(self.dtype)).float()
        ids = (found @ directions_of(self.language_model.get_input_embeddings().weight).T).argmax(-1).tolist()
        end = self.tokenizer.eos_token_id
        cut = [row[: row.index(end)] if end in row else row for row in ids]
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(cut, skip_special_tokens=True)]
