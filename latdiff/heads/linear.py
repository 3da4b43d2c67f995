"""What heads with weights share: linear in the latents, read at a noise level, estimators as scikit-learn's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latdiff.diffusion.guidance import Guide
from latdiff.diffusion.modes import MODES
from latdiff.errors import shown
from latdiff.heads.inputs import HeadError, fingerprints
from latdiff.hub import push

# Root mean square of a usual push where the ramp is 1 and the head undecided, in latent standard deviations.
# Chosen on storyworld: docs/lab/experiments.md
USUAL_PUSH = {"x0": 0.36, "denoiser": 0.16, "monte-carlo": 0.16, "noisy": 0.32}


class LinearHead(BaseEstimator):
    """What heads with weights share: logits <weight, x> + bias, interpolated in log-SNR between noise levels.

    Attributes:
        weight: of latents, [K, C, L, D] for K noise levels; those of mean-pooled features are equal over L.
        bias: [K, C].
        log_snrs: [K], ascending; None for a head of clean latents, which has K = 1.
        radius: the largest root mean square of the latents it was fitted on; None if not known.
        codec_digest: of the codec whose latents it reads; a pipeline refuses any other. None, after a plain `fit`,
            is not checked.
        report: held-out figures of `fit_head`.
        fitted_on: fingerprints [N] of the texts it was fitted on, so that a judge can avoid them.
    """

    kind = ""
    name: str
    random_state: int
    log_snrs: Tensor | None = None
    radius: float | None = None
    codec_digest: str | None = None
    weight: Tensor
    bias: Tensor
    report: dict
    fitted_on: Tensor

    def logits(self, x: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """[B, C] for x [B, L, D]: clean latents, or z_t with its log-SNR [B]. In float32 at least."""
        if self.weight.device != x.device:
            self.to(x.device)  # once, and not at every step
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, weight, bias = x.to(dtype).flatten(1), self.weight.to(dtype).flatten(2), self.bias.to(dtype)
        if log_snr is None or self.log_snrs is None:
            return F.linear(x, weight[-1], bias[-1])  # clean latents are read at the cleanest level
        log_snr, levels = log_snr.to(x), self.log_snrs.to(dtype)
        every = F.linear(x, weight.flatten(0, 1)).unflatten(1, bias.shape)
        # Farther out than the noisiest level optimal weights fall like the signal, alpha.
        fall = (log_snr.minimum(levels[0]).sigmoid() / levels[0].sigmoid()).sqrt().view(-1, 1, 1)
        return (_shares_of_levels(levels, log_snr).unsqueeze(-1) * (every * fall + bias)).sum(1)

    def guide(self, target: Any, scale: float | None, mode: str, **settings) -> Guide:
        """A Guide, by default with the usual scale."""
        check_is_fitted(self)
        if mode == "noisy" and self.log_snrs is None:
            raise HeadError(
                f"head {self.name!r} was fitted on clean latents and mode 'noisy' reads noised ones; take another "
                f"mode{', or fit it with noise_aware=True (--noise-aware)' if self.kind == 'labels' else ''}"
            )
        if scale is None and mode in MODES:  # Guide refuses any other
            scale = USUAL_PUSH[mode] if settings.get("normalise") else self.usual_scale(mode)
        return Guide(self, target, 1.0 if scale is None else scale, mode, **settings)

    def usual_scale(self, mode: str) -> float:
        """The scale of a guide that names none: a usual push, whatever the size of the head's weights."""
        weight = self.weight[-1]
        size = (weight - weight.mean(0)).square().mean((1, 2)).sqrt().mean().item()
        return USUAL_PUSH[mode] / max(size, 1e-6) if math.isfinite(size) else 1.0  # steering reports bad weights

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, which stay in float32; returns the head."""
        with torch.inference_mode(False):  # autograd cannot save what inference mode makes
            self.weight, self.bias = self.weight.to(device), self.bias.to(device)
            self.log_snrs = None if self.log_snrs is None else self.log_snrs.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into the folder; `load_head` reads them."""
        from latdiff.heads.files import save_head  # which imports this module

        check_is_fitted(self)
        save_head(self, folder)

    def push_to_hub(
        self, repo_id: str, commit_message: str | None = None, private: bool | None = None, token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the head to the Hugging Face hub, for `load_head("owner/name")` and `--guide owner/name=LABEL`.

        Arguments and errors are as in a pipeline's `push_to_hub`.
        """
        snippet = f'from latdiff import load_head\n\nhead = load_head("{repo_id}")'
        what = f"A head of {self.name!r} that steers latent diffusion of text by codec {self.codec_digest}"
        return push(self.save, repo_id, what, snippet, commit_message, private, token, create_pr)

    def saw(self, texts: list[str]) -> list[bool]:
        """Whether the head was fitted on each of the texts."""
        return torch.isin(fingerprints(texts), self.fitted_on).tolist()

    def _hold(
        self, weight: Tensor, bias: Tensor, log_snrs: Tensor | None = None, radius: float | None = None,
        codec_digest: str | None = None, report: dict | None = None, fitted_on: Tensor | None = None,
    ) -> Self:
        """Take weights of latents. Raises HeadError where their shapes do not belong together."""
        levels = 1 if log_snrs is None else len(log_snrs)
        if weight.dim() != 4 or bias.shape != weight.shape[:2] or len(weight) != levels:
            noise = "clean latents" if log_snrs is None else f"{levels} noise levels"
            raise HeadError(
                f"head {self.name!r}: weight {list(weight.shape)}, bias {list(bias.shape)} and {noise} do not belong "
                "together; they must be [K, C, L, D], [K, C] and K noise levels, K = 1 for clean latents"
            )
        if log_snrs is not None and not (levels > 1 and (log_snrs.diff() > 0).all()):
            raise HeadError(f"head {self.name!r}: log_snrs is {log_snrs.tolist()}, must be two or more, ascending")
        with torch.inference_mode(False):  # copies that autograd can save, of inference tensors too
            self.weight, self.bias = weight.detach().float().clone().contiguous(), bias.detach().float().clone()
            self.log_snrs = None if log_snrs is None else log_snrs.clone()
        self.radius = None if radius is None else float(radius)
        self.codec_digest, self.report = codec_digest, report or {}
        self.fitted_on = torch.empty(0, dtype=torch.int64) if fitted_on is None else fitted_on
        self.n_features_in_ = weight.shape[2] * weight.shape[3]
        return self

    def _read(self, X, count: int | None = None) -> Tensor:
        """Latents [N, L, D] in float32, of flat ones [N, L * D] as well; with `count` they are fitted on."""
        if _are_texts(X):
            call = "predict(codec.encode(texts))" if count is None else "fit(codec.encode(texts), labels), or fit_head"
            raise HeadError(f"head {self.name!r} was given texts, and heads take latents: head.{call}")
        X = X.detach().float().cpu().numpy() if isinstance(X, Tensor) else X
        X = np.asarray(X) if isinstance(X, (list, tuple)) else X
        shape = X.shape[1:] if getattr(X, "ndim", 0) == 3 else None
        X = X if shape is None else X.reshape(len(X), -1)
        X = validate_data(self, X, dtype=np.float32, reset=count is not None)
        if count is not None and len(X) != count:
            raise HeadError(f"head {self.name!r}: {len(X)} latents but {count} labels; give one label a text")
        fitted = self.weight.shape[2:] if count is None else shape or (1, X.shape[1])
        if shape is not None and tuple(shape) != tuple(fitted):
            raise HeadError(f"head {self.name!r} reads latents [N, {fitted[0]}, {fitted[1]}], found {[len(X), *shape]}")
        return torch.tensor(X).view(-1, *fitted)

    @torch.no_grad()
    def _logits_of(self, X) -> Tensor:
        """Logits [N, C] on the CPU of what `predict` is given."""
        check_is_fitted(self)
        return self.logits(self._read(X).to(self.weight.device)).cpu()

    def _seed(self) -> int:
        if not isinstance(self.random_state, (int, np.integer)):
            raise HeadError(f"head {self.name!r}: random_state is {self.random_state!r}, must be a whole number")
        if not 0 <= self.random_state < 2**32:
            raise HeadError(f"head {self.name!r}: random_state is {shown(self.random_state)}, must be from 0 to "
                            "2**32 - 1, as scikit-learn takes it")
        return int(self.random_state)

    def __sklearn_is_fitted__(self) -> bool:
        return "weight" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _are_texts(X: Any) -> bool:
    """Whether what should be latents is a text, or a list, array or series that begins with one."""
    in_a_row = isinstance(X, (list, tuple)) or getattr(X, "ndim", 0) == 1
    return isinstance(next(iter(X), None) if in_a_row else X, str)


def _shares_of_levels(levels: Tensor, log_snr: Tensor) -> Tensor:
    """How much of each of the K ascending levels [K] makes up a log-SNR [B] between two: [B, K]."""
    at = log_snr.clamp(levels[0], levels[-1]).contiguous()
    upper = torch.searchsorted(levels, at).clamp(1, len(levels) - 1)
    place = upper - 1 + (at - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return (1 - (place[:, None] - torch.arange(len(levels), device=at.device)).abs()).clamp(min=0)
