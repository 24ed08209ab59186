"""Read rows straight out of a file's chunks, each chunk checked before a value of it is used."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from cache.chunks import Run, StoredChunks

# One thread for each so many bytes. Each goes through a stretch of its own, and releases the
# interpreter's lock while it reads and sums.
_THREAD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """An open file, by its descriptor, and the chunks in it."""

    descriptor: int
    chunks: StoredChunks


def read_chunks(
    file: RawFile,
    rows: NDArray[np.int64],
    *,
    positions: NDArray[np.int64],
    columns: tuple[int, int],
    out: NDArray[Any],
) -> None:
    """Read some columns of rows in any order, repeated ones too, into ``out[positions]``.

    Parameters
    ----------
    file : RawFile
    rows, positions : ndarray of int64, shape (m,)
        At least one of each.
    columns : tuple of int
        ``start, stop`` among the flat values of a row.
    out : ndarray of the chunks' dtype, shape (n, stop - start)

    Raises
    ------
    OSError
        A chunk does not have its sum, or cannot be read.
    """
    order = np.argsort(rows, kind="stable")
    reading = _Reading(
        file=file,
        rows=rows[order],
        positions=positions[order],
        runs=file.chunks.grid.cut_runs(*columns),
        out=out,
    )
    groups = reading.group_rows()
    n_threads = _count_threads(len(groups), len(rows) * out.shape[1] * out.itemsize)
    cuts = [len(groups) * number // n_threads for number in range(n_threads + 1)]
    own, *others = (groups[start:stop] for start, stop in itertools.pairwise(cuts))
    with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="read-chunks") as threads:
        coming = [threads.submit(reading.read, part) for part in others]
        reading.read(own)
    for part in coming:
        part.result()


def _count_threads(n_groups: int, n_bytes: int) -> int:
    return max(1, min(n_groups, n_bytes // _THREAD_BYTES, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What `read_chunks` was told: the rows rising, the columns as parts of chunks."""

    file: RawFile
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    runs: list[Run]
    out: NDArray[Any]

    def group_rows(self) -> list[slice]:
        """Cut the rows where the next one lies in other chunks."""
        cuts = np.flatnonzero(np.diff(self.rows // self.file.chunks.grid.n_rows)) + 1
        edges = itertools.pairwise([0, *cuts.tolist(), len(self.rows)])
        return [slice(start, stop) for start, stop in edges]

    def read(self, groups: Sequence[slice]) -> None:
        """Read the chunks of some of the groups."""
        n_values = self.file.chunks.grid.n_rows * max(run.n_columns for run in self.runs)
        # Never touched, and so without cost, where all chunks are read into their places.
        spare = np.empty(n_values, self.out.dtype)
        for group in groups:
            self._read_group(self.rows[group], self.positions[group], spare)

    def _read_group(
        self, rows: NDArray[np.int64], positions: NDArray[np.int64], spare: NDArray[Any]
    ) -> None:
        grid = self.file.chunks.grid
        line = int(rows[0]) // grid.n_rows
        n_rows = min(grid.n_rows, self.file.chunks.n_rows - line * grid.n_rows)
        sources, places = as_index(rows - line * grid.n_rows), as_index(positions)
        is_whole = len(rows) == n_rows and isinstance(sources, slice) and isinstance(places, slice)
        for run in self.runs:
            part, number = self.out[:, run.place], line * grid.n_runs + run.number
            if is_whole and run.is_whole and part[places].flags.c_contiguous:
                self._read_checked(number, part[places])
            else:
                held = spare[: n_rows * run.n_columns].reshape(n_rows, run.n_columns)
                self._read_checked(number, held)
                part[places] = held[sources, run.wanted]

    def _read_checked(self, number: int, values: NDArray[Any]) -> None:
        _fill(self.file.descriptor, values, int(self.file.chunks.offsets[number]))
        if xxh3_64_intdigest(values.data) != self.file.chunks.sums[number]:
            raise OSError(f"chunk {number} of its features differs from its checksum")


def _fill(descriptor: int, values: NDArray[Any], offset: int) -> None:
    """Read a contiguous array from a file."""
    left = values.data.cast("B")
    while left:
        n_read = os.preadv(descriptor, [left], offset)
        if not n_read:
            raise OSError("it ends too early")
        left, offset = left[n_read:], offset + n_read


def as_index(indices: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return a slice where the indices follow each other: with it, NumPy copies nothing."""
    if len(indices) and (len(indices) == 1 or (np.diff(indices) == 1).all()):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
