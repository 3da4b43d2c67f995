"""A head of labels: logistic regression on latents."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latdiff.diffusion.guidance import Guide
from latdiff.errors import nearest, shown
from latdiff.heads.defaults import DEFAULT_C
from latdiff.heads.guessing import warn_of_guessing
from latdiff.heads.inputs import HeadError, check_features, checked_labels
from latdiff.heads.linear import LinearHead
from latdiff.heads.regression import (
    FOLDS,
    alike,
    as_weights_of_latents,
    features_of,
    fit_levels,
    folds_of_labels,
    noise_levels,
    radius,
    softmax_form,
    strongest_good_C,
)

if TYPE_CHECKING:
    from latdiff.codecs.protocol import Codec


class AttributeHead(ClassifierMixin, LinearHead):
    """Logistic regression on latents, binary or multinomial: a scikit-learn classifier that steers.

    Args:
        name: of the attribute, e.g. "sentiment".
        C: inverse regularisation; "cv" takes the strongest that is within a standard error of the best
            cross-validated accuracy. The default is strong: a blunt classifier steers better.
        features: "flat" latents (L x D), their "mean" over the L latents (D), or "both".
        class_weight: "balanced" makes rare labels count as much as common ones, None every text the same.
        noise_aware: also fit one regression a noise level, on noised latents, to be read at z_t.
        random_state: an integer, the seed of that noise and of the folds.

    Attributes:
        classes_: the C labels, sorted, of the type they were given in.
        coef_: of clean latents, [1, L * D] for two classes, else [C, L * D].
        intercept_: [1] or [C].
        C_: the C that was fitted with. The rest are LinearHead's.

    Examples:
        >>> import torch
        >>> latents = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> head = AttributeHead(name="side").fit(latents, latents[:, 0, 0] > 0)
        >>> head.classes_.tolist(), head.score(latents, latents[:, 0, 0] > 0) > 0.8
        ([False, True], True)
        >>> head.toward(True, scale=2.0).title
        'side=True'
    """

    kind = "labels"
    classes_: np.ndarray

    def __init__(
        self, name: str = "attribute", C: float | str = DEFAULT_C, features: str = "flat",
        class_weight: str | None = "balanced", noise_aware: bool = False, random_state: int = 0,
    ):
        self.name = name
        self.C = C
        self.features = features
        self.class_weight = class_weight
        self.noise_aware = noise_aware
        self.random_state = random_state

    def checked(self, y, per_class: int = 1) -> np.ndarray:
        """Labels [N] as an array, of `per_class` texts each. Raises HeadError for settings or labels it cannot fit."""
        check_features(self.name, self.features)
        if self.C != "cv" and not (isinstance(self.C, Real) and 0 < self.C < math.inf):
            raise HeadError(f"head {self.name!r}: C is {self.C!r}, must be a number above 0, or 'cv'")
        self._seed()
        return checked_labels(self.name, y, max(per_class, FOLDS) if self.C == "cv" else per_class)

    def fit(self, X, y, groups=None) -> AttributeHead:
        """Fit scikit-learn's LogisticRegression.

        Args:
            X: latents [N, L, D], tensor or array. Flat ones [N, L * D] do as well, as in scikit-learn's Pipeline,
                and count as a single latent (L = 1), whose mean is itself.
            y: N labels: texts, whole numbers or booleans.
            groups: N numbers, equal ones where samples repeat each other, which then are in the same fold of C="cv";
                None tells them by equal latents.

        Returns:
            The head itself. It knows no codec and has no report: `fit_head` sets both.

        Raises:
            HeadError: for settings out of range, unequal lengths, missing labels, fewer than two classes, or with
                C="cv" a class of fewer than five different samples.
        """
        labels = self.checked(y)
        latents = self._read(X, len(labels))
        regression = LogisticRegression(max_iter=1000, class_weight=self.class_weight)
        C = self.C
        if C == "cv":
            inputs = features_of(latents, self.features)
            groups = alike(inputs) if groups is None else np.asarray(groups)
            folds = folds_of_labels(self.name, groups, labels, self._seed())
            C = strongest_good_C(regression, inputs, labels, folds)
        regression.set_params(C=C)
        fitted = fit_levels(regression, latents, labels, self.features, self.noise_aware, self._seed())
        weight, bias = map(torch.stack, zip(*map(softmax_form, fitted), strict=True))
        weight = as_weights_of_latents(weight, latents.shape[1:], self.features)
        self.classes_, self.C_ = fitted[0].classes_, C
        return self._hold(weight, bias, noise_levels() if self.noise_aware else None, radius(latents))

    @classmethod
    def from_weights(
        cls, classes, weight: Tensor, bias: Tensor, log_snrs: Tensor | None = None, *, radius: float | None = None,
        codec_digest: str | None = None, report: dict | None = None, fitted_on: Tensor | None = None, **settings,
    ) -> AttributeHead:
        """A fitted head of given weights.

        Args:
            classes: C labels.
            weight: [C, L, D] of clean latents, or [K, C, L, D] of K noise levels.
            bias: [C] or [K, C].
            log_snrs: [K], for several levels.
            radius: the largest root mean square of the latents it was fitted on.
            codec_digest: of the codec whose latents it reads.
            report: held-out figures.
            fitted_on: fingerprints of its texts.
            **settings: parameters such as `name`.

        Raises:
            HeadError: for shapes that do not belong together.
        """
        weight, bias = (weight[None], bias[None]) if weight.dim() == 3 else (weight, bias)
        head = cls(**{"noise_aware": log_snrs is not None} | settings)
        head.classes_ = np.array(classes)
        if weight.dim() > 1 and len(head.classes_) != weight.shape[1]:
            raise HeadError(f"head {head.name!r}: weight {list(weight.shape)} is not of {len(head.classes_)} labels "
                            f"({', '.join(map(str, classes))}); it must be [K, C, L, D] with C labels")
        return head._hold(weight, bias, log_snrs, radius, codec_digest, report, fitted_on)

    @classmethod
    def from_sklearn(
        cls, codec: Codec, classifier, name: str = "attribute", features: str = "flat"
    ) -> AttributeHead:
        """A head from a fitted linear scikit-learn classifier of latents, `codec.encode(texts).flatten(1)`.

        Scores of classifiers without probabilities are read as logits.

        Args:
            codec: whose latents they are.
            classifier: anything with `coef_`, `intercept_` and `classes_` whose largest score is its prediction:
                LogisticRegression, SGDClassifier, RidgeClassifier, LinearSVC, linear discriminant analysis.
            name: of the attribute.
            features: that it was fitted on: "flat", "mean" or "both".

        Raises:
            HeadError: for a classifier that is not linear, not fitted, of another number of features, or one that
                predicts otherwise (one against one).
        """
        missing = [part for part in ("coef_", "intercept_", "classes_") if not hasattr(classifier, part)]
        if missing:
            raise HeadError(
                f"head {name!r}: {type(classifier).__name__} has no {' and no '.join(missing)}; it must be a linear "
                "classifier, and fitted"
            )
        check_features(name, features)
        L, D = codec.latent_shape
        weight, bias = softmax_form(classifier)
        expected = {"flat": L * D, "mean": D, "both": (L + 1) * D}[features]
        if weight.shape[1] != expected:
            raise HeadError(
                f"head {name!r}: the classifier reads {weight.shape[1]} features, but {features} latents of this "
                f"codec have {expected}"
            )
        probe, classes = torch.randn(64, L, D, generator=torch.Generator().manual_seed(0)), classifier.classes_
        head = None
        if len(weight) == len(classes):
            weight = as_weights_of_latents(weight[None], (L, D), features)
            head = cls.from_weights(classes, weight, bias[None], codec_digest=codec.digest, name=name,
                                    features=features)
        if head is None or not np.array_equal(head.predict(probe), classifier.predict(features_of(probe, features))):
            raise HeadError(
                f"head {name!r}: {type(classifier).__name__} has {len(bias)} rows of weights for {len(classes)} "
                "labels and does not predict the one with the largest score; take one row a label (one against rest)"
            )
        return head

    @property
    def coef_(self) -> np.ndarray:
        """Weights of clean latents as scikit-learn has them: the odds of the second of two classes, else a row each."""
        return _as_odds(self.weight[-1].flatten(1))

    @property
    def intercept_(self) -> np.ndarray:
        """The biases that belong to `coef_`."""
        return _as_odds(self.bias[-1])

    def log_prob(self, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """Log-probability of every class [B, C] for latents [B, L, D], clean or with their log-SNR [B]."""
        return torch.log_softmax(self.logits(x, log_snr), dim=-1)

    def log_prob_of(self, target: tuple[float, ...], x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log sum_c target_c p(c | x) [B]; target is a weight for every class."""
        log_prob = self.log_prob(x, log_snr)
        return (log_prob + _log_weights(target, log_prob.device, log_prob.dtype)).logsumexp(-1)

    def odds(self, target: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """Weights [L, D] and bias of the log-odds of a target, one of two labels, on clean latents.

        Raises:
            HeadError: for a head of more labels, or a target that is not one of the two.
        """
        wanted = [index for index, weight in enumerate(target) if weight > 0]
        if len(target) != 2 or len(wanted) != 1:
            raise HeadError(f"head {self.name!r} has the labels {', '.join(map(str, self.classes_))}, and DGLM's "
                            "closed form is of one of two; leave aggregate out")
        (one,) = wanted
        weight, bias = self.weight[-1], self.bias[-1]
        return weight[one] - weight[1 - one], bias[one] - bias[1 - one]

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities [N, C] for latents [N, L, D], columns in the order of `classes_`."""
        return self._logits_of(X).softmax(-1).numpy()

    def predict(self, X) -> np.ndarray:
        """The likeliest label [N] of each of the latents [N, L, D]."""
        likeliest = self._logits_of(X).argmax(-1).numpy()
        return self.classes_[likeliest]

    def toward(self, label: Any, scale: float | None = None, mode: str = "x0", **settings) -> Guide:
        """A guide towards a label, or towards any of several.

        Args:
            label: one of `classes_`, or its str() as a command line has it; {"art": 2, "music": 1} wants either, art
                twice as much.
            scale: how far; None is `usual_scale(mode)`.
            mode: where gradients are taken, see guidance.Guide, as further settings are.

        Warns:
            UserWarning: where the head's report says that it can hardly tell the labels apart.

        Raises:
            HeadError: for a label that the head does not know, or a mode that it cannot be read in.

        Examples:
            >>> head = AttributeHead.from_weights(["art", "music"], torch.ones(2, 1, 4), torch.zeros(2), name="topic")
            >>> head.toward("art", scale=3.0).title
            'topic=art'
        """
        given = label.items() if isinstance(label, Mapping) else [(label, 1.0)]
        wanted = {self._index(one): weight for one, weight in given}
        numbers = all(isinstance(weight, Real) for weight in wanted.values())
        if not (wanted and numbers and min(wanted.values()) >= 0 and 0 < sum(wanted.values()) < math.inf):
            raise HeadError(f"head {self.name!r}: weights of labels are {shown(label)}, must be positive numbers")
        # The largest weight is 1, so that the target of one label is its probability.
        weights = [wanted.get(index, 0) / max(wanted.values()) for index in range(len(self.classes_))]
        warn_of_guessing(self)
        return self.guide(tuple(map(float, weights)), scale, mode, **settings)

    def away(self, label: Any, scale: float | None = None, mode: str = "x0", **settings) -> Guide:
        """A guide towards anything but this label; the rest is as in `toward`."""
        avoided = self._index(label)
        others = {one: 1.0 for index, one in enumerate(self.classes_.tolist()) if index != avoided}
        return self.toward(others, scale, mode, **settings)

    def knows(self, label: Any) -> bool:
        """Whether `toward` would find the label."""
        return self._place(label) is not None

    def describe(self, target: tuple[float, ...]) -> str:
        """"art", "art+music", or "not art" for all but one of four labels or more."""
        pairs = list(zip(map(str, self.classes_.tolist()), target, strict=True))
        wanted = [label for label, weight in pairs if weight > 0]
        if len(wanted) == len(pairs) - 1 and len(pairs) > 3:
            return "not " + next(label for label, weight in pairs if not weight > 0)
        return "+".join(wanted)

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides of this head, or its like, cannot both succeed: no label is wanted by both."""
        like = isinstance(two.head, AttributeHead) and np.array_equal(two.head.classes_, self.classes_)
        return like and not self._wanted(one) & self._wanted(two)

    def _wanted(self, guide: Guide) -> set[int]:
        """The classes that a guide leads to: with a negative scale, those that it does not name."""
        if guide.scale == 0:
            return set(range(len(self.classes_)))
        return {index for index, weight in enumerate(guide.target) if (weight > 0) == (guide.scale > 0)}

    def _place(self, label: Any) -> int | None:
        """Index of a label, found by its value, else by its str() where only one has that."""
        check_is_fitted(self)
        known = self.classes_.tolist()
        label = label.item() if getattr(label, "ndim", None) == 0 else label  # of numpy or torch
        if not isinstance(label, (str, bool, int, float)) or (isinstance(label, int) and abs(label) >= 2**64):
            return None
        found = [i for i, one in enumerate(known) if one == label] or [
            i for i, one in enumerate(known) if str(one) == str(label)
        ]
        return found[0] if len(found) == 1 else None

    def _index(self, label: Any) -> int:
        index = self._place(label)
        if index is None:
            known = [str(one) for one in self.classes_.tolist()]
            near = nearest(label, known) if isinstance(label, str) else ""
            raise HeadError(f"head {self.name!r} knows no label {shown(label)}, only {', '.join(known)}{near}")
        return index


@functools.lru_cache(maxsize=256)
def _log_weights(target: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A target's log-weights, made once and not at every step."""
    with torch.inference_mode(False):
        return torch.tensor(target, device=device, dtype=dtype).log()


def _as_odds(rows: Tensor) -> np.ndarray:
    """Two rows as one, that of the second's odds; more as they are."""
    return (rows[1:] - rows[:1] if len(rows) == 2 else rows).cpu().numpy()
