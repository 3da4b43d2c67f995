"""From labelled texts to a head that knows its codec, its texts, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from latdiff.config import MIN_PER_CLASS
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.guessing import warn_of_guessing
from latdiff.heads.inputs import HeadError, fingerprints, values_of
from latdiff.heads.number import NumberHead
from latdiff.heads.regression import NOISE_TIMES, folds_of_labels
from latdiff.heads.variety import shared_runs
from latdiff.schedule import add_noise, alpha2_at, log_snr

if TYPE_CHECKING:
    from latdiff.codecs.protocol import Codec

BATCH = 256  # latents that are estimated at once
Estimate = Callable[[Tensor, float], Tensor]  # z [B, L, D] and its signal variance -> x0 [B, L, D]
H = TypeVar("H", AttributeHead, NumberHead)


@overload
def fit_head(
    codec: Codec, texts: Iterable[str], labels: Iterable[Any], head: None = None, *, name: str | None = None,
    estimate: Estimate | None = None, **settings: Any,
) -> AttributeHead: ...
@overload
def fit_head(
    codec: Codec, texts: Iterable[str], labels: Iterable[Any], head: H, *, name: str | None = None,
    estimate: Estimate | None = None, **settings: Any,
) -> H: ...
def fit_head(codec, texts, labels, head=None, *, name=None, estimate=None, **settings):
    """Encode labelled texts, fit a head on their latents, and report how good it is.

    A codec is enough: there need not be a denoiser yet. What comes back knows the codec, so that a pipeline with
    another one refuses it, and can be saved.

    Args:
        codec: whose latents the head is to read.
        texts: N texts.
        labels: N labels, or numbers for a NumberHead.
        head: what to fit, which itself stays as it is; an AttributeHead by default.
        name: of the attribute or number.
        estimate: a denoiser's estimate of x0, such as `pipe.estimate`, for the report of a head of clean latents.
        **settings: parameters of the head, such as C="cv" or noise_aware=True.

    Returns:
        The fitted head. `report` has the number of texts and held-out figures. Of labels: accuracy and calibration
        error (Guo et al. 2017) of five folds, beside them the share of the most frequent label ("majority"), and the
        accuracy at every noise level sigma, of a fifth of the texts, read as a guide reads them: at z_t if
        noise-aware, else at `estimate`, if there is one. With C="cv" they are a little too good: the same folds chose
        C. Of numbers: r2, the share of the variance explained. Texts with the same letters and digits are never on both
        sides of a fold; where there are any, "different_texts" counts them once. "alike" is the share of their runs
        of four words that two texts have in common.

    Warns:
        UserWarning: where the accuracy is less than two standard errors above the share of the most frequent label,
            or r2 is less than 4 / N, the square of two standard errors of a correlation.

    Raises:
        HeadError: for unequal lengths, missing labels, fewer than two classes, a class of fewer than five
            different texts, or settings out of range.
        TextError: of the codec, for texts that are empty or too long.
        ValueError: for settings that the head does not have.

    Examples:
        >>> from latdiff import NumberHead, fit_head, open_checkpoint
        >>> from latdiff.data.corpus import load_labelled
        >>> pipe = open_checkpoint("storyworld")
        >>> texts, labels = load_labelled("storyworld", label_column="sentiment", limit=400)
        >>> tone = fit_head(pipe.codec, texts, labels, name="tone")
        >>> words = fit_head(pipe.codec, texts, [len(text.split()) for text in texts], NumberHead(name="words"))
        >>> out = pipe(num_samples=2, guides=[tone.toward("positive"), words.toward(40)])
        >>> list(out.scores)
        ['tone=positive', 'words=40']
    """
    head = AttributeHead() if head is None else clone(head)
    head.set_params(**settings, **({} if name is None else {"name": name}))
    texts, labels = list(texts), values_of(head.name, labels)
    if len(texts) != len(labels):
        one = "number" if isinstance(head, NumberHead) else "label"
        raise HeadError(f"head {head.name!r}: {len(texts)} texts but {len(labels)} {one}s; give one {one} a text")
    labels = head.checked(labels, MIN_PER_CLASS)
    encoded, marks = codec.encode(texts), fingerprints(texts)
    head.fit(encoded, labels, marks.numpy())
    head.codec_digest, head.fitted_on = codec.digest, marks
    different = len(marks.unique())
    repeats = {"different_texts": different} if different < len(texts) else {}
    head.report = {"texts": len(texts), "alike": shared_runs(texts)} | repeats
    head.report |= _quality(head, encoded, labels, estimate)
    warn_of_guessing(head)
    return head


def _quality(head: AttributeHead | NumberHead, encoded: Tensor, labels: np.ndarray, estimate: Estimate | None) -> dict:
    """Settings and held-out figures of a head fitted on latents [N, L, D], as `fit_head` describes them."""
    if isinstance(head, NumberHead):
        return {"alpha": head.alpha, "r2": float(1 - head.sd**2 / labels.var())}
    latents = encoded.cpu()
    # the clean level of a noise-aware head is the head of clean latents
    plain = clone(head).set_params(C=head.C_, noise_aware=False)
    split = folds_of_labels(head.name, head.fitted_on.numpy(), labels, head.random_state)
    held_out = cross_val_predict(plain, latents.numpy(), labels, cv=split, method="predict_proba")
    found = {
        "C": head.C_, "features": head.features,
        "accuracy": float(accuracy_score(labels, head.classes_[held_out.argmax(1)])),
        "majority": float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        "calibration_error": calibration_error(held_out, np.searchsorted(head.classes_, labels)),
    }
    if head.noise_aware or estimate is not None:
        train, test = split[0]
        of_train = clone(head).set_params(C=head.C_).fit(latents[train], labels[train])
        found["accuracy_by_noise"] = accuracy_by_noise(of_train, encoded[test], labels[test], estimate)
    return found


def calibration_error(probabilities: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3) of probabilities [N, C]; `right` [N] are class indices."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == np.asarray(right)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (bin_of == b).mean() * abs(confidence[bin_of == b].mean() - correct[bin_of == b].mean())
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))


@torch.no_grad()
def accuracy_by_noise(
    head: AttributeHead, latents: Tensor, labels: np.ndarray, estimate: Estimate | None
) -> dict[str, float]:
    """Noise level sigma -> accuracy on noised latents [N, L, D]: at z_t of a noise-aware head, else at the estimate."""
    generator, found = torch.Generator().manual_seed(head.random_state), {}
    for time in NOISE_TIMES:
        alpha2 = alpha2_at("cosine", torch.full((len(latents),), time))
        parts = add_noise(latents.cpu(), torch.randn(latents.shape, generator=generator), alpha2).split(BATCH)
        guessed = torch.cat([_guess(head, part.to(latents), alpha2[: len(part)], estimate).cpu() for part in parts])
        sigma = (1 - alpha2[0]).sqrt().item()
        found[f"{sigma:.2f}"] = float(accuracy_score(labels, head.classes_[guessed.numpy()]))
    return found


def _guess(head: AttributeHead, z: Tensor, alpha2: Tensor, estimate: Estimate | None) -> Tensor:
    """Indices [B] of the likeliest classes of noised latents [B, L, D]."""
    if head.noise_aware or estimate is None:
        return head.log_prob(z, log_snr(alpha2)).argmax(1)
    return head.log_prob(estimate(z, alpha2[0].item())).argmax(1)
