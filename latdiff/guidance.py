"""Plug-in heads, and guides that turn a denoise function into a steered one.

A head is a logistic regression on clean latents, fitted in seconds. Its guide follows
`guide(denoise, alpha2) -> denoise`, so guides stack and a lambda can test one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor

from latdiff.config import DEFAULT_C, DEFAULT_SCALE, UserError, nearest

Denoise = Callable[..., Tensor]  # denoise(z [B, L, D], t [B], cond=None, x_prev=None) -> x0 [B, L, D]
MAX_RAMP = 3.0


class HeadError(UserError):
    """A head that cannot be fitted, loaded or used, in one sentence."""


class AttributeHead:
    """Multinomial logistic regression on flattened clean latents.

    Attributes:
        name: of the attribute, e.g. "sentiment".  labels: the C classes, sorted.
        weight [C, L, D], bias [C]: logits are <weight, x> + bias.
        accuracy_: five-fold cross-validated accuracy on the texts it was fitted on.
        codec_digest: of the codec whose latents it reads; a pipeline refuses any other.
    """

    def __init__(self, name: str, labels: list[str], weight: Tensor, bias: Tensor, accuracy: float, codec_digest: str):
        self.name, self.labels, self.weight, self.bias = name, list(labels), weight, bias
        self.accuracy_, self.codec_digest = accuracy, codec_digest

    @classmethod
    def fit(
        cls, pipe, texts: list[str], labels: list[str], name: str = "attribute", C: float = DEFAULT_C
    ) -> AttributeHead:
        """Fit scikit-learn's LogisticRegression (inverse regularisation C) on the latents of labelled texts.

        Raises HeadError for unequal lengths, fewer than two classes or a class with fewer than five
        texts, and codec.TextError for empty or too long texts.
        """
        texts, labels = list(texts), [str(label) for label in labels]
        if len(texts) != len(labels):
            raise HeadError(f"head {name!r}: {len(texts)} texts but {len(labels)} labels; give one label a text")
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        if len(counts) < 2:
            found = ", ".join(map(repr, counts)) or "none at all"
            raise HeadError(f"head {name!r}: all labels are of one class ({found}); a head needs two or more")
        if min(counts.values()) < 5:
            raise HeadError(f"head {name!r}: every class needs five texts or more, found {counts}")
        features = pipe.codec.encode(texts).flatten(1).cpu().numpy()
        regression = LogisticRegression(C=C, max_iter=1000)
        accuracy = float(cross_val_score(regression, features, labels, cv=5).mean())
        regression.fit(features, labels)
        weight, bias = _softmax_form(regression)
        shape = (len(weight), *pipe.codec.latent_shape)
        return cls(name, regression.classes_.tolist(), weight.view(shape), bias, accuracy, pipe.codec.digest())

    def log_prob(self, x0: Tensor) -> Tensor:
        """Log-probability of every class [B, C] for clean latents [B, L, D]."""
        weight, bias = self.weight.to(x0), self.bias.to(x0)
        return torch.log_softmax(x0.flatten(1) @ weight.flatten(1).T + bias, dim=-1)

    def predict_proba(self, x0: Tensor) -> np.ndarray:
        """Probabilities [B, C], columns in the order of `labels`."""
        return self.log_prob(x0).exp().cpu().numpy()

    def predict(self, x0: Tensor) -> list[str]:
        """The likeliest label of each of the latents [B, L, D]."""
        return [self.labels[i] for i in self.log_prob(x0).argmax(dim=-1).tolist()]

    def score(self, x0: Tensor, labels: list[str]) -> float:
        """Accuracy on latents [B, L, D] with their labels."""
        return float(np.mean([a == b for a, b in zip(self.predict(x0), labels, strict=True)]))

    def toward(self, label: str, scale: float = DEFAULT_SCALE) -> Guide:
        """A guide towards one of the labels. Raises HeadError for a label that the head does not know."""
        if label not in self.labels:
            raise HeadError(
                f"head {self.name!r} knows no label {label!r}, only {', '.join(self.labels)}"
                f"{nearest(str(label), self.labels)}"
            )
        return Guide(self, label, scale)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}, folder / "model.safetensors")
        config = {
            "name": self.name, "labels": self.labels, "features": "flattened clean latents",
            "accuracy": self.accuracy_, "codec_digest": self.codec_digest,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> AttributeHead:
        """Read a saved head. Raises HeadError when the folder is missing, incomplete or cut short."""
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "model.safetensors")
            return cls(config["name"], config["labels"], tensors["weight"], tensors["bias"], config["accuracy"],
                       config["codec_digest"])  # fmt: skip
        except FileNotFoundError:
            absent = [name for name in ("config.json", "model.safetensors") if not (folder / name).exists()]
            beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json"))
            raise HeadError(
                f"no head in {folder} ({' and '.join(absent)} missing); "
                f"fitted heads there: {', '.join(beside) or 'none'}. Fit one with `latdiff fit-head`."
            ) from None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise HeadError(f"the head in {folder} is cut short or damaged ({error}); fit it again") from None


@dataclass(frozen=True)
class Guide:
    """Steers a denoise function towards one label of a head: x0 <- x0 + scale * ramp(t) * grad log p(label | x0).

    The gradient is taken on the estimate of x0, not through the denoiser, in closed form. The ramp is
    sigma/alpha, at most 3: where the estimate is still a guess a push is cheap, and towards the end of
    sampling the data have the last word.
    """

    head: AttributeHead
    label: str
    scale: float

    def __call__(self, denoise: Denoise, alpha2: Tensor) -> Denoise:
        """Wrap `denoise`; alpha2 [T] is the signal variance of every timestep."""

        def guided(z: Tensor, t: Tensor, cond=None, x_prev: Tensor | None = None) -> Tensor:
            x0 = denoise(z, t, cond, x_prev)
            signal = alpha2.to(z.device)[t]
            ramp = ((1 - signal) / signal.clamp(min=1e-9)).sqrt().clamp(max=MAX_RAMP)
            return x0 + self.scale * ramp.view(-1, 1, 1) * self.gradient(x0)

        return guided

    def gradient(self, x0: Tensor) -> Tensor:
        """Gradient of log p(label | x0) by x0, [B, L, D]: the label's weights minus the expected ones."""
        weight = self.head.weight.to(x0)
        expected = torch.einsum("bc,cld->bld", self.head.log_prob(x0).exp(), weight)
        return weight[self.head.labels.index(self.label)] - expected


def _softmax_form(regression: LogisticRegression) -> tuple[Tensor, Tensor]:
    """Weights [C, F] and bias [C]; scikit-learn stores two classes as one row, the odds of the second."""
    weight, bias = torch.tensor(regression.coef_).float(), torch.tensor(regression.intercept_).float()
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
