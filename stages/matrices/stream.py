"""Shuffled batches of a matrix's rows, of which a bounded number is in memory at a time.

Which rows come in which batch depends on the rows and the seed alone: runs of neighbouring rows,
since scattered ones are slow to read, are drawn at random into mixes, whose rows are shuffled in
their turn. Memory only says how they are read: once where all of them fit, else anew in every pass,
into a buffer of as many of the next rows as there is room for, while a thread fills the next one.
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
# Rows mostly lie class by class: a mix of few runs would hold few classes.
RUNS_PER_MIX = 32
# Rows of less than this, as float32, are one mix. A buffer smaller than a mix holds parts of its
# runs, so that the same chunks of the file are read several times.
MIX_BYTES = 2**28
# A block is small enough for a processor's cache, and wide rows still come in blocks worth a
# product of matrices.
BLOCK_VALUES, LEAST_BLOCK_ROWS = 2**13, 32
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
        """How many rows to take at a time where it does not matter, whatever the memory."""
        return count_block_rows(self.n_features)

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
        n_mix = _round_down(max(n_rows, MIX_BYTES // (4 * self.n_features)), unit=n_rows)
        order = positions if rng is None else self._shuffle(positions, n_mix, rng)
        if self.held is not None:
            for taken in _split(order, n_rows):
                yield taken, _take(self.held, taken)
            return
        n_buffer = int(BUFFER_SHARE * self.n_bytes) // count_row_bytes(self.matrix)
        # A buffer has whole mixes where it holds one, whose rows are runs; else whole batches.
        n_buffer = _round_down(n_buffer, unit=n_mix if n_buffer > n_mix else n_rows)
        reads = (partial(self._fill, plan) for plan in _split(order, n_buffer))
        for plan, buffer in read_ahead(reads):
            places = np.argsort(np.argsort(plan))
            for taken, held in zip(_split(plan, n_rows), _split(places, n_rows), strict=True):
                yield taken, _take(buffer, held)
            del buffer  # or it would live on while the one after the next is being read

    def _shuffle(self, positions: Rows, n_mix: int, rng: np.random.Generator) -> Rows:
        if len(positions) > n_mix:
            n_run = RUN_BYTES // (4 * self.n_features)
            runs = _split(positions, min(n_run, n_mix // RUNS_PER_MIX))
            positions = np.concatenate([runs[i] for i in rng.permutation(len(runs))])
        return np.concatenate([rng.permutation(mix) for mix in _split(positions, n_mix)])

    def _fill(self, plan: Rows) -> tuple[Rows, NDArray[Any]]:
        """Read the rows of a plan in ascending order."""
        return plan, _read(self.matrix, self.rows[np.sort(plan)], self.n_bytes)


def open_stream(matrix: Matrix, rows: Rows, *, n_bytes: int) -> RowStream:
    """Return a stream of `rows`, shape (n_rows,), ascending; it reads them now if all fit."""
    fits = len(rows) * count_row_bytes(matrix) <= 2 * BUFFER_SHARE * n_bytes
    held = _read(matrix, rows, n_bytes) if fits else None
    return RowStream(matrix=matrix, rows=rows, n_bytes=n_bytes, held=held)


def count_row_bytes(matrix: Matrix) -> int:
    """Return what one row takes as it is stored."""
    return matrix.shape[1] * matrix.dtype.itemsize


def count_block_rows(n_features: int) -> int:
    """Return what `RowStream.block_rows` says."""
    return max(LEAST_BLOCK_ROWS, BLOCK_VALUES // n_features)


def count_least_bytes(n_features: int, *, batch_rows: int = 1) -> int:
    """Return what two buffers of a batch, or of a block and what is made of it, take at least."""
    return n_features * max(16 * batch_rows, 32 * count_block_rows(n_features))


def _read(matrix: Matrix, rows: Rows, n_bytes: int) -> NDArray[Any]:
    return read_rows(matrix, rows, dtype=matrix.dtype, n_bytes=min(BLOCK_BYTES, n_bytes // 16))


def _round_down(number: int, *, unit: int) -> int:
    return number - number % unit if number > unit else number


def _split(positions: Rows, n_each: int) -> list[Rows]:
    return np.split(positions, np.arange(max(1, n_each), len(positions), max(1, n_each)))


def _take(buffer: NDArray[Any], places: Rows) -> Features:
    return np.take(buffer, places, axis=0).astype(np.float32, copy=False)


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
