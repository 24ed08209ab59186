"""Scalers of feature columns and rows, learnt from training rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import Rows

SCALES = ("standard", "l2", "none")
# Of heads that know where one layer ends and the next begins, as an exported network does not.
LAYER_SCALES = (*SCALES, "layer")

# What scikit-learn sees at a time: it makes several float64 copies of it.
BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """Mean and variance of columns over training rows.

    Attributes
    ----------
    mean, variance : ndarray of float64, shape (n_columns,)
    n_rows : int
        How many rows they are of.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    n_rows: int

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Return what to divide by: 1 where a column is constant but for rounding."""
        deviation = np.sqrt(self.variance)
        rounding = self.n_rows * np.finfo(np.float64).eps * np.abs(self.mean)
        deviation[deviation <= rounding] = 1.0
        return deviation


def standardise_block(
    block: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ColumnStatistics]:
    """Centre columns and divide them by their deviation, both those of the training rows.

    Parameters
    ----------
    block : ndarray of float64, shape (m, k)
    counts : ndarray of float64, shape (m,)
        How often each row is in the training set, mostly 0 or 1: a weighted sum needs no copy of
        the training rows, and takes a fifth of scikit-learn's time.

    Returns
    -------
    standardised : ndarray of float64, shape (m, k)
    statistics : ColumnStatistics
    """
    n_rows = int(counts.sum())
    # Not a BLAS product: waking its threads for so little takes longer than the sum.
    mean = np.einsum("i,ij->j", counts, block) / n_rows
    values = block - mean
    variance = np.einsum("i,ij,ij->j", counts, values, values) / n_rows
    statistics = ColumnStatistics(mean=mean, variance=variance, n_rows=n_rows)
    values /= statistics.deviation
    return values, statistics


def make_standard_scaler(statistics: ColumnStatistics) -> Any:
    """Return the scikit-learn StandardScaler that has these statistics."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_ = statistics.mean
    scaler.var_ = statistics.variance
    scaler.scale_ = statistics.deviation
    scaler.n_samples_seen_ = np.int64(statistics.n_rows)
    scaler.n_features_in_ = len(statistics.mean)
    return scaler


def fit_standard_scaler(values: NDArray[np.float32], train: Rows) -> Any:
    """Return a scikit-learn StandardScaler fitted on the rows `train`, batch by batch."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    step = max(1, BATCH_BYTES // (4 * values.shape[1]))
    for start in range(0, len(train), step):
        scaler.partial_fit(values[train[start : start + step]])
    return scaler


def scale_each_row(
    values: NDArray[Any], scale: str, *, n_features: int, copy: bool
) -> tuple[NDArray[Any], Any]:
    """Scale each row by itself, for which no training set is needed.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (m, k)
    scale : {"l2", "none"}
    n_features : int
        What the scaler is to expect; another number than k where rows are reduced.
    copy : bool
        False changes `values`.

    Returns
    -------
    scaled : ndarray, shape (m, k)
    scaler : Normalizer or "passthrough"
    """
    from sklearn.preprocessing import Normalizer, normalize

    if scale == "none":
        return values, "passthrough"
    scaler = Normalizer().fit(np.zeros((1, n_features), np.float32))
    return normalize(values, copy=copy), scaler


def scale_layers(values: NDArray[Any], widths: Sequence[int], *, copy: bool = True) -> NDArray[Any]:
    """Give the part of each row that comes from one layer the length 1; zeros stay zeros.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (m, sum of widths)
    widths : sequence of int
        How many features each layer has.
    copy : bool
        False changes `values`.
    """
    scaled = values.copy() if copy else values
    for layer in np.split(scaled, np.cumsum(widths)[:-1], axis=1):
        # In float64: a float32 sum of hundreds of thousands of squares has lost two digits.
        lengths = np.sqrt(np.einsum("ij,ij->i", layer, layer, dtype=np.float64))
        divisors = np.where(lengths == 0, 1, lengths).astype(layer.dtype)
        np.divide(layer, divisors[:, np.newaxis], out=layer)
    return scaled


def check_finite(row_sums: NDArray[np.float64], rows: Rows) -> None:
    """Raise InputError unless each row's sum, and so each of its values, is finite.

    Parameters
    ----------
    row_sums : ndarray of float64, shape (m,)
    rows : ndarray of int64, shape (m,)
        What messages call them.
    """
    broken = rows[~np.isfinite(row_sums)]
    if len(broken):
        raise InputError(
            f"{len(broken)} of {len(rows)} rows of features hold NaN or infinity, the first is"
            f" row {broken[0]}; extract them again, in float32 if this was a half precision"
        )
