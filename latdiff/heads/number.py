"""A head of a number: ridge regression on latents."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from latdiff.diffusion.guidance import MAX_RAMP, Guide
from latdiff.heads.defaults import DEFAULT_ALPHA
from latdiff.heads.guessing import warn_of_guessing
from latdiff.heads.inputs import HeadError, numbers_of
from latdiff.heads.linear import LinearHead
from latdiff.heads.regression import alike, folds_of_numbers, radius

LEAST = 10  # texts to fit on


class NumberHead(RegressorMixin, LinearHead):
    """Ridge regression on clean latents: y = <weight, x> + bias, with Gaussian errors of standard deviation sd.

    Args:
        name: of the number, e.g. "words".
        alpha: regularisation.
        random_state: an integer, the seed of the folds.

    Attributes:
        coef_: [L * D].
        intercept_: a number.
        sd: of the held-out errors, in the unit of the number. The rest are LinearHead's.

    Examples:
        >>> import torch
        >>> latents = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> head = NumberHead(name="height", alpha=1.0).fit(latents, 3 * latents[:, 0, 0])
        >>> head.score(latents, 3 * latents[:, 0, 0]) > 0.9
        True
    """

    kind = "number"
    sd: float

    def __init__(self, name: str = "number", alpha: float = DEFAULT_ALPHA, random_state: int = 0):
        self.name = name
        self.alpha = alpha
        self.random_state = random_state

    def checked(self, y, per_class: int = 1) -> np.ndarray:
        """Numbers [N] as an array. Raises HeadError for settings or numbers that cannot be fitted."""
        if not (isinstance(self.alpha, Real) and 0 <= self.alpha < math.inf):
            raise HeadError(f"head {self.name!r}: alpha is {self.alpha!r}, must be a number, 0 or above")
        self._seed()
        values = numbers_of(self.name, y)
        if len(values) < LEAST or values.std() == 0:
            different = len(set(values.tolist()))
            raise HeadError(f"head {self.name!r}: needs {LEAST} samples or more with different numbers, found "
                            f"{len(values)} samples with {different} different numbers")
        return values

    def fit(self, X, y, groups=None) -> NumberHead:
        """Fit scikit-learn's Ridge, and `sd` by five folds.

        Args:
            X: latents [N, L, D], tensor or array, or flat ones [N, L * D].
            y: N numbers.
            groups: N numbers, equal ones where samples repeat each other, which then are in the same fold; None tells
                them by equal latents.

        Returns:
            The head itself. It knows no codec and has no report: `fit_head` sets both.

        Raises:
            HeadError: for unequal lengths, or values that are not finite numbers, all the same, or fewer than ten, and
                for fewer than five different samples.
        """
        values = self.checked(y)
        latents = self._read(X, len(values))
        inputs = latents.flatten(1).numpy()
        groups = alike(inputs) if groups is None else np.asarray(groups)
        folds = folds_of_numbers(self.name, groups, self._seed())
        errors = values - cross_val_predict(Ridge(alpha=self.alpha), inputs, values, cv=folds)
        ridge, self.sd = Ridge(alpha=self.alpha).fit(inputs, values), float(errors.std())
        weight = torch.tensor(ridge.coef_).float().view(1, 1, *latents.shape[1:])
        return self._hold(weight, torch.tensor([[float(ridge.intercept_)]]), radius=radius(latents))

    @classmethod
    def from_weights(
        cls, weight: Tensor, bias: Tensor, sd: float, *, radius: float | None = None, codec_digest: str | None = None,
        report: dict | None = None, fitted_on: Tensor | None = None, **settings,
    ) -> NumberHead:
        """A fitted head of given weights.

        Args:
            weight: [L, D], or [1, 1, L, D].
            bias: a single number.
            sd: of the errors.
            radius: the largest root mean square of the latents it was fitted on.
            codec_digest: of the codec whose latents it reads.
            report: held-out figures.
            fitted_on: fingerprints of its texts.
            **settings: parameters such as `name`.

        Raises:
            HeadError: for shapes that do not belong together.
        """
        weight, bias = (weight[None, None], bias.view(1, 1)) if weight.dim() == 2 else (weight, bias)
        head = cls(**settings)
        if weight.dim() != 4 or weight.shape[:2] != (1, 1) or not sd > 0:
            raise HeadError(f"head {head.name!r}: weight {list(weight.shape)} and sd {sd}, must be [1, 1, L, D] and a "
                            "number above 0")
        head.sd = float(sd)
        return head._hold(weight, bias, None, radius, codec_digest, report, fitted_on)

    @property
    def coef_(self) -> np.ndarray:
        """Weights [L * D]."""
        return self.weight[-1, 0].flatten().cpu().numpy()

    @property
    def intercept_(self) -> float:
        """The bias."""
        return self.bias.item()

    def predict(self, X) -> np.ndarray:
        """The number [N] of each of the latents [N, L, D]."""
        return self._logits_of(X)[:, 0].numpy()

    def log_prob_of(self, target: float, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log N(target; <weight, x> + bias, sd²) [B], without its constant."""
        return -0.5 * ((self.logits(x)[:, 0] - target) / self.sd).square()

    def usual_scale(self, mode: str) -> float:
        """Four times what corrects the number in one step where pushes are largest: it takes that much to arrive.

        A residual r gives the gradient w r / sd², and moving along w changes the number by |w|².
        """
        whole = self.sd**2 / self.weight[-1].square().sum().clamp(min=1e-12).item()
        return 4 * whole / MAX_RAMP if mode == "x0" else 4 * whole

    def toward(self, value: float, scale: float | None = None, mode: str = "x0", **settings) -> Guide:
        """A guide towards a value of the number; the rest is as in `AttributeHead.toward`."""
        target = float(numbers_of(self.name, [value])[0])
        warn_of_guessing(self)
        return self.guide(target, scale, mode, **settings)

    def knows(self, value: Any) -> bool:
        """Whether `toward` would take the value: a finite number, or a text of one."""
        try:
            return bool(len(numbers_of(self.name, [value])))
        except HeadError:
            return False

    def describe(self, target: float) -> str:
        """The number."""
        return f"{target:g}"

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides of this head, or its like, cannot both succeed."""
        if not isinstance(two.head, NumberHead):
            return False
        return one.scale * two.scale < 0 if one.target == two.target else min(one.scale, two.scale) > 0
