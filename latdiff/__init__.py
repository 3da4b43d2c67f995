"""latdiff: latent text diffusion, steered by heads that take seconds to fit."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "AttributeHead": "heads",
    "CallableHead": "heads",
    "GaussianDiffusion": "diffusion",
    "Guide": "guidance",
    "LatentAutoencoder": "autoencoder",
    "LatentDenoiser": "denoiser",
    "LatentTextDiffusionPipeline": "pipeline",
    "NumberHead": "heads",
    "TextCodec": "codec",
    "load_head": "heads",
    "load_recipe": "config",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    # Loaded on first use: `import latdiff` and reading a recipe must not wait for torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"latdiff.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'latdiff' has no attribute {name!r}")
