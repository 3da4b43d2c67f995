"""Worlds small enough that probabilities, conditionals and ideal predictors are known exactly.

A predictor takes ids [B, L], with `mask_id` = V where a token is hidden, to log-probabilities [B, L, V] in float64 of
the token at every position given the tokens seen at the others.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class Table:
    """A law of texts of L tokens that is held as a table.

    Attributes:
        joint: probability of every text, [V, ..., V] in float64.
        texts: all of them, [V^L, L], in the order of `probs`.
        probs: their probabilities [V^L].
        mask_id: V.
    """

    def __init__(self, joint: Tensor):
        self.joint = joint.double() / joint.double().sum()
        self.length, self.vocab_size = joint.ndim, len(joint)
        self.mask_id = self.vocab_size
        self.texts = words(self.vocab_size, self.length)
        self.probs = self.joint.flatten()
        self._rows = self._conditionals(words(self.vocab_size + 1, self.length)).log()

    def log_prob(self, ids: Tensor) -> Tensor:
        """Nats [B] of whole texts [B, L]."""
        return self.probs[code(ids, self.vocab_size)].log()

    def entropy(self) -> float:
        """Mean nats of a text."""
        return -torch.special.xlogy(self.probs, self.probs).sum().item()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Texts [count, L]."""
        return self.texts[torch.multinomial(self.probs, count, replacement=True, generator=generator)]

    def predictor(self, ids: Tensor) -> Tensor:
        """Log-probabilities [B, L, V], see the module; uniform where the others are impossible."""
        return self._rows[code(ids, self.vocab_size + 1)]

    def _conditionals(self, ids: Tensor) -> Tensor:
        fits = (ids[:, None] == self.texts) | (ids[:, None] == self.mask_id)  # [S, V^L, L]
        found = torch.zeros(*ids.shape, self.vocab_size, dtype=torch.float64)
        for place in range(self.length):
            others = [other for other in range(self.length) if other != place]
            weights = fits[..., others].all(-1) * self.probs
            found[:, place].index_add_(1, self.texts[:, place], weights)
        totals = found.sum(-1, keepdim=True)
        return torch.where(totals > 0, found / totals, 1 / self.vocab_size)


def table(vocab_size: int = 3, length: int = 4, seed: int = 0) -> Table:
    """W1: probabilities of all texts are normalised draws of Gamma(1/2)."""
    draws = np.random.default_rng(seed).gamma(0.5, size=(vocab_size,) * length)
    return Table(torch.from_numpy(draws))


def twins(vocab_size: int) -> Table:
    """W2: two tokens, always the same, uniform."""
    return Table(torch.eye(vocab_size))


class Chain:
    """W4: a Markov chain of any length, whose rows are draws of Dirichlet(concentration).

    Attributes:
        initial: law [V] of the first token.
        transition: row-stochastic [V, V].
    """

    def __init__(self, vocab_size: int = 4, length: int = 8, seed: int = 0, concentration: float = 0.5):
        draws = np.random.default_rng(seed).dirichlet([concentration] * vocab_size, size=vocab_size + 1)
        self.initial, self.transition = torch.from_numpy(draws[0]), torch.from_numpy(draws[1:])
        self.vocab_size, self.length, self.mask_id = vocab_size, length, vocab_size

    def log_prob(self, ids: Tensor) -> Tensor:
        """Nats [B] of whole texts [B, L], of any length."""
        return self.initial[ids[:, 0]].log() + self.transition[ids[:, :-1], ids[:, 1:]].log().sum(1)

    def entropy(self) -> float:
        """Mean nats of a text of `length` tokens."""
        rows = -torch.special.xlogy(self.transition, self.transition).sum(1)
        total, at = -torch.special.xlogy(self.initial, self.initial).sum(), self.initial
        for _ in range(self.length - 1):
            total, at = total + at @ rows, at @ self.transition
        return total.item()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Texts [count, length]."""
        ids = [torch.multinomial(self.initial, count, replacement=True, generator=generator)]
        for _ in range(self.length - 1):
            ids.append(torch.multinomial(self.transition[ids[-1]], 1, generator=generator)[:, 0])
        return torch.stack(ids, 1)

    def predictor(self, ids: Tensor) -> Tensor:
        """Log-probabilities [B, L, V] by forward-backward, for texts of any length; see the module."""
        size = self.vocab_size
        seen = torch.nn.functional.one_hot(ids, size + 1)[..., :size].double()
        seen = torch.where((ids == self.mask_id)[..., None], 1.0, seen)
        before, after = [self.initial.expand(len(ids), size)], [torch.ones(len(ids), size, dtype=torch.float64)]
        for place in range(ids.shape[1] - 1):
            before.append(_normalised((before[-1] * seen[:, place]) @ self.transition))
            after.append(_normalised((after[-1] * seen[:, -1 - place]) @ self.transition.T))
        return _normalised(torch.stack(before, 1) * torch.stack(after[::-1], 1)).log()


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


@dataclass
class Gauss:
    """W3: x ~ N(0, s^2 I) of D numbers, and a label with P(y = 1 | x) = Phi(w.x + b).

    `alpha2` is the variance of the signal a in z = sqrt(a) x + sqrt(1 - a) eps, a time t that of z = (1 - t) x + t eps.
    The label's closed forms are of s = 1.
    """

    w: Tensor  # [D]
    b: float = 0.0
    scale: float = 1.0

    def denoised(self, z: Tensor, alpha2: float) -> Tensor:
        """E[x | z]."""
        return z * math.sqrt(alpha2) * self.scale**2 / (alpha2 * self.scale**2 + 1 - alpha2)

    def variance(self, alpha2: float) -> float:
        """Var(x | z), in each dimension."""
        return self.scale**2 * (1 - alpha2) / (alpha2 * self.scale**2 + 1 - alpha2)

    def label_given(self, z: Tensor, alpha2: float) -> Tensor:
        """P(y = 1 | z) [B]."""
        return phi((math.sqrt(alpha2) * z @ self.w + self.b) / math.sqrt(1 + (1 - alpha2) * float(self.w @ self.w)))

    def mean_given_label(self) -> float:
        """E[w.x | y = 1]."""
        root = math.sqrt(1 + float(self.w @ self.w))
        c = self.b / root
        density = math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi)
        return float(self.w @ self.w) / root * density / phi(torch.tensor(c, dtype=torch.float64)).item()

    def velocity(self, z: Tensor, t: float) -> Tensor:
        """E[eps - x | z] of flow matching at t."""
        return z * (t - (1 - t) * self.scale**2) / self._spread2(t)

    def flow_map(self, z: Tensor, t: float, r: float) -> Tensor:
        """Where the probability flow takes z from t to r."""
        return z * math.sqrt(self._spread2(r) / self._spread2(t))

    def _spread2(self, t: float) -> float:
        return ((1 - t) * self.scale) ** 2 + t**2


def phi(x: Tensor) -> Tensor:
    """The normal distribution function."""
    return torch.special.ndtr(x)


def words(vocab_size: int, length: int) -> Tensor:
    """All texts of so many tokens, [V^L, L]."""
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))


def code(ids: Tensor, vocab_size: int) -> Tensor:
    """Places [B] of texts [B, L] among `words`."""
    powers = vocab_size ** torch.arange(ids.shape[1] - 1, -1, -1)
    return (ids * powers).sum(1)
