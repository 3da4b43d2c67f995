"""How the weights of a linear head come from labelled latents: checks, scikit-learn's estimators, held-out figures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from latdiff.config import MIN_PER_CLASS
from latdiff.data.tokens import letters_of
from latdiff.errors import UserError
from latdiff.heads.defaults import FEATURES
from latdiff.schedule import add_noise, alpha2_at, log_snr

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of C, for "cv"
NOISE_TIMES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)  # of the cosine schedule: noise levels, from clean
DRAWS = 4  # noised copies of a text a level


class HeadError(UserError):
    """A head that cannot be fitted, loaded or used, in one sentence."""


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


def folds(labels: np.ndarray, seed: int) -> StratifiedKFold:
    return StratifiedKFold(5, shuffle=True, random_state=seed)


def held_out(estimator, inputs: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities [N, C] of every text from a fit on the other four fifths."""
    return cross_val_predict(estimator, inputs, labels, cv=folds(labels, seed), method="predict_proba")


def strongest_good_C(estimator: Callable, inputs: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """The smallest C within one standard error of the best held-out accuracy (Hastie et al. 2009, section 7.10)."""
    order = np.array(sorted(set(labels.tolist())))
    scores = {
        C: (order[held_out(estimator(C), inputs, labels, seed).argmax(1)] == labels).astype(float) for C in GRID
    }
    best = max(scores.values(), key=np.mean)
    allowed = best.mean() - best.std() / len(best) ** 0.5
    return min(C for C, right in scores.items() if right.mean() >= allowed)


def calibration_error(probabilities: np.ndarray, right: list[int], bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3) of probabilities [N, C]; `right` has the class indices."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == np.array(right)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (bin_of == b).mean() * abs(confidence[bin_of == b].mean() - correct[bin_of == b].mean())
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))


def radius(latents: Tensor) -> float:
    """The largest root mean square of the latents [N, L, D]."""
    return latents.square().mean((1, 2)).sqrt().max().item()


def fingerprints(texts: list[str]) -> Tensor:
    """64 bits [N] that tell texts apart by their letters and digits."""
    digests = (hashlib.blake2b(letters_of(text).encode(), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, signed=True) for digest in digests], dtype=torch.int64)


def check_labels(name: str, texts: list[str], labels: list[str]) -> None:
    if len(texts) != len(labels):
        raise HeadError(f"head {name!r}: {len(texts)} texts but {len(labels)} labels; give one label a text")
    counts = {label: labels.count(label) for label in sorted(set(labels))}
    if len(counts) < 2:
        found = ", ".join(map(repr, counts)) or "none at all"
        raise HeadError(f"head {name!r}: all labels are of one class ({found}); a head needs two or more")
    if min(counts.values()) < MIN_PER_CLASS:
        raise HeadError(f"head {name!r}: every class needs {MIN_PER_CLASS} texts or more, found {counts}")


def check_features(name: str, features: str) -> None:
    if features not in FEATURES:
        raise HeadError(f"head {name!r}: features is {features!r}, must be one of {', '.join(FEATURES)}")


def numbers_of(name: str, values: list) -> np.ndarray:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise HeadError(f"head {name!r}: every value must be a number ({error})") from None
    if not np.isfinite(numbers).all():
        raise HeadError(f"head {name!r}: every value must be finite, number {int(np.isfinite(numbers).argmin()) + 1} "
                        f"is {numbers[np.isfinite(numbers).argmin()]}")
    return numbers


def accuracy_by_noise(pipe, head, latents: Tensor, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Noise level sigma -> accuracy on noised latents [N, L, D], read as a guide reads them."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for time in NOISE_TIMES:
        alpha2 = alpha2_at("cosine", torch.full((len(latents),), time))
        z = add_noise(latents, torch.randn(latents.shape, generator=generator), alpha2)
        read = z if head.noise_aware else pipe.estimate(z, alpha2[0].item()).cpu()
        guessed = head.log_prob(read, log_snr(alpha2)).argmax(1).tolist()
        sigma = (1 - alpha2[0]).sqrt().item()
        found[f"{sigma:.2f}"] = float(accuracy_score(labels, [head.labels[i] for i in guessed]))
    return found
