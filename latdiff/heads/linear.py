"""Plug-in heads: what a guide follows, fitted in seconds on labelled latents, in one small file format.

`AttributeHead` for labels and `NumberHead` for a number are linear in the latents; `CallableHead` takes any
differentiable function. A linear head may hold weights for several noise levels and is then read at z_t.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from latdiff.diffusion.guidance import MAX_RAMP, Guide
from latdiff.diffusion.modes import MODES
from latdiff.errors import nearest
from latdiff.heads.defaults import DEFAULT_ALPHA, DEFAULT_C
from latdiff.heads.fitting import (
    HeadError,
    accuracy_by_noise,
    as_weights_of_latents,
    calibration_error,
    check_features,
    check_labels,
    features_of,
    fingerprints,
    fit_levels,
    folds,
    held_out,
    noise_levels,
    numbers_of,
    radius,
    softmax_form,
    strongest_good_C,
)

# Root mean square of a usual push where the ramp is 1 and the head undecided, in latent standard deviations.
# Chosen on storyworld: docs/lab/experiments.md
USUAL_PUSH = {"x0": 0.36, "denoiser": 0.16, "monte-carlo": 0.16, "noisy": 0.32}


class LinearHead:
    """What heads with weights share: logits <weight, x> + bias, interpolated in log-SNR between noise levels.

    Attributes:
        name: of the attribute, e.g. "sentiment".
        weight [K, C, L, D], bias [K, C]: for K noise levels; mean-pooled features have become equal weights.
        log_snrs [K]: ascending; None for a head of clean latents, which has K = 1.
        radius: the largest root mean square of the latents it was fitted on.
        codec_digest: of the codec whose latents it reads; a pipeline refuses any other.
        report: held-out figures of the fit, as saved.
        fitted_on [N]: fingerprints of its texts, so that a judge can keep off them; none if not fitted here.
    """

    kind = ""

    def __init__(self, name: str, weight: Tensor, bias: Tensor, codec_digest: str, log_snrs: Tensor | None = None,
                 radius: float | None = None, report: dict | None = None,
                 fitted_on: Tensor | None = None):
        self.name, self.weight, self.bias, self.log_snrs = name, weight, bias, log_snrs
        self.codec_digest, self.radius, self.report = codec_digest, radius, report or {}
        self.fitted_on = torch.empty(0, dtype=torch.int64) if fitted_on is None else fitted_on

    @property
    def noise_aware(self) -> bool:
        """Whether it was fitted on noised latents and can be read at z_t."""
        return self.log_snrs is not None

    def logits(self, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """[B, C] for x [B, L, D]: clean latents, or z_t with its log-SNR [B]."""
        mix = self._mix(len(x), log_snr)
        used = mix.any(dim=0)  # two levels where all texts are equally noisy
        every = torch.einsum("bld,kcld->bkc", x, self.weight[used].to(x))
        if log_snr is not None and self.noise_aware:
            # Farther out than the noisiest level optimal weights fall like the signal, alpha.
            lowest = self.log_snrs[0].to(x)
            every = every * (log_snr.to(x).minimum(lowest).sigmoid() / lowest.sigmoid()).sqrt().view(-1, 1, 1)
        return torch.einsum("bk,bkc->bc", mix[:, used].to(x), every + self.bias[used].to(x))

    def guide(self, target, scale: float | None, mode: str, **settings) -> Guide:
        """A Guide, by default with the usual scale."""
        if mode == "noisy" and not self.noise_aware:
            raise HeadError(
                f"head {self.name!r} was fitted on clean latents and mode 'noisy' reads noised ones; take another "
                f"mode{', or fit it with noise_aware=True' if self.kind == 'labels' else ''}"
            )
        if scale is None and mode in MODES:  # Guide refuses any other
            scale = USUAL_PUSH[mode] if settings.get("normalise") else self.usual_scale(mode)
        return Guide(self, target, 1.0 if scale is None else scale, mode, **settings)

    def usual_scale(self, mode: str) -> float:
        """The scale of a guide that names none: a usual push, whatever the size of the head's weights."""
        weight = self.weight[-1]
        size = (weight - weight.mean(0)).square().mean((1, 2)).sqrt().mean().item()
        return USUAL_PUSH[mode] / max(size, 1e-6) if math.isfinite(size) else 1.0  # steering tells of bad weights

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight, "bias": self.bias, "fitted_on": self.fitted_on}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        config = {
            "kind": self.kind, "name": self.name, **self._settings(), "radius": self.radius,
            "log_snrs": None if self.log_snrs is None else self.log_snrs.tolist(),
            "codec_digest": self.codec_digest, "report": self.report,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def saw(self, texts: list[str]) -> list[bool]:
        """Whether the head was fitted on each of the texts."""
        return torch.isin(fingerprints(texts), self.fitted_on).tolist()

    def _settings(self) -> dict:
        return {}

    def _mix(self, batch: int, log_snr: Tensor | None) -> Tensor:
        """Weights of the K levels [B, K]; clean latents are read at the cleanest."""
        levels = len(self.weight)
        if log_snr is None or levels == 1:
            return torch.eye(levels)[-1].expand(batch, levels)
        at = log_snr.cpu().clamp(self.log_snrs[0], self.log_snrs[-1])
        upper = torch.searchsorted(self.log_snrs, at).clamp(1, levels - 1)
        share = (at - self.log_snrs[upper - 1]) / (self.log_snrs[upper] - self.log_snrs[upper - 1])
        one_hot = torch.eye(levels)
        return (1 - share)[:, None] * one_hot[upper - 1] + share[:, None] * one_hot[upper]


class AttributeHead(LinearHead):
    """Logistic regression on latents: C labels, binary or multinomial.

    Attributes beside LinearHead's:
        labels: the C classes, in the order of the weights.
        accuracy_: five-fold cross-validated accuracy on the texts it was fitted on; NaN if it was not fitted here.
    """

    kind = "labels"

    def __init__(self, name: str, labels: list[str], weight: Tensor, bias: Tensor, codec_digest: str, **settings):
        weight, bias = (weight[None], bias[None]) if weight.dim() == 3 else (weight, bias)
        super().__init__(name, weight, bias, codec_digest, **settings)
        self.labels = list(labels)

    @property
    def accuracy_(self) -> float:
        return self.report.get("accuracy", float("nan"))

    @classmethod
    def fit(
        cls, pipe, texts: list[str], labels: list[str], name: str = "attribute", C: float | str = DEFAULT_C,
        features: str = "flat", class_weight: str | None = "balanced", noise_aware: bool = False, seed: int = 0,
    ) -> AttributeHead:
        """Fit scikit-learn's LogisticRegression on the latents of labelled texts.

        Args:
            C: inverse regularisation; "cv" takes the strongest that is within a standard error of the best
                cross-validated accuracy. The default is strong: a blunt classifier steers better.
            features: "flat" latents (L x D), their "mean" over the L latents (D), or "both".
            class_weight: "balanced" makes rare labels count as much as common ones, None every text the same.
            noise_aware: also one regression a noise level, on noised latents, to be read at z_t.
            seed: of that noise and of the folds.

        The report holds held-out figures: accuracy and calibration error of five folds, and the accuracy at
        every noise level, of a fifth of the texts, read as a guide reads them: at z_t if noise-aware, else
        at the denoiser's estimate of x0. With C="cv" they are a little too good: the same folds chose C.

        Raises HeadError for unequal lengths, fewer than two classes, a class with fewer than five texts or
        unknown features, and codec.TextError for empty or too long texts.
        """
        texts, labels = list(texts), [str(label) for label in labels]
        check_labels(name, texts, labels)
        check_features(name, features)
        if C != "cv" and not (isinstance(C, (int, float)) and 0 < C < math.inf):
            raise HeadError(f"head {name!r}: C is {C!r}, must be a number above 0, or 'cv'")
        latents, labels = pipe.codec.encode(texts).cpu(), np.array(labels)

        def estimator(C):
            return LogisticRegression(C=C, max_iter=1000, class_weight=class_weight)

        inputs = features_of(latents, features)
        C = strongest_good_C(estimator, inputs, labels, seed) if C == "cv" else C
        probabilities = held_out(estimator(C), inputs, labels, seed)
        order = sorted(set(labels.tolist()))
        report = {
            "texts": len(labels), "C": C, "features": features,
            "accuracy": float(accuracy_score(labels, np.array(order)[probabilities.argmax(1)])),
            "calibration_error": calibration_error(probabilities, [order.index(x) for x in labels]),
        }

        def head(latents, labels):
            fitted = fit_levels(estimator(C), latents, labels, features, noise_aware, seed)
            weight, bias = zip(*(softmax_form(one) for one in fitted), strict=True)
            weight = as_weights_of_latents(torch.stack(weight), latents.shape[1:], features)
            return cls(
                name, order, weight, torch.stack(bias), pipe.codec.digest, radius=radius(latents), report=report,
                log_snrs=noise_levels() if noise_aware else None, fitted_on=fingerprints(texts),
            )

        train, test = next(folds(labels, seed).split(inputs, labels))
        report["accuracy_by_noise"] = accuracy_by_noise(
            pipe, head(latents[train], labels[train]), latents[test], labels[test], seed
        )
        return head(latents, labels)

    @classmethod
    def from_sklearn(cls, pipe, classifier, name: str = "attribute", features: str = "flat") -> AttributeHead:
        """A head from a fitted linear scikit-learn classifier of latents (`pipe.codec.encode(texts).flatten(1)`).

        Anything with `coef_`, `intercept_` and `classes_` whose largest score is its prediction: LogisticRegression,
        SGDClassifier, RidgeClassifier, LinearSVC, linear discriminant analysis. Scores of those without
        probabilities are read as logits. Raises HeadError for a classifier that is not linear, not fitted, of
        another number of features, or one that predicts otherwise (one against one).
        """
        missing = [part for part in ("coef_", "intercept_", "classes_") if not hasattr(classifier, part)]
        if missing:
            raise HeadError(
                f"head {name!r}: {type(classifier).__name__} has no {' and no '.join(missing)}; it must be a linear "
                "classifier, and fitted"
            )
        check_features(name, features)
        shape = pipe.codec.latent_shape
        weight, bias = softmax_form(classifier)
        expected = {"flat": shape[0] * shape[1], "mean": shape[1], "both": (shape[0] + 1) * shape[1]}[features]
        if weight.shape[1] != expected:
            raise HeadError(
                f"head {name!r}: the classifier reads {weight.shape[1]} features, but {features} latents of this "
                f"pipeline have {expected}"
            )
        labels = [str(label) for label in classifier.classes_]
        weight = as_weights_of_latents(weight[None], shape, features)[0]
        probe = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
        theirs = [str(label) for label in classifier.predict(features_of(probe, features))]
        head = cls(name, labels, weight, bias, pipe.codec.digest) if len(weight) == len(labels) else None
        if head is None or head.predict(probe) != theirs:
            raise HeadError(
                f"head {name!r}: {type(classifier).__name__} has {len(weight)} rows of weights for {len(labels)} "
                "labels and does not predict the one with the largest score; take one row a label (one against rest)"
            )
        return head

    def log_prob(self, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """Log-probability of every class [B, C] for latents [B, L, D]."""
        return torch.log_softmax(self.logits(x, log_snr), dim=-1)

    def log_prob_of(self, target: tuple[float, ...], x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log sum_c target_c p(c | x) [B]; target is a weight for every label."""
        weights = torch.tensor(target, dtype=x.dtype, device=x.device)
        return (self.log_prob(x, log_snr) + weights.log()).logsumexp(-1)

    def predict_proba(self, x0: Tensor) -> np.ndarray:
        """Probabilities [B, C], columns in the order of `labels`."""
        return self.log_prob(x0).exp().cpu().numpy()

    def predict(self, x0: Tensor) -> list[str]:
        """The likeliest label of each of the latents [B, L, D]."""
        return [self.labels[i] for i in self.log_prob(x0).argmax(dim=-1).tolist()]

    def score(self, x0: Tensor, labels: list[str]) -> float:
        """Accuracy on latents [B, L, D] with their labels."""
        return accuracy_score(labels, self.predict(x0))

    def toward(
        self, label: str | Mapping[str, float], scale: float | None = None, mode: str = "x0", **settings
    ) -> Guide:
        """A guide towards a label, or any of several: {"art": 2, "music": 1} wants either, art twice as much.

        `mode` and further settings are guidance.Guide's. Raises HeadError for a label that the head does
        not know, or a mode that it cannot be read in.
        """
        given = label if isinstance(label, Mapping) else {label: 1.0}
        wanted = {str(one): weight for one, weight in given.items()}
        for one in wanted:
            self._check(one)
        if not wanted or min(wanted.values()) < 0 or not 0 < sum(wanted.values()) < math.inf:
            raise HeadError(f"head {self.name!r}: weights of labels are {wanted}, must be positive numbers")
        # The largest weight is 1, so that the target of one label is its probability.
        weights = [wanted.get(one, 0) / max(wanted.values()) for one in self.labels]
        return self.guide(tuple(map(float, weights)), scale, mode, **settings)

    def away(self, label: str, scale: float | None = None, mode: str = "x0", **settings) -> Guide:
        """A guide towards anything but this label."""
        self._check(str(label))
        return self.toward({one: 1.0 for one in self.labels if one != str(label)}, scale, mode, **settings)

    def describe(self, target: tuple[float, ...]) -> str:
        """"art", "art+music", or "not art" for all but one of four labels or more."""
        wanted = [label for label, weight in zip(self.labels, target, strict=True) if weight > 0]
        if len(wanted) == len(self.labels) - 1 and len(self.labels) > 3:
            return "not " + next(label for label in self.labels if label not in wanted)
        return "+".join(wanted)

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides of this head, or its like, cannot both succeed: no label is wanted by both."""
        like = isinstance(two.head, AttributeHead) and two.head.labels == self.labels
        return like and not self._wanted(one) & self._wanted(two)

    def _wanted(self, guide: Guide) -> set[str]:
        """The labels that a guide leads to: with a negative scale, those that it does not name."""
        if guide.scale == 0:
            return set(self.labels)
        return {one for one, weight in zip(self.labels, guide.target, strict=True) if (weight > 0) == (guide.scale > 0)}

    def _check(self, label: str) -> None:
        if label not in self.labels:
            raise HeadError(
                f"head {self.name!r} knows no label {label!r}, only {', '.join(self.labels)}"
                f"{nearest(str(label), self.labels)}"
            )

    def _settings(self) -> dict:
        return {"labels": self.labels}


class NumberHead(LinearHead):
    """Ridge regression on clean latents: y = <weight, x> + bias, with Gaussian errors of standard deviation sd.

    Attributes beside LinearHead's:
        sd: of the held-out errors, in the unit of the number.
        r2_: five-fold cross-validated share of the variance explained.
    """

    kind = "number"

    def __init__(self, name: str, weight: Tensor, bias: Tensor, codec_digest: str, sd: float, **settings):
        weight, bias = (weight[None, None], bias.view(1, 1)) if weight.dim() == 2 else (weight, bias)
        super().__init__(name, weight, bias, codec_digest, **settings)
        self.sd = sd

    @property
    def r2_(self) -> float:
        return self.report.get("r2", float("nan"))

    @classmethod
    def fit(
        cls, pipe, texts: list[str], values: list[float], name: str = "number", alpha: float = DEFAULT_ALPHA,
        seed: int = 0,
    ) -> NumberHead:
        """Fit scikit-learn's Ridge (regularisation alpha) on the latents of texts with a number each.

        Raises HeadError for unequal lengths, values that are not finite numbers, that are all the same, or
        fewer than ten, and codec.TextError for empty or too long texts.
        """
        texts, values = list(texts), numbers_of(name, list(values))
        if len(texts) != len(values):
            raise HeadError(f"head {name!r}: {len(texts)} texts but {len(values)} numbers; give one number a text")
        if len(values) < 10 or values.std() == 0:
            raise HeadError(f"head {name!r}: needs ten texts or more with different numbers, found {len(values)} texts "
                            f"with {len(set(values.tolist()))} different numbers")
        latents = pipe.codec.encode(texts).cpu()
        inputs = latents.flatten(1).numpy()
        parts = KFold(5, shuffle=True, random_state=seed)
        errors = values - cross_val_predict(Ridge(alpha=alpha), inputs, values, cv=parts)
        ridge = Ridge(alpha=alpha).fit(inputs, values)
        report = {"texts": len(values), "alpha": alpha, "r2": float(1 - errors.var() / values.var())}
        weight = torch.tensor(ridge.coef_).float().view(latents.shape[1:])
        return cls(name, weight, torch.tensor(float(ridge.intercept_)), pipe.codec.digest, float(errors.std()),
                   radius=radius(latents), report=report, fitted_on=fingerprints(texts))

    def predict(self, x0: Tensor) -> list[float]:
        """The number of each of the latents [B, L, D]."""
        return self.logits(x0).flatten().tolist()

    def log_prob_of(self, target: float, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """log N(target; <weight, x> + bias, sd²) [B], without its constant."""
        return -0.5 * ((self.logits(x, log_snr)[:, 0] - target) / self.sd).square()

    def usual_scale(self, mode: str) -> float:
        """Four times what would correct the number in one step where pushes are largest; so much it takes to arrive.

        A residual r gives the gradient w r / sd², and moving along w changes the number by |w|².
        """
        whole = self.sd**2 / self.weight[-1].square().sum().clamp(min=1e-12).item()
        return 4 * whole / MAX_RAMP if mode == "x0" else 4 * whole

    def toward(self, value: float, scale: float | None = None, mode: str = "x0", **settings) -> Guide:
        """A guide towards a value of the number."""
        return self.guide(float(numbers_of(self.name, [value])[0]), scale, mode, **settings)

    def describe(self, target: float) -> str:
        return f"{target:g}"

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Whether two guides of this head, or its like, cannot both succeed."""
        if not isinstance(two.head, NumberHead):
            return False
        return one.scale * two.scale < 0 if one.target == two.target else min(one.scale, two.scale) > 0

    def _settings(self) -> dict:
        return {"sd": self.sd}


class CallableHead:
    """Any differentiable function of clean latents [B, L, D] -> log-probability [B], e.g. of a neural classifier.

    It is not saved with a checkpoint, which holds no code. `codec_digest` may be left out, and is then not
    checked.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "callable", codec_digest: str | None = None):
        self.function, self.name, self.codec_digest, self.radius = function, name, codec_digest, None

    def log_prob_of(self, target: None, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """The function's log-probability [B]. Raises HeadError when it has another shape or no gradient."""
        log_prob = self.function(x)
        if log_prob.shape != x.shape[:1] or not log_prob.requires_grad:
            raise HeadError(
                f"head {self.name!r} returned a tensor of shape {list(log_prob.shape)}, "
                f"{'with' if log_prob.requires_grad else 'without'} a gradient, for latents {list(x.shape)}; it must "
                "be one log-probability a text, computed by torch operations on the latents"
            )
        return log_prob

    def guide(self, scale: float, mode: str = "x0", **settings) -> Guide:
        """A guide that makes the log-probability larger; what scale is usual depends on the function."""
        if mode == "noisy":
            raise HeadError(f"head {self.name!r} is a function of clean latents; take mode x0, denoiser or monte-carlo")
        return Guide(self, None, scale, mode, **settings)

    def describe(self, target: None) -> str:
        return "high"

    def excludes(self, one: Guide, two: Guide) -> bool:
        """Nothing is known of a function but its scale: up and down at once."""
        return two.head is self and one.scale * two.scale < 0


def label_heads(checkpoint: str | Path) -> list[AttributeHead]:
    """All heads of labels in a checkpoint's folder, by name. Raises HeadError where one is incomplete or cut short."""
    heads = [load_head(config.parent) for config in sorted(Path(checkpoint).glob("heads/*/config.json"))]
    return [head for head in heads if isinstance(head, AttributeHead)]


def load_head(folder: str | Path) -> AttributeHead | NumberHead:
    """Read a saved head. Raises HeadError when the folder is missing, incomplete or cut short."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and "labels" in config and "kind" not in config:
            raise HeadError(f"the head in {folder} was written by an older latdiff; fit it again")
        tensors = load_file(folder / "model.safetensors")
        kind = {head.kind: head for head in (AttributeHead, NumberHead)}[config.pop("kind")]
        if config["log_snrs"] is not None:
            config["log_snrs"] = torch.tensor(config["log_snrs"])
        return kind(**tensors, **config)
    except FileNotFoundError:
        absent = [name for name in ("config.json", "model.safetensors") if not (folder / name).exists()]
        beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json"))
        raise HeadError(
            f"no head in {folder} ({' and '.join(absent)} missing); "
            f"fitted heads there: {', '.join(beside) or 'none'}. Fit one with `latdiff fit-head`."
        ) from None
    except HeadError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"the head in {folder} is cut short or damaged ({error}); fit it again") from None
