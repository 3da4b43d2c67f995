"""Uniform diffusion: a token turns into any other, and may change again and again on the way back.

    q(z_t | x) = alpha_t x + (1 - alpha_t) / V,    alpha_t = 1 - t    (Austin et al. 2021; Schiff et al. 2024, UDLM)

A predictor takes ids z_t [B, L], of V tokens, and alpha_t [B] to log-probabilities [B, L, V]. What it has to learn is
the leave-one-out posterior p(x_l | z_t without its position l), for which the bound is tight, and not p(x_l | z_t):
the two say the same, and `whole` and `left_out` turn one into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from latdiff.draws import Draws
from latdiff.errors import UserError, check_whole

Predictor: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # z [B, L], alpha [B] -> log-probabilities [B, L, V]
EDGE = 2**-20  # of the square root of a time: at times 0 and 1 the rate is 0 / 0


def noise(count: int, length: int, vocab_size: int, streams: Sequence[torch.Generator]) -> Tensor:
    """Where sampling begins: ids [B, L] in which every token is as likely as any other, a generator for each row."""
    return _as_ids(numbers_of(streams, count, 1, length)[:, 0], vocab_size)


def corrupt(ids: Tensor, alpha: Tensor, vocab_size: int, streams: Sequence[torch.Generator]) -> Tensor:
    """z_t [B, L] of texts: a token stays with probability alpha, else any of the V takes its place, itself among them.

    Args:
        ids: [B, L], each below V.
        alpha: probability that a token is kept, [B].
        vocab_size: V.
        streams: one for each row.

    Raises:
        UserError: For an id that is not below V, such as that of a mask, or another number of streams than of rows.
    """
    check_ids(ids, vocab_size)
    numbers = numbers_of(streams, len(ids), 2, ids.shape[1]).to(ids.device)
    return torch.where(numbers[:, 0] < alpha[:, None].to(numbers), ids, _as_ids(numbers[:, 1], vocab_size))


def whole(log_probs: Tensor, ids: Tensor, alpha: Tensor) -> Tensor:
    """log p(x_l | z) from the leave-one-out log p(x_l | z without l): a Bayes step by the token at l itself.

    Args:
        log_probs: leave-one-out log-probabilities [B, L, V].
        ids: z [B, L].
        alpha: probability that a token of z is that of the text, below 1, [B].

    Returns:
        [B, L, V] in float64.
    """
    return _raised(log_probs.double(), ids, _gain(alpha, log_probs.shape[-1])).log_softmax(-1)


def left_out(log_probs: Tensor, ids: Tensor, alpha: Tensor) -> Tensor:
    """The leave-one-out log p(x_l | z without l) from log p(x_l | z): `whole` undone, with the same arguments."""
    return _raised(log_probs.double(), ids, -_gain(alpha, log_probs.shape[-1])).log_softmax(-1)


def posterior(log_probs: Tensor, ids: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
    """log q(z_s | z_t, x), of a text or of a predictor's guess at one (Schiff et al. 2024).

    With the leave-one-out posterior as the guess it is log p(z_s | z_t) of every position, exactly.

    Args:
        log_probs: x, as the log of a one-hot, or leave-one-out log-probabilities, [B, L, V].
        ids: z_t [B, L].
        alpha_t: probability that a token of z_t is that of the text.
        alpha_s: the same of z_s, which is less noisy.

    Returns:
        [B, L, V] in float64; it sums to 1 where x does.
    """
    size, kept = log_probs.shape[-1], alpha_t / alpha_s
    guess = log_probs.double().exp()
    of_s = (alpha_s * guess + (1 - alpha_s) / size).log()
    of_t = alpha_t * guess.gather(-1, ids[..., None]) + (1 - alpha_t) / size
    other = (guess.new_tensor(1 - kept) / size).log() - of_t.log()  # of z_t, from a z_s that it is not
    gain = _gain(torch.full((len(ids),), kept, dtype=torch.float64, device=ids.device), size)
    return _raised(of_s + other, ids, gain)


@torch.no_grad()
def bound(
    predictor: Predictor, ids: Tensor, vocab_size: int, streams: Sequence[torch.Generator], draws: int = 64
) -> tuple[Tensor, Tensor]:
    """Upper bound on -log p(x), in continuous time (Schiff et al. 2024).

    Each text has its own times (u_i)^2, u_i being one in each of `draws` equal parts of (0, 1) at a common offset: with
    uniform times the variance is infinite, since a token that has changed although t is small costs about 1 / t.

    Args:
        predictor: leave-one-out log-probabilities. With the exact ones the bound is tight.
        ids: texts [B, L].
        vocab_size: V.
        streams: one for each text, whose figure depends on its own alone.
        draws: of a time and a noised text, each a call of `predictor`; 2 or more.

    Returns:
        Nats [B] of each text, and their standard errors [B], by the differences of neighbouring draws, in float64.

    Raises:
        UserError: For ids that are not below V, draws below 2, another number of streams, or a predictor that
            returns another shape.
    """
    check_ids(ids, vocab_size)
    draws = check_whole("draws", draws, least=2)
    roots = (torch.arange(draws) + numbers_of(streams, len(ids), 1, 1)[:, 0]) / draws
    found = []
    for root in roots.clamp(EDGE, 1 - EDGE).T.to(ids.device):
        noisy = corrupt(ids, 1 - root**2, vocab_size, streams)
        log_probs = predicted(predictor(noisy, 1 - root**2), noisy, vocab_size)
        found.append(2 * root * rate(log_probs.double(), ids, noisy, root**2).sum(1))
    nats = torch.stack(found, 1)
    return nats.mean(1), (nats.diff().square().sum(1) / (2 * draws * (draws - 1))).sqrt()


def loss(predictor: Predictor, ids: Tensor, vocab_size: int, generator: torch.Generator | Draws) -> Tensor:
    """The bound in nats a token, from one time and noised text for each of the texts: what training makes smaller.

    Args:
        predictor: a network's log-probabilities.
        ids: texts [B, L].
        vocab_size: V.
        generator: on the CPU, or Draws of a batch of which these texts are a part. The roots of the whole batch's
            times are spread evenly over (0, 1).

    Raises:
        UserError: For ids that are not below V, or a predictor that returns another shape.
    """
    check_ids(ids, vocab_size)
    draws = Draws.of(generator, len(ids))
    offset = torch.rand((), generator=draws.generator)
    root = ((torch.arange(draws.batch) + offset) / draws.batch).clamp(EDGE, 1 - EDGE)[draws.own].to(ids.device)
    stays, other = (draws.rand(ids.shape[1]).to(ids.device) for _ in range(2))
    noisy = torch.where(stays < 1 - root[:, None] ** 2, ids, _as_ids(other, vocab_size))
    log_probs = predicted(predictor(noisy, 1 - root**2), noisy, vocab_size)
    return (2 * root[:, None] * rate(log_probs, ids, noisy, root**2)).mean()


def rate(log_probs: Tensor, ids: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """What a unit of time adds to the bound at t, by position: a Kullback-Leibler divergence of rates of change.

    With c = V alpha x + t and g = V alpha x_guess + t, over the V tokens v, and z the one that is there,
    sum_v [g_v / g_z - c_v / c_z + c_v / c_z log(c_v g_z / (c_z g_v))] / (V alpha), of Schiff et al. 2024.

    Args:
        log_probs: leave-one-out log-probabilities [B, L, V].
        ids: the texts [B, L].
        noisy: z_t [B, L].
        t: times in (0, 1), where alpha is 1 - t, [B].

    Returns:
        [B, L], in float64.
    """
    size, t = log_probs.shape[-1], t.double()[:, None]
    odds = size * (1 - t) / t  # c_v / t is 1 + odds at the token of the text, 1 at the others
    logs = F.softplus(log_probs + odds[..., None].log().to(log_probs), threshold=50)  # log(1 + odds guess), of g_v / t
    all_logs, at_both = logs.sum(-1).double(), logs.gather(-1, torch.stack([ids, noisy], -1)).double()
    at_text, at_noisy = at_both.unbind(-1)
    true = torch.log1p(odds)
    true_at_noisy = torch.where(ids == noisy, true, 0.0)
    crossed = (1 + odds) * true - all_logs - odds * at_text
    ratios = size / t * ((-at_noisy).exp() - (-true_at_noisy).exp() * (1 + true_at_noisy - at_noisy))
    return (ratios + (-true_at_noisy).exp() * crossed) / (size * (1 - t))


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise UserError for ids that uniform diffusion over V tokens cannot hold."""
    check_whole("vocab_size", vocab_size, least=2)
    if ids.dim() != 2 or ids.is_floating_point():
        raise UserError(f"ids have the shape {list(ids.shape)} and type {ids.dtype}, must be whole numbers [B, L]")
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if len(wrong):
        raise UserError(f"ids hold {wrong[0].item()}, must be from 0 to {vocab_size - 1}: uniform diffusion knows no "
                        "mask token; leave it out, or take masked diffusion")


