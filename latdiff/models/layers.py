"""Building blocks of the compressor and the denoiser: attention, gated feed-forward, time embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Norm(nn.LayerNorm):
    """Layer norm without bias. torch fuses it on a CPU; its RMS norm falls apart into six operations there."""

    def __init__(self, width: int, elementwise_affine: bool = True):
        super().__init__(width, elementwise_affine=elementwise_affine, bias=False)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention over [B, heads, N, d]; mask is True where a key may be read.

    torch's SDPA, except on a CPU, where the plain formula is faster for sequences as short as ours
    (an autoencoder step 0.15 s against 0.26 s, docs/lab/experiments.md).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class Attention(nn.Module):
    """Multi-head attention with layer-normalised queries and keys (Dehghani et al. 2023).

    forward(x [B, N, W], context [B, M, W] = x, mask [B, M] = None) -> [B, N, W]; mask is True where
    the context may be read.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm, self.key_norm = Norm(width // heads), Norm(width // heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        key, value = self.key_value(context).chunk(2, dim=-1)
        query, key, value = (rearrange(y, "b n (h d) -> b h n d", h=self.heads) for y in (self.query(x), key, value))
        mask = None if mask is None else mask[:, None, None, :]
        y = attend(self.query_norm(query), self.key_norm(key), value, mask)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, ratio: float = 8 / 3):
        super().__init__()
        inner = -(-int(width * ratio) // 32) * 32
        self.gate_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward: [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention_norm, self.attention = Norm(width), Attention(width, heads)
        self.feed_forward_norm, self.feed_forward = Norm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class AdaptiveBlock(nn.Module):
    """A block whose norms are scaled, shifted and gated by the noise level (adaLN-zero, Peebles & Xie 2023).

    The modulation [B, 6, W] comes from one layer shared by all blocks; each block adds an offset of its
    own (adaLN-single, Chen et al. 2023), which saves a quarter of the weights.

    With `reads_source` it also attends to a context [B, M, W], where mask [B, M] is True; that begins as nothing.
    """

    def __init__(self, width: int, heads: int, reads_source: bool = False):
        super().__init__()
        self.norm = Norm(width, elementwise_affine=False)
        self.attention, self.feed_forward = Attention(width, heads), FeedForward(width)
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.source_norm, self.source_attention = None, None
        if reads_source:
            self.source_norm, self.source_attention = Norm(width), Attention(width, heads)
            nn.init.zeros_(self.source_attention.out.weight)

    def forward(
        self, x: Tensor, modulation: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = (modulation + self.offset)[:, None].unbind(2)
        x = x + gate_a * self.attention(self.norm(x) * (1 + scale_a) + shift_a)
        if self.source_norm is not None and self.source_attention is not None:
            x = x + self.source_attention(self.source_norm(x), context, mask)
        return x + gate_f * self.feed_forward(self.norm(x) * (1 + scale_f) + shift_f)


class LogSnrEmbedding(nn.Module):
    """Noise level as a vector: log-SNR [B] -> sines and cosines -> MLP -> [B, W]."""

    def __init__(self, width: int, num_frequencies: int = 64):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, log_snr: Tensor) -> Tensor:
        # log-SNR spans about [-20, 20]: wavelengths from 125 down to 0.6 tell all of it apart. Not a buffer: in a
        # model converted to half precision they would no longer.
        frequencies = torch.logspace(-1.3, 1, self.num_frequencies, device=log_snr.device)
        angle = log_snr.float()[:, None] * frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1).to(self.mlp[0].weight.dtype))
