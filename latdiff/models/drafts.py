"""Latents as a draft of their text: one embedding of a frozen language model for each latent, all at once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latdiff.models.autoencoder import LatentAutoencoder


class Drafts(nn.Module):
    """Latents [B, L, D] to soft prompts [B, L, H] that lie where a language model's own embeddings lie.

    Latent i drafts the text's token i, and end-of-text behind its end. Embeddings have a large mean in common: a draft
    is that mean and a direction from it, of the embeddings' mean length.

    Args:
        autoencoder: its reconstructor makes features [B, L, E] of latents.
        out: from E to H.
        embeddings: [V, H] of the language model.
    """

    def __init__(self, autoencoder: LatentAutoencoder, out: nn.Linear, embeddings: Tensor):
        super().__init__()
        self.autoencoder, self.out = autoencoder, out
        centre = embeddings.float().mean(0)
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("length", (embeddings.float() - centre).norm(dim=1).mean(), persistent=False)

    def directions(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Unit vectors [B, L, H] from the embeddings' mean; noise is the sd [B] of what was added to the latents."""
        return F.normalize(self.out(self.autoencoder.reconstruct(latents, noise[:, None, None])), dim=-1)

    def forward(self, latents: Tensor, noise: Tensor) -> Tensor:
        """latents [B, L, D] and the sd [B] of the noise on them -> prompts [B, L, H]."""
        directions = self.directions(latents, noise)
        return self.centre.to(directions) + self.length.to(directions) * directions


def directions_of(embeddings: Tensor, pieces: Tensor | None = None) -> Tensor:
    """Unit vectors [P, H] from the mean of embeddings [V, H] to those of `pieces` [P], by default to all."""
    centred = embeddings.float() - embeddings.float().mean(0)
    return F.normalize(centred if pieces is None else centred[pieces], dim=-1)
