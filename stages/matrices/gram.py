"""An exact small copy of rows that are too wide for memory, made of their inner products.

What learns from inner products alone (every linear model with an L2 penalty, nearest neighbours,
nearest means) cannot tell the rows X (m × d) from X V, V with orthonormal columns that span the
rows. The Gram matrix K = X Xᵀ (m × m) takes one pass over the columns. Its Cholesky factorisation
with complete pivoting, K = Z Zᵀ, is such a copy: Z = X V has at most m columns. Weights w of Z are
the weights V w of X, and V = X_pᵀ L⁻ᵀ, where X_p are the pivot rows and L = Z_p is triangular, so
that they come back by one more pass. (Higham, "Analysis of the Cholesky decomposition of a
semi-definite matrix", 1990. The eigenvectors of K would do as well, at 5 times the price for 1,000
rows, 11 times for 3,000.)

All of it is float64. In float32 the product is twice as fast, but its rounding, 1e-7 of the
largest eigenvalue, hides directions that uncentred features, whose mean dwarfs all else, need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.matrices.joined import split_layers
from permafrost.stages.matrices.matrix import Matrix, Rows
from permafrost.stages.matrices.scaling import ColumnStatistics, check_finite, standardise_block

# One float64 slice of columns: small enough for the processor's cache, and wide enough for BLAS.
SLICE_BYTES = 4 * 2**20
MIN_SLICE_COLUMNS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Gram:
    """Inner products of rows.

    Attributes
    ----------
    upper : ndarray of float64, shape (m, m), in Fortran order
        The products in its upper triangle, zeros below.
    counts : ndarray of float64, shape (m,)
        How often each row is in the training set.
    statistics : ColumnStatistics or None
        What the columns were standardised with.
    lengths : ndarray of float64, shape (n_layers, m), or None
        What the part of each row that comes from one layer was divided by.
    """

    upper: NDArray[np.float64]
    counts: NDArray[np.float64]
    statistics: ColumnStatistics | None
    lengths: NDArray[np.float64] | None = None

    def add(self, columns: slice, block: NDArray[np.float64]) -> None:
        """Add the products of some columns."""
        from scipy.linalg.blas import dsyrk

        if self.statistics:
            block, found = standardise_block(block, self.counts)
            self.statistics.mean[columns] = found.mean
            self.statistics.variance[columns] = found.variance
        # In place, and half the work of a product: numpy would add a temporary matrix.
        dsyrk(1.0, block.T, beta=1.0, c=self.upper, trans=1, overwrite_c=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedRows:
    """Rows in as few columns as they span.

    Attributes
    ----------
    values : ndarray of float64, shape (m, max(rank, 1))
        Their inner products are those of the rows.
    pivots : ndarray of int64, shape (rank,)
        Positions of the rows that span all; ``values[pivots]`` is lower triangular.
    statistics, lengths
        As in `Gram`.
    """

    values: NDArray[np.float64]
    pivots: Rows
    statistics: ColumnStatistics | None
    lengths: NDArray[np.float64] | None = None

    def restore(
        self, weights: NDArray[np.float64], matrix: Matrix, rows: Rows, *, n_bytes: int
    ) -> NDArray[np.float64]:
        """Bring weights of the columns of `values` back to the features.

        Parameters
        ----------
        weights : ndarray of float64, shape (k, n_columns)
        rows : ndarray of int64, shape (m,)
            Those that were reduced.
        n_bytes : int
            As for `Matrix.iterate_columns`.

        Returns
        -------
        ndarray of float64, shape (k, n_features)
        """
        from scipy.linalg import solve_triangular

        rank = len(self.pivots)
        dual = np.zeros((len(rows), len(weights)))
        triangle = self.values[self.pivots, :rank]
        dual[self.pivots] = solve_triangular(triangle, weights[:, :rank].T, lower=True, trans="T")
        restored = np.empty((len(weights), matrix.shape[1]))
        start = 0
        for layer, lengths in self._list_layers(matrix):
            own = (dual / lengths).T
            for columns, block in iterate_slices(layer, rows, n_bytes=n_bytes):
                there = slice(start + columns.start, start + columns.stop)
                mean = self.statistics.mean[there] if self.statistics else 0.0
                restored[:, there] = own @ (block - mean)
            start += layer.shape[1]
        if self.statistics:
            restored /= self.statistics.deviation
        return restored

    def _list_layers(self, matrix: Matrix) -> list[tuple[Matrix, Any]]:
        if self.lengths is None:
            return [(matrix, 1.0)]
        layers = [layer for layer, _ in split_layers(matrix, None)]
        return list(zip(layers, self.lengths[:, :, np.newaxis], strict=True))


def iterate_slices(
    matrix: Matrix, rows: Rows, *, n_bytes: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield all columns of `rows`, a few at a time, as float64 that is the caller's own.

    Yields
    ------
    columns : slice
    block : ndarray of float64, shape (m, k)
    """
    step = max(MIN_SLICE_COLUMNS, SLICE_BYTES // (8 * len(rows)))
    start = 0
    for block in matrix.iterate_columns(rows, n_bytes=n_bytes):
        for first in range(0, block.shape[1], step):
            values = block[:, first : first + step].astype(np.float64, order="C")
            yield slice(start + first, start + first + values.shape[1]), values
        start += block.shape[1]


def build_grams(
    matrix: Matrix, rows: Rows, trains: Sequence[Rows | None], *, n_bytes: int
) -> list[Gram]:
    """Multiply rows with each other, in one pass for all training sets.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
    trains : sequence of (ndarray of int64 or None)
        For each, the positions in `rows` that the columns are standardised by; None leaves the
        columns as they are.
    n_bytes : int
        As for `Matrix.iterate_columns`.

    Raises
    ------
    InputError
        A row holds NaN or infinity.
    """
    grams = [_make_gram(matrix, len(rows), train) for train in trains]
    sums = np.zeros(len(rows))
    with np.errstate(invalid="ignore"):
        for columns, block in iterate_slices(matrix, rows, n_bytes=n_bytes):
            sums += block.sum(axis=1)
            for gram in grams:
                gram.add(columns, block)
    check_finite(sums, rows)
    return grams


def _make_gram(matrix: Matrix, n_rows: int, train: Rows | None) -> Gram:
    counts, statistics = np.zeros(n_rows), None
    if train is not None:
        counts += np.bincount(train, minlength=n_rows)
        mean, variance = np.empty((2, matrix.shape[1]))
        statistics = ColumnStatistics(mean=mean, variance=variance, n_rows=len(train))
    upper = np.zeros((n_rows, n_rows), order="F")
    return Gram(upper=upper, counts=counts, statistics=statistics)


def sum_grams(grams: Iterable[Gram], *, by_layer: bool) -> Gram:
    """Add the inner products of layers, which are those of the layers side by side.

    Parameters
    ----------
    grams : iterable of Gram
        At least one, of columns as they are; all are overwritten.
    by_layer : bool
        Whether each row is given the length 1 in each layer first; a row of zeros stays.
    """
    total: NDArray[np.float64] | None = None
    lengths = []
    for gram in grams:
        if by_layer:
            own = np.sqrt(gram.upper.diagonal())
            lengths.append(np.where(own == 0, 1, own))
            np.divide(gram.upper, lengths[-1], out=gram.upper)
            np.divide(gram.upper, lengths[-1][:, np.newaxis], out=gram.upper)
        total = gram.upper if total is None else np.add(total, gram.upper, out=total)
    return Gram(
        upper=cast(NDArray[np.float64], total),
        counts=gram.counts,
        statistics=None,
        lengths=np.stack(lengths) if by_layer else None,
    )


def factor_gram(gram: Gram) -> ReducedRows:
    """Factor K = Z Zᵀ, overwriting `gram`; what is below the rounding of K is left out of Z."""
    from scipy.linalg.lapack import dpstrf

    n_rows = len(gram.upper)
    rounding = n_rows * np.finfo(np.float64).eps * gram.upper.diagonal().max()
    upper, order, rank, _ = dpstrf(gram.upper, tol=rounding, overwrite_a=1)
    order = order.astype(np.int64) - 1
    values = np.zeros((n_rows, max(rank, 1)))
    values[order, :rank] = upper[:rank].T
    return ReducedRows(
        values=values, pivots=order[:rank], statistics=gram.statistics, lengths=gram.lengths
    )
