"""Shuffled batches of a matrix's rows, of which a bounded number is in memory at a time.

Rows that fit into the given memory are read once. Others are read anew in every pass: runs of
neighbouring rows, since scattered ones are slow to read, are drawn at random into a buffer, whose
rows are shuffled in their turn, while a thread fills the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError
from permafrost.stages.matrices.budget import format_bytes
from permafrost.stages.matrices.matrix import BLOCK_BYTES, Matrix, Rows, read_rows
from permafrost.stages.matrices.scaling import check_finite

T = TypeVar("T")
Features = NDArray[np.float32]

# One run is one stretch of the file; smaller ones are slower to read.
RUN_BYTES = 2**20
# Rows mostly lie class by class: a buffer of few runs would hold few classes.
RUNS_PER_BUFFER = 32
# Two buffers take five eighths of the memory; the rest is for a read, and what is made of a batch.
BUFFER_SHARE = 5 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStream:
    """Rows of a matrix that are gone over many times; made by `open_stream`.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        Ascending. Elsewhere a row is known by its position in here.
    n_bytes : int
        Most memory that is taken.
    held : ndarray of the matrix's dtype, shape (n_rows, n_features), or None
        All of the rows, where they fit.
    """

    matrix: Matrix
    rows: Rows
    n_bytes: int
    held: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """The length of one row."""
        return self.matrix.shape[1]

    @property
    def block_rows(self) -> int:
        """How many rows make a batch that is large but bounded."""
        return max(1, min(BLOCK_BYTES, self.n_bytes // 32) // (4 * self.n_features))

    def batches(
        self, positions: Rows, n_rows: int, *, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[Rows, Features]]:
        """Yield each row once.

        Parameters
        ----------
        positions : ndarray of int64, shape (m,)
            Which rows; ascending.
        n_rows : int
            How many to a batch; the last one may have fewer, and so may others where memory holds
            no whole batch.
        rng : Generator, optional
            Shuffles; without one the rows come in order.

        Yields
        ------
        positions : ndarray of int64, shape (n_rows,)
        features : ndarray of float32, shape (n_rows, n_features)
            The caller's own.
        """
        if self.held is not None:
            yield from _cut(self.held, positions, n_rows, rng)
            return
        plans = self._plan_buffers(positions, n_rows, rng)
        for plan, buffer in read_ahead(partial(self._fill, plan) for plan in plans):
            for places, features in _cut(buffer, np.arange(len(plan)), n_rows, rng):
                yield plan[places], features
            del buffer  # or it would live on while the one after the next is being read

    def _plan_buffers(
        self, positions: Rows, n_rows: int, rng: np.random.Generator | None
    ) -> list[Rows]:
        """Share out the positions to buffers, each of whole batches if it holds one; ascending."""
        row_bytes = count_row_bytes(self.matrix)
        n_buffer = max(1, int(BUFFER_SHARE * self.n_bytes) // row_bytes)
        if n_buffer > n_rows:
            n_buffer -= n_buffer % n_rows
        if rng is not None:
            runs = _split(positions, min(RUN_BYTES // row_bytes, n_buffer // RUNS_PER_BUFFER))
            positions = np.concatenate([runs[i] for i in rng.permutation(len(runs))])
        return [np.sort(part) for part in _split(positions, n_buffer)]

    def _fill(self, plan: Rows) -> tuple[Rows, NDArray[Any]]:
        return plan, _read(self.matrix, self.rows[plan], self.n_bytes)


def open_stream(matrix: Matrix, rows: Rows, *, n_bytes: int) -> RowStream:
    """Return a stream of `rows`, shape (n_rows,), ascending; it reads them now if all fit."""
    fits = len(rows) * count_row_bytes(matrix) <= 2 * BUFFER_SHARE * n_bytes
    held = _read(matrix, rows, n_bytes) if fits else None
    return RowStream(matrix=matrix, rows=rows, n_bytes=n_bytes, held=held)


def count_row_bytes(matrix: Matrix) -> int:
    """Return what one row takes as it is stored."""
    return matrix.shape[1] * matrix.dtype.itemsize


def _read(matrix: Matrix, rows: Rows, n_bytes: int) -> NDArray[Any]:
    return read_rows(matrix, rows, dtype=matrix.dtype, n_bytes=min(BLOCK_BYTES, n_bytes // 16))


def _split(positions: Rows, n_each: int) -> list[Rows]:
    return np.split(positions, np.arange(max(1, n_each), len(positions), max(1, n_each)))


def _cut(
    buffer: NDArray[Any], places: Rows, n_rows: int, rng: np.random.Generator | None
) -> Iterator[tuple[Rows, Features]]:
    """Yield batches of the rows at `places` of a buffer."""
    order = places if rng is None else rng.permutation(places)
    for start in range(0, len(order), n_rows):
        taken = order[start : start + n_rows]
        yield taken, np.take(buffer, taken, axis=0).astype(np.float32, copy=False)


def read_ahead(reads: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield what each of `reads` returns, in order, while a thread is at the next one.

    What a read raises is raised here. The thread ends with the iterator, abandoned or not.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming: deque[Future[T]] = deque()
        for read in reads:
            coming.append(reader.submit(read))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def learn_columns(
    stream: RowStream, learnt: Rows, *, prepare: Callable[[Features], Features] | None = None
) -> Any:
    """Look at every row, and return a scikit-learn StandardScaler fitted on those at `learnt`.

    Its ``scale_`` is 1 where a column is constant, so that nothing is divided by zero.

    Parameters
    ----------
    stream : RowStream
    learnt : ndarray of int64
        Positions.
    prepare : callable, optional
        What is done to a batch of rows first.

    Raises
    ------
    InputError
        A row, whether learnt from or not, holds NaN or infinity.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    row_sums = np.empty(len(stream))
    is_learnt = np.zeros(len(stream), np.bool_)
    is_learnt[learnt] = True
    for positions, features in stream.batches(np.arange(len(stream)), stream.block_rows):
        with np.errstate(invalid="ignore"):
            row_sums[positions] = features.sum(axis=1, dtype=np.float64)
        taken = features[is_learnt[positions] & np.isfinite(row_sums[positions])]
        if len(taken):
            scaler.partial_fit(taken if prepare is None else prepare(taken))
    check_finite(row_sums, stream.rows)
    return scaler


def leave_for_rows(memory_bytes: int, *, taken_bytes: int, least_bytes: int, remedy: str) -> int:
    """Return what a fit that takes `taken_bytes` itself leaves of the memory for its rows.

    Raises
    ------
    InputError
        That is less than `least_bytes`; `remedy` is what to do other than give more memory.
    """
    needed = taken_bytes + least_bytes
    if needed > memory_bytes:
        raise InputError(
            f"this fit takes {format_bytes(needed)}, more than the {format_bytes(memory_bytes)}"
            f" allowed; give it --memory {format_bytes(needed)}, or {remedy}"
        )
    return memory_bytes - taken_bytes
