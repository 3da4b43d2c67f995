"""How does a text come out of noise: what is it taken for at each step, and what do heads say of that?

    steps = trajectory(pipe, head.toward("positive"), rows=8, generator=torch.Generator().manual_seed(0))
    for step in steps:
        print(step.number, step.scores, step.text)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.sampling import Denoise
from latdiff.errors import UserError, check_whole
from latdiff.pipelines.call import conditions_of, guides_of
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.pipelines.output import scores

OF_SEVERAL = {"candidates", "keep", "num_samples", "output_type", "return_dict"}  # what of a call makes no sense here


@dataclass(frozen=True)
class Step:
    """One step of one text's denoising.

    Attributes:
        number: of the step, from 1 on.
        signal_variance: alpha² of the noisy latents that the step begins with, 0 to 1.
        text: what the estimate of the clean latents reads as; at the last step, the finished text.
        scores: of each guide, such as "tone=positive", what its head says of the estimate, as the pipeline's output
            has it: a probability for a label.
        norm: root mean square of the estimate; that of real texts is about 1.
    """

    number: int
    signal_variance: float
    text: str
    scores: dict[str, float]
    norm: float


def trajectory(
    pipe: LatentTextDiffusionPipeline, guides: Callable | Sequence[Callable] | None = None,
    scored: Sequence[Guide] | None = None, rows: int | None = None, **call,
) -> list[Step]:
    """Sample one text and keep what it is on its way.

    Args:
        pipe: that samples it.
        guides: one or several that steer it, as in a call of the pipeline.
        scored: guides whose heads are asked at every step, though they need not steer (default: those that steer).
        rows: how many steps to keep, the first and the last among them, evenly spaced; None for all.
        **call: what else a call takes, such as `generator`, `num_inference_steps` or a single `cond`.

    Returns:
        The steps; the last one has the text and the scores that the call itself returns.

    Raises:
        UserError: What a call does, for several conditions, for fewer than two rows, and for `candidates`, `keep` and
            whatever else would return other than one text.
    """
    rows = None if rows is None else check_whole("rows", rows, least=2)
    guides = [] if guides is None else guides_of(guides)
    scored = [guide for guide in guides if isinstance(guide, Guide)] if scored is None else list(scored)
    if isinstance(conditions_of(call.get("cond")), list):
        raise UserError("cond is a list, but a trajectory is of one text; give one condition")
    if refused := sorted(OF_SEVERAL & set(call)):
        raise UserError(f"a trajectory is of one text and of all that a call returns; leave out {', '.join(refused)}")
    watch = _Watch()
    out = pipe(num_samples=1, guides=[*guides, watch], **call)
    kept = evenly(len(watch.estimates), rows)
    estimates = torch.cat([*(watch.estimates[place] for place in kept[:-1]), out.latents])
    options = pipe._decode_options(call.get("decode_options"))
    cond = call.get("cond") if pipe.denoiser.config.source_dim else None
    sources = None if cond is None else [str(cond)] * (len(kept) - 1)
    texts = [*pipe.codec.generate(estimates[:-1], sources, **options).texts, *out.texts]
    found = scores(estimates, scored)
    norms = estimates.float().square().mean((1, 2)).sqrt().tolist()
    return [Step(place + 1, watch.signal[place], texts[row], {title: values[row] for title, values in found.items()},
                 norms[row]) for row, place in enumerate(kept)]


def evenly(count: int, rows: int | None) -> list[int]:
    """So many places among `count`, the first and the last among them, evenly spaced; all where there are no more."""
    if rows is None or rows >= count:
        return list(range(count))
    return [round(row * (count - 1) / (rows - 1)) for row in range(rows)]


class _Watch:
    """A guide that leaves every estimate as it is, and keeps it with the signal variance that it was made at."""

    def __init__(self) -> None:
        self.signal: list[float] = []
        self.estimates: list[Tensor] = []

    def __call__(self, denoise: Denoise) -> Denoise:
        def watched(z: Tensor, alpha2: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
            x0 = denoise(z, alpha2, cond, x_prev)
            self.signal.append(alpha2[0].item())
            self.estimates.append(x0.detach())
            return x0

        return watched
