"""What a frozen language model reads in place of words: a few vectors of its own width, made from a text's latents."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


class SoftPrompts(nn.Module):
    """Latents to soft prompts (Li & Liang 2021; as plans of a text in DGLM, Lovelace et al. 2024).

    The noise on the latents is a second input: where there is much of it, the prompts can lean on what the language
    model knows anyway.

    Args:
        latent_size: L times D.
        num_prompts: K.
        prompt_dim: H, the width of the language model.
        width: of the hidden layer.
    """

    def __init__(self, latent_size: int, num_prompts: int, prompt_dim: int, width: int):
        super().__init__()
        self.num_prompts = num_prompts
        self.hidden = nn.Linear(latent_size + 1, width)
        self.out = nn.Linear(width, num_prompts * prompt_dim)

    @torch.no_grad()
    def begin_at(self, scale: float) -> None:
        """Before training: outputs as large as a language model's embeddings, of standard deviation `scale`."""
        self.out.weight.mul_(3**0.5 * scale)
        self.out.bias.zero_()

    def forward(self, latents: Tensor, noise: Tensor) -> Tensor:
        """latents [B, L, D] and the sd [B] of the noise on them -> prompts [B, K, H]."""
        x = torch.cat([latents.flatten(1), noise.to(latents)[:, None]], 1)
        x = self.out(nn.functional.gelu(self.hidden(x)))
        return rearrange(x, "b (k h) -> b k h", k=self.num_prompts)
