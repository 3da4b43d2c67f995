"""A head of labels that reads tokens at any noise level, for guided discrete diffusion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latdiff.discrete.guidance import TokenGuide
from latdiff.discrete.uniform import check_ids, corrupt
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.inputs import HeadError
from latdiff.heads.regression import DRAWS, NOISE_TIMES
from latdiff.schedule import log_snr


class TokenHead:
    """Logistic regression on the tokens of a text, one for each of several noise levels.

    It is an AttributeHead whose latents [B, 1, F] are the counts of a text's tokens, or the mean of their embeddings,
    less what noise alone has: those of a text of masks, or the mean over all tokens for uniform diffusion.
    Levels are told apart by alpha, the share of tokens that are still the text's own.

    Args:
        head: of such latents, with log_snrs that are logit(alpha).
        masked: reads texts noised by masks, of ids up to V; otherwise those of uniform diffusion.
        table: embeddings [K, F] of the tokens, the mask's last where there is one; None counts tokens.

    Examples:
        >>> ids = torch.randint(5, (200, 6), generator=torch.Generator().manual_seed(0))
        >>> head = TokenHead.fit(ids, (ids == 0).any(1), vocab_size=5, name="zero")
        >>> guide = head.toward(True, scale=2.0)  # wraps a kernel of masked diffusion
    """

    def __init__(self, head: AttributeHead, masked: bool = True, table: Tensor | None = None):
        self.head, self.masked, self.table = head, masked, table

    @classmethod
    def fit(
        cls, ids: Tensor, labels: Iterable[Any], vocab_size: int, masked: bool = True, table: Tensor | None = None,
        seed: int = 0, **settings: Any,
    ) -> TokenHead:
        """Fit it on texts that are noised as diffusion noises them.

        Args:
            ids: texts [N, L].
            labels: N of them.
            vocab_size: V.
            masked: noised by masks, id V; otherwise by tokens of uniform diffusion.
            table: embeddings [K, F], with K = V + 1 where masked, else V; None counts tokens.
            seed: of the noise.
            **settings: of AttributeHead. C is 1 by default, as in scikit-learn, and class_weight None, so that
                probabilities are those of the labels as they come, which exact guidance needs.

        Raises:
            UserError: For ids that are not below V.
            HeadError: For labels or settings that AttributeHead refuses, or a table of another size.
        """
        check_ids(ids, vocab_size)
        head = cls(AttributeHead(**{"C": 1.0, "class_weight": None} | settings), masked, table)
        name, size = head.head.name, vocab_size + masked
        labels = head.head.checked(labels)
        if len(labels) != len(ids):
            raise HeadError(f"head {name!r}: {len(ids)} texts but {len(labels)} labels; give one label a text")
        if table is not None and (table.dim() != 2 or len(table) != size):
            raise HeadError(f"head {name!r}: table is {list(table.shape)}, must be [{size}, F], a row for each of the "
                            f"{vocab_size} tokens{' and the mask' if masked else ''}")
        head.head = head._fit_levels(ids.cpu(), labels, vocab_size, seed)
        return head

    def _fit_levels(self, ids: Tensor, labels: np.ndarray, vocab_size: int, seed: int) -> AttributeHead:
        """The head of all levels, of regressions that are fitted one by one, from clean to noisy."""
        settings = self.head.get_params() | {"noise_aware": False}
        generator, fitted = torch.Generator().manual_seed(seed), []
        for time in NOISE_TIMES:
            copies = ids.repeat(DRAWS if time else 1, 1)
            noised = _noised(copies, 1 - time, vocab_size, self.masked, generator)
            features = self._of_counts(_counts(noised, vocab_size + self.masked))
            one = AttributeHead(**settings).fit(features, np.tile(labels, len(copies) // len(ids)))
            settings["C"] = one.C_  # chosen on clean texts
            fitted.append(one)
        weight, bias = (torch.cat([getattr(one, part) for one in reversed(fitted)]) for part in ("weight", "bias"))
        levels = log_snr(1 - torch.tensor(NOISE_TIMES, dtype=torch.float64)).flip(0)
        return AttributeHead.from_weights(
            fitted[0].classes_, weight, bias, levels, **self.head.get_params() | {"noise_aware": True})

    def features(self, one_hot: Tensor) -> Tensor:
        """[B, 1, F] of one-hot texts [B, L, K]; linear in them."""
        return self._of_counts(one_hot.sum(1))

    def _of_counts(self, counts: Tensor) -> Tensor:
        """Features [B, 1, F] of the counts [B, K] of all tokens."""
        length, size = counts.sum(1, keepdim=True), counts.shape[1]
        of_noise = (torch.arange(size) == size - 1) if self.masked else torch.full((size,), 1 / size)
        excess = counts - length * of_noise.to(counts)
        return (excess if self.table is None else excess @ self.table.to(counts) / length).unsqueeze(1)

    def log_prob(self, ids: Tensor, alpha: Tensor) -> Tensor:
        """Log-probabilities [B, C] of all labels for texts z [B, L] at alpha [B], in the order of `head.classes_`."""
        size = self.head.weight.shape[-1] if self.table is None else len(self.table)
        return self.head.log_prob(self._of_counts(_counts(ids, size)), log_snr(alpha))

    def toward(self, label: Any, scale: float = 1.0, exact: bool = False) -> TokenGuide:
        """A guide of kernels towards a label, or any of several, as AttributeHead.toward has them.

        Args:
            label: one of the head's, or a dictionary with a weight for each.
            scale: 1 is the head's own probability.
            exact: see TokenGuide.

        Raises:
            HeadError: for a label that the head does not know.
        """
        target = self.head.toward(label).target
        return TokenGuide(lambda one_hot, alpha: self.head.log_prob_of(target, self.features(one_hot), log_snr(alpha)),
                          scale, exact)


def _noised(ids: Tensor, alpha: float, vocab_size: int, masked: bool, generator: torch.Generator) -> Tensor:
    if masked:
        return ids.masked_fill(torch.rand(ids.shape, generator=generator) >= alpha, vocab_size)
    return corrupt(ids, torch.full((len(ids),), alpha), vocab_size, [generator] * len(ids))


def _counts(ids: Tensor, size: int) -> Tensor:
    """How often each of K tokens is in each of the texts [N, L]: [N, K]."""
    ones = torch.ones(ids.shape, device=ids.device)
    return torch.zeros(len(ids), size, device=ids.device).scatter_add_(1, ids, ones)
