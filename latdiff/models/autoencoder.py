"""The Perceiver compressor and the reconstructor around a frozen encoder-decoder.

features [B, T, H] -> compress -> latents [B, L, D] -> reconstruct -> features [B, L, H]

After LD4LG (Lovelace et al. 2023, section 4.1), with one change that everything later leans on: the
latents are whitened per dimension *while* the autoencoder trains (batch normalisation without scale
and shift), so that latent noise is in units of each dimension's own standard deviation and no
dimension can shrink to hide from it. The other way to keep them from growing out of the noise is
theirs for BART: every latent is scaled to the norm √D ("l2").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from latdiff.collectives import summed
from latdiff.config import NORMALISATIONS
from latdiff.models.layers import Attention, Block, FeedForward, Norm
from latdiff.models.saved import SavedModel
from latdiff.processes import processes


class BatchWhitening(nn.BatchNorm1d):
    """torch's batch norm, in training with the statistics of all processes' rows; SyncBatchNorm wants GPUs for that."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, L * D] -> [B, L * D], each number of zero mean and unit variance over the batch."""
        if not self.training or processes().num_processes == 1:
            return super().forward(x)
        count = summed(x.new_tensor([float(len(x))]))
        mean = summed(x.sum(0)) / count
        centred = x - mean
        variance = summed(centred.square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return centred * (variance + self.eps).rsqrt()


class PerceiverBlock(nn.Module):
    """Latents read the features and one another, then think (Perceiver resampler, Alayrac et al. 2022)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.context_norm, self.cross_norm = Norm(width), Norm(width)
        self.cross = Attention(width, heads)
        self.feed_forward_norm, self.feed_forward = Norm(width), FeedForward(width)
        self.block = Block(width, heads)

    def forward(self, latents: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """latents [B, L, W], features [B, T, W], mask [B, T] -> latents [B, L, W]."""
        latents = latents + self.cross(self.cross_norm(latents), self.context_norm(features), mask)
        latents = latents + self.feed_forward(self.feed_forward_norm(latents))
        return self.block(latents)


class LatentAutoencoder(SavedModel):
    """Compressor to L latents of width D, whitening, and reconstructor to L features of width H.

    Args:
        feature_dim: H, the backbone's width.
        num_latents: L.
        latent_dim: D.
        width: inner width of both transformers.
        depth: blocks in each.
        heads: must divide width.
        max_tokens: positions the compressor knows; a longer input is an error of the caller.
        normalisation: "whitening" or "l2", what `normalise` does.
        assumed_noise: sd of latent noise that the reconstructor assumes where none is given; 0: it is built without
            such an input.
        codec_digest: of the codec that it is a part of, set when that is finished.

    Raises:
        ValueError: For another normalisation.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file

    @register_to_config
    def __init__(
        self, feature_dim: int, num_latents: int = 16, latent_dim: int = 32, width: int = 128, depth: int = 2,
        heads: int = 4, max_tokens: int = 128, normalisation: str = "whitening", assumed_noise: float = 0.0,
        codec_digest: str = "",
    ):
        super().__init__()
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation is {normalisation!r}, must be one of {', '.join(NORMALISATIONS)}")
        self.features_in = nn.Linear(feature_dim, width)
        self.token_positions = nn.Parameter(torch.randn(max_tokens, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(num_latents, width) * 0.5)
        self.compressor = nn.ModuleList(PerceiverBlock(width, heads) for _ in range(depth))
        self.latents_out = nn.Sequential(Norm(width), nn.Linear(width, latent_dim, bias=False))
        self.whitening = BatchWhitening(num_latents * latent_dim, affine=False, momentum=0.02)
        self.latents_in = nn.Linear(latent_dim, width)
        self.latent_positions = nn.Parameter(torch.randn(num_latents, width) * 0.5)
        self.noise_in = nn.Linear(1, width, bias=False) if assumed_noise else None
        self.reconstructor = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.features_out = nn.Sequential(Norm(width), nn.Linear(width, feature_dim))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """There and back: features [B, T, H], mask [B, T] -> features [B, L, H] for the frozen decoder."""
        return self.reconstruct(self.normalise(self.compress(features, mask)))

    @apply_forward_hook
    def compress(self, features: Tensor, mask: Tensor) -> Tensor:
        """features [B, T, H], mask [B, T] (True on real tokens) -> latents [B, L, D], not yet normalised."""
        context = self.features_in(features.to(self.queries.dtype)) + self.token_positions[: features.shape[1]]
        latents = self.queries.expand(len(features), -1, -1)
        for block in self.compressor:
            latents = block(latents, context, mask)
        return self.latents_out(latents).float()

    @apply_forward_hook
    def normalise(self, latents: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]: whitened, or l2-normalised to √D.

        Whitening takes a batch's own statistics in training, and after it those of all texts that it was trained on.
        """
        if self.config.normalisation == "l2":
            return F.normalize(latents, dim=-1) * self.config.latent_dim**0.5
        if self.training:
            return self.whitening(latents.flatten(1)).view_as(latents)
        mean, variance = self.whitening.running_mean.float(), self.whitening.running_var.float()
        return F.batch_norm(latents.flatten(1).float(), mean, variance, eps=self.whitening.eps).view_as(latents)

    @apply_forward_hook
    def reconstruct(self, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """Normalised latents [B, L, D] -> features [B, L, H] for the frozen decoder to read.

        noise: sd [B, 1, 1] of what was added to them, for a reconstructor with an `assumed_noise`.
        """
        x = self.latents_in(latents.to(self.latent_positions.dtype)) + self.latent_positions
        if self.noise_in is not None:
            x = x + self.noise_in(x.new_full((1, 1, 1), self.config.assumed_noise) if noise is None else noise.to(x))
        for block in self.reconstructor:
            x = block(x)
        return self.features_out(x)

    @torch.no_grad()
    def set_whitening(self, mean: Tensor, variance: Tensor) -> None:
        """Fix the statistics, each [L, D]: taken over all texts that it was trained on."""
        self.whitening.running_mean.copy_(mean.flatten())
        self.whitening.running_var.copy_(variance.flatten())
