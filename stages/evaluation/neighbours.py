"""The rows that are most like each row, by cosine, of features that may be larger than memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.matrices.matrix import BLOCK_BYTES, Matrix, Rows, iterate_rows, read_rows

# More rows at a time are no faster.
MAX_ROWS = 16_384
MAX_SQUARE = 4096
# What one cosine takes at most: itself, whether it is kept, a turned copy, its place when sorted.
_COSINE_BYTES = 32


class Nearest(NamedTuple):
    """The most similar of some other rows, best first.

    Attributes
    ----------
    cosines : ndarray of float32, shape (n, n_best)
        Minus infinity where there are fewer others.
    positions : ndarray of int64, shape (n, n_best)
        Among the others; -1 where there are fewer.
    """

    cosines: NDArray[np.float32]
    positions: NDArray[np.int64]


def find_nearest(  # noqa: PLR0913
    matrix: Matrix,
    rows: Rows,
    others: Rows | None = None,
    *,
    n_best: int = 1,
    memory_bytes: int,
    is_centred: bool = False,
) -> Nearest:
    """Find the rows that have the largest cosines with each row.

    Parameters
    ----------
    matrix : Matrix
        Finite values.
    rows : ndarray of int64, shape (n,)
    others : ndarray of int64, shape (m,), optional
        Rows to compare with; `rows` themselves by default, each with all but itself.
    memory_bytes : int
        What blocks of rows and of cosines may take. All is read once if the rows fit a quarter of
        it, or all cosines a half; otherwise the others are read again for each block of rows.
    is_centred : bool
        Whether the others' mean is taken off all rows first.

    Returns
    -------
    Nearest
    """
    n_others = len(rows if others is None else others)
    best = _Best(len(rows), n_best)
    needs_many_reads = 16 * len(rows) * matrix.shape[1] > memory_bytes
    if needs_many_reads and 16 * len(rows) * n_others <= memory_bytes:
        cosines = _compare_by_columns(matrix, rows, others, memory_bytes, is_centred=is_centred)
        best.offer(0, cosines, 0)
        return best.found
    source = rows if others is None else others
    mean = _average_rows(matrix, source) if is_centred else None
    reader = _Reader(matrix, mean)
    if others is None:
        _compare_all(reader, rows, best, memory_bytes)
    else:
        _compare_by_rows(reader, rows, others, best, memory_bytes)
    return best.found


class _Best:
    """The best of all that was offered so far, for each row."""

    def __init__(self, n_rows: int, n_best: int) -> None:
        self.found = Nearest(
            np.full((n_rows, n_best), -np.inf, np.float32), np.full((n_rows, n_best), -1, np.int64)
        )

    def offer(self, row: int, cosines: NDArray[np.float32], first: int) -> None:
        """Consider cosines, shape (a, b), of rows from `row` on with others from `first` on."""
        worst = self.found.cosines[row : row + len(cosines), -1]
        n_best = self.found.cosines.shape[1]
        if n_best == 1:
            columns = cosines.argmax(axis=1)
            rows = np.arange(len(cosines))
            is_better = cosines[rows, columns] > worst
            rows, columns = rows[is_better], columns[is_better]
        elif np.isneginf(worst).any():
            n_kept = min(n_best, cosines.shape[1])
            columns = np.argpartition(cosines, -n_kept, axis=1)[:, -n_kept:].ravel()
            rows = np.repeat(np.arange(len(cosines)), n_kept)
        else:
            # Hardly any: far less work than sorting.
            rows, columns = np.nonzero(cosines > worst[:, None])
        self._merge(row + rows, cosines[rows, columns], first + columns)

    def offer_columns(self, row: int, cosines: NDArray[np.float32], first: int) -> None:
        """Consider the same cosines, shape (b, a), as those of the others with the rows."""
        worst = self.found.cosines[row : row + cosines.shape[1], -1]
        if self.found.cosines.shape[1] == 1 or np.isneginf(worst).any():
            self.offer(row, np.ascontiguousarray(cosines.T), first)
            return
        others, rows = np.nonzero(cosines > worst)
        self._merge(row + rows, cosines[others, rows], first + others)

    def _merge(self, rows: Rows, cosines: NDArray[np.float32], positions: Rows) -> None:
        known, n_best = np.unique(rows), self.found.cosines.shape[1]
        all_rows = np.concatenate([rows, np.repeat(known, n_best)])
        values = np.concatenate([cosines, self.found.cosines[known].ravel()])
        places = np.concatenate([positions, self.found.positions[known].ravel()])
        places[np.isneginf(values)] = -1
        order = np.lexsort((places, -values, all_rows))
        starts = np.searchsorted(all_rows[order], known)
        kept = order[starts[:, None] + np.arange(n_best)]
        self.found.cosines[known] = values[kept]
        self.found.positions[known] = places[kept]


class _Reader(NamedTuple):
    """Reads rows, less a mean, scaled to length 1."""

    matrix: Matrix
    mean: NDArray[np.float32] | None

    def read(self, rows: Rows) -> NDArray[np.float32]:
        block: NDArray[np.float32] = self.matrix.read(rows).astype(np.float32, copy=False)
        return self._direct(block)

    def read_all(self, rows: Rows) -> NDArray[np.float32]:
        return self._direct(read_rows(self.matrix, rows, dtype=np.float32))

    def _direct(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.mean is not None:
            block -= self.mean
        block /= measure_lengths(block)[:, None]
        return block


def _compare_all(reader: _Reader, rows: Rows, best: _Best, memory_bytes: int) -> None:
    """Compare rows with each other, each pair once."""
    row_bytes = 4 * reader.matrix.shape[1]
    is_held = len(rows) * row_bytes <= memory_bytes // 4
    held = reader.read_all(rows) if is_held else None
    left = memory_bytes - (len(rows) * row_bytes if is_held else 0)
    step = max(1, min(MAX_SQUARE, left // (8 * row_bytes), math.isqrt(left // _COSINE_BYTES)))
    starts = range(0, len(rows), step)

    def read(start: int) -> NDArray[np.float32]:
        mine = slice(start, start + step)
        return reader.read(rows[mine]) if held is None else held[mine]

    for start in starts:
        block = read(start)
        cosines = block @ block.T
        np.fill_diagonal(cosines, -np.inf)
        best.offer(start, cosines, start)
        for other in range(start + step, len(rows), step):
            cosines = block @ read(other).T
            best.offer(start, cosines, other)
            best.offer_columns(other, cosines, start)


def _compare_by_rows(
    reader: _Reader, rows: Rows, others: Rows, best: _Best, memory_bytes: int
) -> None:
    row_bytes = 4 * reader.matrix.shape[1]
    n_rows = max(1, min(MAX_ROWS, memory_bytes // (4 * row_bytes)))
    n_others = max(
        1, min(memory_bytes // (8 * row_bytes), memory_bytes // (_COSINE_BYTES * n_rows))
    )
    for start in range(0, len(rows), n_rows):
        left = reader.read(rows[start : start + n_rows])
        for first in range(0, len(others), n_others):
            best.offer(start, left @ reader.read(others[first : first + n_others]).T, first)


def _compare_by_columns(
    matrix: Matrix, rows: Rows, others: Rows | None, memory_bytes: int, *, is_centred: bool
) -> NDArray[np.float32]:
    """Return all cosines, of rows so wide that they are read some columns at a time."""
    n_rows = len(rows)
    mine = slice(0, n_rows)
    theirs = mine if others is None else slice(n_rows, None)
    n_others = n_rows if others is None else len(others)
    products = np.zeros((n_rows, n_others), np.float32)
    squares: NDArray[np.float64] = np.zeros(n_rows + (0 if others is None else n_others))
    wanted = rows if others is None else np.concatenate([rows, others])
    for stored in matrix.iterate_columns(wanted, n_bytes=min(BLOCK_BYTES, memory_bytes // 8)):
        columns: NDArray[np.float32] = stored.astype(np.float32, copy=False)
        if is_centred:
            columns = columns - columns[theirs].mean(axis=0, dtype=np.float64).astype(np.float32)
        products += columns[mine] @ columns[theirs].T
        squares += np.einsum("ij,ij->i", columns, columns)
    lengths = np.sqrt(np.where(squares > 0, squares, 1)).astype(np.float32)
    products /= lengths[theirs]
    products /= lengths[mine, None]
    if others is None:
        np.fill_diagonal(products, -np.inf)
    return products


def compute_cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each row of one array with each of the other."""
    return left @ right.T / measure_lengths(left)[:, None] / measure_lengths(right)


def measure_lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row, 1 for zeros: their cosines are 0."""
    squares = np.einsum("ij,ij->i", rows, rows)
    return np.sqrt(np.where(squares > 0, squares, np.float32(1)))


def _average_rows(matrix: Matrix, rows: Rows) -> NDArray[np.float32]:
    total = np.zeros(matrix.shape[1])
    for _, block in iterate_rows(matrix, rows):
        total += block.sum(axis=0, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


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


def find_largest(cosines: NDArray[np.float64], mask: NDArray[np.bool_], *, n: int) -> Rows:
    """Return the places of the n largest cosines in a mask, the largest first, ties in order."""
    places = np.flatnonzero(mask)
    order = np.argsort(-cosines[places], kind="stable")[:n]
    nearest: Rows = places[order]
    return nearest
