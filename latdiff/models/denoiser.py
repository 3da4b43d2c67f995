"""The denoising transformer: noisy latents, their noise level and perhaps a condition in, a prediction out."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from latdiff.errors import shown
from latdiff.models.conditions import Labels, Source
from latdiff.models.layers import AdaptiveBlock, LogSnrEmbedding, Norm
from latdiff.models.saved import SavedModel

PREDICTIONS = ("v", "x0")


def check_prediction(prediction: object) -> None:
    """Raise ValueError for anything that a denoiser cannot predict, which sampling would take for x0."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {shown(prediction)}, must be {' or '.join(PREDICTIONS)}, as the denoiser was "
                         "trained")


class LatentDenoiser(SavedModel):
    """A diffusion transformer (Peebles & Xie 2023) over L latent vectors, with self-conditioning.

    The noise level comes in as log-SNR, so the schedule sampled with need not be the one trained with. What lies
    below `least_log_snr` counts as that: there z is noise, and hardly any time that training draws.

    Args:
        num_latents: L.
        latent_dim: D.
        width: of the transformer.
        depth: its blocks.
        heads: must divide width.
        prediction: "v" or "x0", what `forward` returns.
        codec_digest: of the codec whose latents it was trained on; a pipeline refuses any other.
        classes: labels that it can be conditioned on, C of them, as an embedding added to the noise level's.
        source_dim: H, the width of a source text's features, which every block attends to; 0 for none.

    Raises:
        ValueError: for any other `prediction`.
    """

    __module__ = "latdiff"  # what a saved pipeline names: no file

    @register_to_config
    def __init__(
        self, num_latents: int, latent_dim: int, width: int = 256, depth: int = 6, heads: int = 4,
        prediction: str = "v", codec_digest: str = "", classes: list[str] | None = None, source_dim: int = 0,
    ):
        super().__init__()
        check_prediction(prediction)
        self.latents_in = nn.Linear(2 * latent_dim, width)
        self.positions = nn.Parameter(torch.randn(num_latents, width) * 0.5)
        self.time = LogSnrEmbedding(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads, bool(source_dim)) for _ in range(depth))
        self.out_norm = Norm(width)
        self.out = nn.Linear(width, latent_dim)
        # Row 0, and a place of its own to look at, stand for no condition.
        self.class_embedding = nn.Embedding(len(classes) + 1, width) if classes else None
        self.source_in = nn.Linear(source_dim, width) if source_dim else None
        self.no_source = nn.Parameter(torch.randn(width) * 0.5) if source_dim else None
        # Every block begins as the identity and the whole as zero.
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def ignore_estimates(self) -> LatentDenoiser:
        """Make predictions depend on no earlier estimate any more, `x_prev`; returns the denoiser."""
        with torch.no_grad():
            self.latents_in.weight[:, self.config.latent_dim :] = 0
        return self

    @property
    def least_log_snr(self) -> float:
        """log 1 / (2 L D): with less, z tells under a quarter of a nat of x0 (a Gaussian channel, L D SNR / 2)."""
        return -math.log(2 * self.config.num_latents * self.config.latent_dim)

    def forward(
        self, z: Tensor, log_snr: Tensor, cond: Labels | Source | None = None, x_prev: Tensor | None = None
    ) -> Tensor:
        """Predict v or x0.

        Args:
            z: noisy latents [B, L, D].
            log_snr: their log-SNR [B].
            cond: a condition for each row, of the kind that it was built for; None for the unconditional model.
            x_prev: an earlier estimate of x0 [B, L, D].

        Returns:
            The prediction [B, L, D], in float32.

        Raises:
            ValueError: For a `cond` of a kind that it was not built for.
        """
        self._refuse(cond)
        x_prev = torch.zeros_like(z) if x_prev is None else x_prev
        x = self.latents_in(torch.cat([z, x_prev], dim=-1).to(self.positions.dtype)) + self.positions
        at = self.time(log_snr.clamp(min=self.least_log_snr))
        if self.class_embedding is not None:
            none = log_snr.new_zeros(len(z), dtype=torch.long)
            at = at + self.class_embedding(cond.index if isinstance(cond, Labels) else none)
        modulation = rearrange(self.modulation(at), "b (six w) -> b six w", six=6)
        context = self._context(len(z), cond if isinstance(cond, Source) else None)
        for block in self.blocks:
            x = block(x, modulation, *context)
        return self.out(self.out_norm(x)).float()

    def _context(self, batch: int, cond: Source | None) -> tuple[Tensor | None, Tensor | None]:
        """What the blocks attend to [B, 1 + T, W], and where [B, 1 + T]; the first place is always there."""
        if self.source_in is None or self.no_source is None:
            return None, None
        nothing = self.no_source.expand(batch, 1, -1)
        if cond is None:
            return nothing, None
        always = cond.mask.new_ones(batch, 1)
        features = self.source_in(cond.features.to(nothing.dtype))
        return torch.cat([nothing, features], dim=1), torch.cat([always, cond.mask], dim=1)

    def _refuse(self, cond) -> None:
        kinds = {"a class": (self.class_embedding, Labels), "a source text": (self.source_in, Source)}
        known = {name: kind for name, (part, kind) in kinds.items() if part is not None}
        if cond is not None and not isinstance(cond, tuple(known.values())):
            built = f"to be conditioned on {' or '.join(known)}" if known else "without conditioning"
            raise ValueError(f"this denoiser was built {built}, and was given {type(cond).__name__}; leave cond out "
                             "and steer with guides")
