"""scikit-learn's regressions on latents: features, noise levels, the choice of C, and weights as a head holds them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from latdiff.heads.inputs import HeadError
from latdiff.schedule import add_noise, alpha2_at, log_snr

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of C, for "cv", ascending
FOLDS = 5
Folds = list[tuple[np.ndarray, np.ndarray]]  # indices of the samples to fit on and of those held out, a fold
NOISE_TIMES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)  # of the cosine schedule: noise levels, from clean
DRAWS = 4  # noised copies of a text a level


def features_of(latents: Tensor, features: str) -> np.ndarray:
    """[N, L, D] -> [N, F]."""
    parts = {"flat": [latents.flatten(1)], "mean": [latents.mean(1)], "both": [latents.flatten(1), latents.mean(1)]}
    return torch.cat(parts[features], dim=1).numpy()


def as_weights_of_latents(weight: Tensor, shape: tuple[int, int], features: str) -> Tensor:
    """Weights of features [K, C, F] as weights of latents [K, C, L, D]; all features are linear in them."""
    L, D = shape
    flat = weight[..., : L * D].unflatten(-1, (L, D)) if features != "mean" else 0
    mean = weight[..., -D:].unsqueeze(-2).expand(*weight.shape[:-1], L, D) / L if features != "flat" else 0
    return flat + mean


def softmax_form(classifier) -> tuple[Tensor, Tensor]:
    """Weights [C, F] and bias [C]; scikit-learn stores two classes as one row, the odds of the second."""
    weight = torch.tensor(np.atleast_2d(classifier.coef_)).float()
    bias = torch.tensor(np.broadcast_to(classifier.intercept_, len(weight)).copy()).float()
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def noise_levels() -> Tensor:
    """Log-SNR of the noise levels [K], ascending."""
    return log_snr(alpha2_at("cosine", torch.tensor(NOISE_TIMES))).flip(0)


def fit_levels(estimator, latents: Tensor, labels: np.ndarray, features: str, noise_aware: bool, seed: int) -> list:
    """One fitted estimator a noise level, noisiest first; a single one, of clean latents, where not noise-aware."""
    if not noise_aware:
        return [clone(estimator).fit(features_of(latents, features), labels)]
    generator = torch.Generator().manual_seed(seed)
    fitted = []
    for time in reversed(NOISE_TIMES):
        draws = DRAWS if time else 1
        copies = latents.repeat(draws, 1, 1)
        alpha2 = alpha2_at("cosine", torch.full((len(copies),), time))
        noised = add_noise(copies, torch.randn(copies.shape, generator=generator), alpha2)
        fitted.append(clone(estimator).fit(features_of(noised, features), np.tile(labels, draws)))
    return fitted


def alike(inputs: np.ndarray) -> np.ndarray:
    """Groups [N] of the rows that are equal."""
    number_of: dict[bytes, int] = {}
    return np.array([number_of.setdefault(row.tobytes(), len(number_of)) for row in inputs])


def folds_of_labels(name: str, groups: np.ndarray, labels: np.ndarray, seed: int) -> Folds:
    """Folds with the same share of each label, in which no group [N] of equal samples is on both sides.

    Raises HeadError for a label of too few groups.
    """
    if len(set(groups.tolist())) == len(groups):
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(groups, labels))
    for label in np.unique(labels).tolist():
        _check_different(f"head {name!r}: class {label!r}", groups[labels == label])
    return list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(groups, labels, groups))


def folds_of_numbers(name: str, groups: np.ndarray, seed: int) -> Folds:
    """Folds in which no group [N] of equal samples is on both sides. Raises HeadError for too few groups."""
    if len(set(groups.tolist())) == len(groups):
        return list(KFold(FOLDS, shuffle=True, random_state=seed).split(groups))
    _check_different(f"head {name!r}", groups)
    return list(GroupKFold(FOLDS, shuffle=True, random_state=seed).split(groups, groups=groups))


def _check_different(what: str, groups: np.ndarray) -> None:
    different = len(set(groups.tolist()))
    if different < FOLDS:
        raise HeadError(f"{what} has {len(groups)} texts, of which only {different} differ; the {FOLDS} folds of "
                        f"cross-validation need {FOLDS} or more that differ, so give others")


def strongest_good_C(regression: LogisticRegression, inputs: np.ndarray, labels: np.ndarray, folds: Folds) -> float:
    """The smallest C of GRID within one standard error of the best held-out accuracy."""
    search = GridSearchCV(regression, {"C": GRID}, scoring="accuracy", refit=_one_standard_error, cv=folds)
    return search.fit(inputs, labels).best_params_["C"]


def _one_standard_error(results: dict) -> int:
    """Index of the first setting that is as good as the best (Hastie et al. 2009, section 7.10)."""
    mean, error = results["mean_test_score"], results["std_test_score"] / (FOLDS - 1) ** 0.5
    best = mean.argmax()
    return int((mean >= mean[best] - error[best]).argmax())


def radius(latents: Tensor) -> float:
    """The largest root mean square of the latents [N, L, D]."""
    return latents.square().mean((1, 2)).sqrt().max().item()
