"""Where do latents lie by a head's labels? On the plane of two principal components, with the head's directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif
from torch import Tensor

from latdiff.heads.attribute import AttributeHead

LOOKED_AT = 10  # of the principal components, the first


@dataclass(frozen=True)
class Projection:
    """N latents on a plane.

    Attributes:
        points: of the latents, [N, 2].
        labels: N of them.
        components: which two principal components span the plane, from 1 on.
        shares: of the latents' variance that each of the two has.
        directions: label -> where the head pushes towards it, [2]: a vector of length 1 among the latents, as it falls
            on the plane.
    """

    points: np.ndarray
    labels: np.ndarray
    components: tuple[int, int]
    shares: tuple[float, float]
    directions: dict[Any, np.ndarray]


def project(latents: Tensor, labels: np.ndarray, head: AttributeHead) -> Projection:
    """Those two of the first ten principal components along which the labels differ most, and the latents on them.

    Args:
        latents: [N, L, D].
        labels: N of them, of the head's.
        head: whose directions are projected: for each label its weights, less the mean of all labels'.

    Returns:
        The projection.
    """
    flat = latents.flatten(1).cpu().numpy()
    fitted = PCA(min(LOOKED_AT, *flat.shape), svd_solver="full").fit(flat)
    scores = fitted.transform(flat)[:, : max(2, int((fitted.explained_variance_ratio_ > 1e-9).sum()))]
    differ = f_classif(scores, labels)[0] if len(np.unique(labels)) > 1 else np.zeros(scores.shape[1])
    one, two = sorted(np.argsort(-differ, kind="stable")[:2].tolist())
    weight = head.weight[-1].flatten(1).cpu().numpy()
    weight = weight - weight.mean(0)
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True).clip(1e-12)
    towards = unit @ fitted.components_[[one, two]].T
    shares = fitted.explained_variance_ratio_
    return Projection(scores[:, [one, two]], labels, (one + 1, two + 1), (float(shares[one]), float(shares[two])),
                      dict(zip(head.classes_.tolist(), towards, strict=True)))
