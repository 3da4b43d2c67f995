"""Guidance of discrete diffusion, masked or uniform: classifier-free and by classifiers (Schiff et al. 2024).

Classifier-free (D-CFG), p^gamma proportional to p(. | y)^gamma p(.)^(1 - gamma), is a mixture of two functions:

    masked_kernel(mixed(conditional, unconditional, 2.0), mask_id)                  of predictors
    mixed(uniform_kernel(conditional), uniform_kernel(unconditional), 2.0)          of kernels

By a classifier (D-CBG), every position draws in proportion to p(z_s = v | z_t) p(y | z_t with v there)^gamma:

    TokenGuide(classifier)(kernel)

Both take positions to be independent within a step, as the step itself does: what they sample is off by about 1 / T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latdiff.discrete.reverse import Kernel
from latdiff.errors import UserError, check_number, shown

NUMBERS = 2**24  # of the one-hot texts that a classifier is given at once, 64 MiB


class TokenGuidanceError(UserError):
    """A guide of tokens that cannot be made or has gone wrong, in one sentence."""


class TokenClassifier(Protocol):
    """What a guide follows: the log-probability of the class that is wanted."""

    def __call__(self, one_hot: Tensor, alpha: Tensor) -> Tensor:
        """log p(y | z) [B], for any B, by torch operations.

        Args:
            one_hot: z [B, L, K] in float32, with the mask as its last column for masked diffusion.
            alpha: the share of tokens that are still the text's own, [B] in float64.
        """


def mixed(conditional: Callable[..., Tensor], unconditional: Callable[..., Tensor], gamma: float) -> Callable:
    """Classifier-free guidance, of predictors for masked diffusion and of kernels for uniform one.

    Mixed predictors leave the rate as it is at which masks are lifted; mixed kernels would not.

    Args:
        conditional: returns log-probabilities [B, L, K].
        unconditional: the same from the same arguments.
        gamma: 1 is the conditional function itself, which is then called alone, 0 the other; above 1 is stronger.

    Returns:
        A function of the same arguments. What one of the two rules out is ruled out.

    Raises:
        UserError: For a gamma that is not finite.
    """
    gamma = check_number("gamma", gamma)
    if gamma in (0, 1):
        return conditional if gamma else unconditional

    def both(*args) -> Tensor:
        one, other = conditional(*args), unconditional(*args)
        out = (one == -torch.inf) | (other == -torch.inf)
        return torch.where(out, -torch.inf, torch.lerp(other, one, gamma)).log_softmax(-1)

    return both


@dataclass(frozen=True)
class TokenGuide:
    """Steers a kernel by a classifier: guide(kernel) -> kernel. Tokens that the kernel leaves no choice of stay.

    Candidates for z_s are judged at alpha_s, beside tokens of z_t, so that a text of one token is guided exactly in any
    number of steps.

    Args:
        classifier: log p(y | z).
        scale: gamma; 1 is p(y | x) itself, if the classifier is exact and steps are many.
        exact: judge every token at every position, up to L x K calls a text; otherwise all of them by a gradient at
            z_t, log p(y | z_t) + g_v - g_z, from one call.

    Raises:
        TokenGuidanceError: For a classifier that cannot be called, or a scale that is not finite.
    """

    classifier: TokenClassifier
    scale: float = 1.0
    exact: bool = False

    def __post_init__(self):
        if not callable(self.classifier):
            raise TokenGuidanceError(f"classifier is {shown(self.classifier)}, must be a function of one-hot texts "
                                     "[B, L, K] and alpha [B]; TokenHead(...).toward(label) makes a guide of a head")
        try:
            object.__setattr__(self, "scale", check_number("scale", self.scale))  # of a frozen dataclass
        except UserError as error:
            raise TokenGuidanceError(str(error)) from None

    def __call__(self, kernel: Kernel) -> Kernel:
        """Wrap `kernel`."""
        if self.scale == 0:
            return kernel

        def guided(ids: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
            log_probs = kernel(ids, alpha_t, alpha_s)
            places = (log_probs > -torch.inf).sum(-1) > 1  # at which there is a choice
            alpha = torch.full((len(ids),), alpha_s, dtype=torch.float64, device=ids.device)
            judge = every_change if self.exact else first_order
            judged = judge(self.classifier, ids, alpha, log_probs.shape[-1], places)
            return (log_probs + self.scale * judged.to(log_probs)).log_softmax(-1)

        return guided


@torch.no_grad()
def every_change(
    classifier: TokenClassifier, ids: Tensor, alpha: Tensor, size: int, places: Tensor | None = None
) -> Tensor:
    """log p(y | z with token v at position l) of all v and l, each by a call of its own.

    Args:
        classifier: log p(y | z).
        ids: z [B, L].
        alpha: of z, [B].
        size: K.
        places: which positions are asked of, [B, L]; the others get 0.

    Returns:
        [B, L, K], of the classifier's type.
    """
    rows, columns = (torch.ones_like(ids, dtype=torch.bool) if places is None else places).nonzero(as_tuple=True)
    found = [torch.zeros(0, device=ids.device)]
    for change in torch.arange(len(rows) * size, device=ids.device).split(max(1, NUMBERS // (size * ids.shape[1]))):
        row, column, token = rows[change // size], columns[change // size], change % size
        texts = ids[row].index_put((torch.arange(len(row), device=ids.device), column), token)
        found.append(_judged(classifier, _one_hot(texts, size), alpha[row]))
    judged = torch.cat(found[1:] or found).view(-1, size)
    return judged.new_zeros(*ids.shape, size).index_put((rows, columns), judged)


def first_order(
    classifier: TokenClassifier, ids: Tensor, alpha: Tensor, size: int, places: Tensor | None = None
) -> Tensor:
    """What `every_change` returns, to first order in the one-hot text: exact for a log-probability linear in it.

    Arguments are the same; positions that are not asked of are answered as well.
    """
    with torch.inference_mode(False), torch.enable_grad():
        text = _one_hot(ids.clone(), size).requires_grad_()
        log_prob = _judged(classifier, text, alpha.clone())
        if not log_prob.requires_grad:
            raise TokenGuidanceError("the classifier's log-probabilities have no gradient; compute them by torch "
                                     "operations on the one-hot texts, or take exact=True")
        (gradient,) = torch.autograd.grad(log_prob.sum(), text)
    if not gradient.isfinite().all():
        raise TokenGuidanceError("the gradient of the classifier is not finite; look at its weights, or take "
                                 "exact=True")
    here = gradient.gather(-1, ids[..., None])
    return log_prob.detach()[:, None, None] + gradient - here


def _one_hot(ids: Tensor, size: int) -> Tensor:
    return torch.zeros(*ids.shape, size, device=ids.device).scatter_(-1, ids[..., None], 1.0)


def _judged(classifier: TokenClassifier, one_hot: Tensor, alpha: Tensor) -> Tensor:
    log_prob = classifier(one_hot, alpha)
    if log_prob.shape != one_hot.shape[:1]:
        raise TokenGuidanceError(f"the classifier returned the shape {list(log_prob.shape)} for one-hot texts "
                                 f"{list(one_hot.shape)}, must be one log-probability a text, [{len(one_hot)}]")
    if log_prob.isnan().any():
        raise TokenGuidanceError("the classifier returned NaN; look at its weights")
    return log_prob
