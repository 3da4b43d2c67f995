"""What a pipeline returns, and what its guides' heads say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from latdiff.checkpoints import CheckpointError
from latdiff.codecs.protocol import Codec
from latdiff.diffusion.guidance import Guide, titles
from latdiff.errors import UserError, check_whole


@dataclass
class TextPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        texts: B strings; none with output_type="latent".
        latents: what they were decoded from, [B, L, D].
        scores: per guide, e.g. "tone=positive", B numbers: see `scores`.
        cut: for each of the texts whether it reached the codec's limit before its end.
    """

    texts: list[str]
    latents: Tensor
    scores: dict[str, list[float]]
    cut: list[bool]


def check_guides(codec: Codec, guides: Sequence[Guide]) -> None:
    """Raise CheckpointError for a head that was fitted on the latents of another codec, or of another shape."""
    for guide in guides:
        fitted = tuple(getattr(guide.head, "weight", torch.empty(0)).shape[-2:])
        if len(fitted) == 2 and fitted not in (tuple(codec.latent_shape), (1, math.prod(codec.latent_shape))):
            raise CheckpointError(f"head {guide.head.name!r} was fitted on latents {list(fitted)}, but those of this "
                                  f"pipeline's codec are {list(codec.latent_shape)}; fit it on them")
        if guide.head.codec_digest not in (codec.digest, None):
            raise CheckpointError(
                f"head {guide.head.name!r} was fitted on latents of codec {guide.head.codec_digest}, but this "
                f"pipeline's codec is {codec.digest}; fit it again with `latdiff fit-head`"
            )


def check_finite(latents: Tensor) -> None:
    """Raise UserError for denoised latents [B, L, D] that are not finite: a decoder would write blanks of them."""
    if latents.isfinite().all():
        return
    wrong = (~latents.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    raise UserError(
        f"the latents of {len(wrong)} of {len(latents)} texts hold NaN or infinity once they are denoised, the first "
        f"at index {wrong[0]}; a guide, a callback_on_step_end or latents that were given may have made them so: leave "
        "them out one by one, or take dtype='float32'"
    )


def scores(latents: Tensor, guides: Sequence[Guide], batch_size: int = 256) -> dict[str, list[float]]:
    """What each guide's own head says of latents: exp of log p(target).

    That is a probability for a label; with weights the weighted sum, and for a number 1 where it is met.

    Args:
        latents: [B, L, D].
        guides: of heads.
        batch_size: how many latents at once.

    Returns:
        Per guide, such as "tone=positive", B numbers.
    """
    found: dict[str, list[float]] = {title: [] for title in titles(guides)}
    batch_size = check_whole("batch_size", batch_size)
    with torch.inference_mode(False), torch.enable_grad():  # a CallableHead insists on a function with a gradient
        for part in latents.clone().split(batch_size) if guides else ():
            at = part.detach().requires_grad_()
            for title, guide in zip(found, guides, strict=True):
                found[title] += guide.log_prob(at).detach().exp().tolist()
    return found


def chosen(out: TextPipelineOutput, rows: list[int]) -> TextPipelineOutput:
    """Some of the texts, with all that belongs to them."""
    scores = {title: [values[i] for i in rows] for title, values in out.scores.items()}
    return TextPipelineOutput(texts=[out.texts[i] for i in rows], latents=out.latents[rows], scores=scores,
                              cut=[out.cut[i] for i in rows])
