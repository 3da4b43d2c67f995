"""A small denoiser with random weights throughout: a new one's last layer is zero, and its estimates all alike."""

import torch

from latdiff.models.denoiser import LatentDenoiser


def random_denoiser(num_latents=3, latent_dim=4, depth=1, **settings):
    denoiser = LatentDenoiser(num_latents, latent_dim, width=16, depth=depth, heads=2, **settings)
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.3, generator=weights)
    return denoiser.eval()