def predicted(log_probs: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
    """What a predictor returned for ids [B, L]. Raises UserError where it is not [B, L, V]."""
    if log_probs.shape != (*ids.shape, vocab_size):
        raise UserError(f"the predictor returned the shape {list(log_probs.shape)} for ids {list(ids.shape)}, must be "
                        f"{[*ids.shape, vocab_size]}: log-probabilities of the {vocab_size} tokens, without a mask")
    return log_probs


def numbers_of(streams: Sequence[torch.Generator], count: int, *shape: int) -> Tensor:
    """Uniform numbers [B, *shape] in float64, on the CPU, each row's from its own generator.

    Raises UserError for another number of streams than of rows.
    """
    if len(streams) != count:
        raise UserError(f"{len(streams)} streams for {count} texts; give one for each, such as by "
                        "latdiff.diffusion.noise.streams")
    rows = [torch.rand(*shape, generator=one, device=one.device, dtype=torch.float64).cpu() for one in streams]
    return torch.stack(rows) if rows else torch.zeros(0, *shape, dtype=torch.float64)


def _gain(alpha: Tensor, size: int) -> Tensor:
    """log q(z | x) where z is x, above where it is another, for alpha [B]."""
    alpha = alpha.double()
    return torch.log1p(size * alpha / (1 - alpha))


def _raised(log_probs: Tensor, ids: Tensor, by: Tensor) -> Tensor:
    """Log-probabilities [B, L, V] of which those of the ids [B, L] are larger by [B]."""
    return log_probs.scatter_add(-1, ids[..., None], by[:, None, None].expand(*ids.shape, 1))


def _as_ids(numbers: Tensor, vocab_size: int) -> Tensor:
    """Tokens of uniform numbers in [0, 1)."""
    return (numbers * vocab_size).long().clamp(max=vocab_size - 1)  # 1 - 2^-24 times V may round to V
