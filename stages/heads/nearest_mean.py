"""The ``nearest_mean`` head: the class whose mean is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads.settings import layer_scale_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestMeanSettings:
    """Settings of a nearest-mean classifier.

    Parameters
    ----------
    scale
        As in `LogregSettings`.
    """

    scale: str = layer_scale_setting()


def fit_nearest_mean(
    settings: NearestMeanSettings, values: NDArray[Any], targets: Targets, *, seed: int
) -> Any:
    """Return the class means as a linear discriminant; `seed` changes nothing.

    Every class is a spherical Gaussian around its mean, all as likely and of one variance, so
    that the most probable class is that of the nearest mean. The variance is that of the rows
    within their classes, along the directions in which the means differ and a class can be told
    from another at all: over all directions it would be far too small wherever there are many,
    and would depend on how many columns the rows are written in.

    Returns
    -------
    LinearDiscriminantAnalysis
        Whose weights are the means, and whose covariance matrix is the variance times identity.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes, codes = np.unique(targets.values, return_inverse=True)
    means = np.stack([_average(values[codes == code]) for code in range(len(classes))])
    # Moved to the middle of the means, so that no large numbers cancel.
    middle = means.mean(axis=0)
    means -= middle
    weights = means / _measure_variance(values, codes, means)
    bias = -(weights * (means / 2 + middle)).sum(axis=1)
    discriminant = LinearDiscriminantAnalysis(priors=np.full(len(classes), 1 / len(classes)))
    discriminant.classes_ = classes
    discriminant.n_features_in_ = values.shape[1]
    is_binary = len(classes) == 2
    discriminant.coef_ = np.diff(weights, axis=0) if is_binary else weights
    discriminant.intercept_ = np.diff(bias) if is_binary else bias
    return discriminant


def _average(rows: NDArray[Any]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
    return mean


def _measure_variance(
    values: NDArray[Any], codes: NDArray[np.int64], means: NDArray[np.float64]
) -> float:
    """Return the variance within classes along the span of `means`, which sum to zero."""
    lengths, turns = np.linalg.eigh(means @ means.T)
    kept = lengths > lengths[-1] * len(means) * np.finfo(np.float64).eps
    if not kept.any():
        return 1.0  # all means are one, and so are the probabilities
    directions = (turns[:, kept] / np.sqrt(lengths[kept])).T @ means
    along = values @ directions.T
    along -= np.stack([_average(along[codes == c]) for c in range(len(means))])[codes]
    n_free = max(1, len(values) - len(means)) * kept.sum()
    smallest = lengths[-1] * np.finfo(np.float64).eps
    return float(max(np.square(along).sum() / n_free, smallest))
