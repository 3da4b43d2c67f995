"""Which device and dtype to compute with: a GPU where there is one, bfloat16 where that is fast."""

from __future__ import annotations

import torch

from latdiff.errors import UserError
from latdiff.processes import cpu_asked_for

DTYPES = ("auto", "float32", "bfloat16", "float16")


def default_device() -> str:
    """"cuda" where there is a GPU, unless `accelerate launch --cpu` leaves it alone; else "cpu"."""
    return "cuda" if torch.cuda.is_available() and not cpu_asked_for() else "cpu"


def has_fast_bfloat16(device_type: str) -> bool:
    """Whether the device ("cpu", "cuda") multiplies matrices in bfloat16; elsewhere it would only be slower."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compute_dtype(dtype: str | torch.dtype, device_type: str) -> torch.dtype:
    """The dtype to compute in on a device.

    Args:
        dtype: one of DTYPES, or torch's own; "auto" is bfloat16 where that is fast, and float32 elsewhere.
        device_type: "cpu", "cuda", ...

    Raises:
        UserError: For any other dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, must be one of {', '.join(DTYPES)}")
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device_type) else torch.float32
    return getattr(torch, name)


def autocast(device_type: str, dtype: str | torch.dtype = "auto") -> torch.autocast:
    """Autocast to `compute_dtype`; a context that does nothing where that is float32."""
    dtype = compute_dtype(dtype, device_type)
    return torch.autocast(device_type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)
