"""Where bfloat16 pays: training and denoising run in it on hardware that multiplies in it."""

from __future__ import annotations

import torch


def has_fast_bfloat16(device_type: str) -> bool:
    """Whether the device ("cpu", "cuda") multiplies matrices in bfloat16; elsewhere it would only be slower."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_autocast(device_type: str) -> torch.autocast:
    """Autocast to bfloat16 where that is fast, and a context that does nothing elsewhere."""
    return torch.autocast(device_type, torch.bfloat16, enabled=has_fast_bfloat16(device_type))
