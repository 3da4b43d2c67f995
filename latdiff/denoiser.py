"""The denoising transformer: noisy latents and their noise level in, a prediction out."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from latdiff.layers import AdaptiveBlock, LogSnrEmbedding, Norm


class LatentDenoiser(ModelMixin, ConfigMixin):
    """A diffusion transformer (Peebles & Xie 2023) over L latent vectors, with self-conditioning.

    The noise level comes in as log-SNR, so the schedule sampled with need not be the one trained with.

    Args:
        num_latents: L.  latent_dim: D.
        width, depth, heads: of the transformer; heads must divide width.
        prediction: "v" or "x0", what `forward` returns.
        codec_digest: of the codec whose latents it was trained on; a pipeline refuses any other.
    """

    @register_to_config
    def __init__(
        self, num_latents: int, latent_dim: int, width: int = 256, depth: int = 6, heads: int = 4,
        prediction: str = "v", codec_digest: str = "",
    ):  # fmt: skip
        super().__init__()
        self.latents_in = nn.Linear(2 * latent_dim, width)
        self.positions = nn.Parameter(torch.randn(num_latents, width) * 0.5)
        self.time = LogSnrEmbedding(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.out_norm = Norm(width)
        self.out = nn.Linear(width, latent_dim)
        # Every block begins as the identity and the whole as zero.
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, log_snr: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
        """z [B, L, D], log_snr [B], x_prev [B, L, D] (an earlier estimate of x0) -> prediction [B, L, D].

        Raises ValueError if `cond` is given: this denoiser is unconditional.
        """
        if cond is not None:
            raise ValueError("this denoiser was built without conditioning; leave cond out and steer with guides")
        x_prev = torch.zeros_like(z) if x_prev is None else x_prev
        x = self.latents_in(torch.cat([z, x_prev], dim=-1)) + self.positions
        modulation = rearrange(self.modulation(self.time(log_snr)), "b (six w) -> b six w", six=6)
        for block in self.blocks:
            x = block(x, modulation)
        return self.out(self.out_norm(x)).float()
