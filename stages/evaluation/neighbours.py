"""Rows of features that are most alike, by the angle between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.matrices.matrix import Matrix, Rows, iterate_rows


def measure_cosines(matrix: Matrix, rows: Rows, query: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine between each of some rows and another one; 0 where either is zeros.

    Parameters
    ----------
    matrix : Matrix
        Read block by block.
    rows : ndarray of int64, shape (m,)
    query : ndarray of float, shape (n_features,)

    Returns
    -------
    ndarray of float64, shape (m,)
    """
    cosines = np.zeros(len(rows))
    wanted = query.astype(np.float64)
    wanted /= np.linalg.norm(wanted) or 1.0
    for positions, block in iterate_rows(matrix, rows):
        values = block.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
        cosines[positions] = values @ wanted / np.where(lengths == 0, 1, lengths)
    return cosines


def find_nearest(cosines: NDArray[np.float64], mask: NDArray[np.bool_], *, n: int) -> Rows:
    """Return the places of the n largest cosines in a mask, the largest first, ties in order."""
    places = np.flatnonzero(mask)
    order = np.argsort(-cosines[places], kind="stable")[:n]
    nearest: Rows = places[order]
    return nearest
