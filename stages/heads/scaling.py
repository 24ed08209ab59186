"""Standardisation, learnt batch by batch so that no float64 copy of the matrix is ever made."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from stages.heads.head import iterate_batches
from stages.heads.settings import choice

SCALES = ("standard", "l2", "none")
SCALES_WANTED = f"one of {', '.join(SCALES)}"
parse_scale = choice(*SCALES)


def fit_standard_scaler(features: NDArray[Any]) -> Any:
    """Return a scikit-learn StandardScaler fitted on `features`.

    Its ``scale_`` is 1 where a column is constant, so that nothing is divided by zero.

    Parameters
    ----------
    features : ndarray of float32 or float16, shape (n_rows, n_features)
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for batch in iterate_batches(features):
        scaler.partial_fit(batch)
    return scaler
