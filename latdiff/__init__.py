"""latdiff: latent text diffusion, steered by heads that take seconds to fit."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "AttributeHead": "heads.attribute",
    "CallableHead": "heads.callable",
    "GaussianDiffusion": "diffusion.gaussian",
    "Guide": "diffusion.guidance",
    "LatentAutoencoder": "models.autoencoder",
    "LatentDenoiser": "models.denoiser",
    "LatentTextDiffusionPipeline": "pipelines.latent",
    "NumberHead": "heads.number",
    "PerceiverCodec": "codecs.perceiver",
    "SentenceCodec": "codecs.sentence",
    "StarPipeline": "pipelines.star",
    "StarPlanner": "models.star",
    "TextCodec": "codecs.t5",
    "fit_head": "heads.fitting",
    "load_head": "heads.files",
    "Codec": "codecs.protocol",
    "Decoded": "codecs.protocol",
    "TextError": "codecs.protocol",
    "load_codec": "codecs.files",
    "open_checkpoint": "pipelines.files",
    "load_recipe": "config",
    "make_scheduler": "diffusion.sampling",
    "sample": "diffusion.sampling",
}
__all__ = sorted([*_HOMES, "storyworld"])


def __getattr__(name: str):
    # Loaded on first use: `import latdiff` and reading a recipe must not wait for torch.
    if name == "ModelMixin":  # diffusers looks for the base of a model beside it, before it loads one
        return importlib.import_module("diffusers").ModelMixin
    if name == "storyworld":
        return importlib.import_module("latdiff.storyworld")
    if name in _HOMES:
        return getattr(importlib.import_module(f"latdiff.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'latdiff' has no attribute {name!r}")
