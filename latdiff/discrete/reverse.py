"""The way back from noise to text: kernels, which say how likely every token is one step on, and walks by them.

A kernel takes ids z_t [B, L], alpha_t and alpha_s > alpha_t, shares of tokens that are still the text's own, to
log p(z_s | z_t) [B, L, K], of each position by itself: K = V for uniform diffusion, V + 1 with the mask for masked one.
Guides wrap kernels.

diffusers' `DiscreteDDIMScheduler` returns draws of the uniform posterior, where a guide needs its probabilities, and
draws a whole batch by one generator; its corrector has neither fault when called text by text, and is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from diffusers import DiscreteDDIMScheduler
from torch import Tensor

from latdiff.discrete.uniform import Predictor, noise, numbers_of, posterior, predicted, whole
from latdiff.errors import UserError, check_whole

Kernel: TypeAlias = Callable[[Tensor, float, float], Tensor]


def uniform_kernel(predictor: Predictor) -> Kernel:
    """That of uniform diffusion, of a predictor's leave-one-out log-probabilities."""

    def kernel(ids: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
        alpha = torch.full((len(ids),), alpha_t, dtype=torch.float64, device=ids.device)
        return posterior(predictor(ids, alpha), ids, alpha_t, alpha_s)

    return kernel


def masked_kernel(predictor: Callable[[Tensor], Tensor], mask_id: int) -> Kernel:
    """That of masked diffusion: of the masks a share (alpha_s - alpha_t) / (1 - alpha_t) is lifted, what is seen stays.

    Args:
        predictor: ids [B, L] -> logits [B, L, V] of the tokens; what is beyond the V, such as the mask's, is left out.
        mask_id: V.
    """

    def kernel(ids: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
        log_probs = predicted(predictor(ids)[..., :mask_id], ids, mask_id).double().log_softmax(-1)
        lifted, stays = (torch.tensor(share, dtype=torch.float64, device=ids.device).log()
                         for share in ((alpha_s - alpha_t) / (1 - alpha_t), (1 - alpha_s) / (1 - alpha_t)))
        hidden = torch.cat([log_probs + lifted, stays.expand(*ids.shape, 1)], -1)
        seen = torch.full_like(hidden, -torch.inf).scatter_(-1, ids[..., None], 0.0)
        return torch.where((ids == mask_id)[..., None], hidden, seen)

    return kernel


def draw(log_probs: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """One id for each position, by the inverse of the distribution function, in float64.

    Args:
        log_probs: [B, L, K], up to a constant.
        streams: one for each row, which takes L numbers of it.

    Raises:
        UserError: For log-probabilities that are NaN, or -inf for all K, or another number of streams than of rows.
    """
    below = log_probs.double().softmax(-1).cumsum(-1)
    below = below / below[..., -1:]  # the last is 1 exactly, above every number drawn
    if below[..., -1].isnan().any():
        raise UserError("there are positions at which no token is possible; look for NaN in what the predictor or a "
                        "guide's classifier returns")
    drawn = numbers_of(streams, len(below), below.shape[1], 1).to(below.device)
    return torch.searchsorted(below, drawn, right=True)[..., 0]


@torch.no_grad()
def walk(
    kernel: Kernel, ids: Tensor, steps: int, streams: Sequence[torch.Generator],
    between: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """From noise to text in so many equal steps of alpha.

    Row i follows from its ids and its generator, whatever rows are beside it.

    Args:
        kernel: of either diffusion, guided or not.
        ids: where it begins, [B, L]: `uniform.noise`, or masks, and tokens that are given.
        steps: how many, each a call of the kernel.
        streams: one for each row.
        between: gets the ids after each step but the last, and its number from 0, and returns ids to go on from.

    Returns:
        Texts [B, L].

    Raises:
        UserError: For steps below 1, another number of streams than of rows, or a kernel that allows no token.
    """
    steps = check_whole("steps", steps)
    for step in range(steps):
        ids = draw(kernel(ids, step / steps, (step + 1) / steps), streams)
        if between is not None and step + 1 < steps:
            ids = between(ids, step)
    return ids


def sample_uniform(
    predictor: Predictor, length: int, vocab_size: int, steps: int, streams: Sequence[torch.Generator],
    guide: Callable[[Kernel], Kernel] | None = None, corrector_steps: int = 0,
) -> Tensor:
    """Texts by uniform diffusion, one for each generator.

    Args:
        predictor: leave-one-out log-probabilities.
        length: L.
        vocab_size: V.
        steps: of the kernel.
        streams: one for each text.
        guide: wraps the kernel.
        corrector_steps: after each step but the last, so many times, a random token is drawn anew given all others: it
            leaves their law as it is where the predictor is exact, and mends what the step did to two tokens at once.
            The guide has no say in it.

    Returns:
        Ids [B, L].

    Raises:
        UserError: As `walk`; for corrector steps below 0, or together with a guide.
    """
    steps, corrector_steps = check_whole("steps", steps), check_whole("corrector_steps", corrector_steps, least=0)
    if guide is not None and corrector_steps:
        raise UserError(f"corrector_steps is {corrector_steps} beside a guide, which it would undo; leave one out")
    kernel = uniform_kernel(predictor) if guide is None else guide(uniform_kernel(predictor))
    ids = noise(len(streams), length, vocab_size, streams)
    between = _corrector(predictor, steps, corrector_steps, streams) if corrector_steps else None
    return walk(kernel, ids, steps, streams, between)


def _corrector(
    predictor: Predictor, steps: int, sweeps: int, streams: Sequence[torch.Generator]
) -> Callable[[Tensor, int], Tensor]:
    """diffusers' corrector, which takes p(x_l | z).

    Positions are drawn, which is exact. Chosen by their margin, as is its default, one sweep moved the law of texts of
    four tokens at alpha 3/4 by .08 in total variation.
    """
    scheduler = DiscreteDDIMScheduler(steps, corrector_steps=sweeps, corrector_selection="random")

    def correct(ids: Tensor, step: int) -> Tensor:
        alpha = torch.full((len(ids),), (step + 1) / steps, dtype=torch.float64, device=ids.device)
        for _ in range(sweeps):
            logits, texts = whole(predictor(ids, alpha), ids, alpha).cpu(), ids.cpu()  # where streams are
            rows = [scheduler.step_correct(one[None], step, text[None], generator=generator).prev_sample
                    for one, text, generator in zip(logits, texts, streams, strict=True)]
            ids = torch.cat([texts[:0], *rows]).to(ids.device)
        return ids

    return correct
