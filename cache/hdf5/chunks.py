"""The chunks of a shard's features: which values each holds, where it lies, and its checksum.

HDF5 verifies its Fletcher-32 under its one lock, at half the speed at which memory is copied. That
checksum stays in the file, for whoever reads it with plain h5py. Ours lies beside it: one
`cache.hdf5.checksum` of the values in each chunk, in the chunks' order. `cache.hdf5.direct` reads
with it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5z
from numpy.typing import NDArray

from permafrost.cache.hdf5.checksum import sum_values
from permafrost.cache.hdf5.compression import list_filters

# What the Fletcher-32 filter appends to a chunk.
_FLETCHER_BYTES = 4
# HDF5 before 1.12.3 cannot list its chunks; some h5py 3.11 still come with it.
CAN_LIST = hasattr(h5py.h5d.DatasetID, "chunk_iter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is wanted of the chunks at one place in a row.

    Attributes
    ----------
    number : int
        Which of the chunks of a row.
    n_columns : int
        How many of a row's values the chunk holds.
    wanted, place : slice
        Which of them, and where they go among the columns that are wanted.
    """

    number: int
    n_columns: int
    wanted: slice
    place: slice

    @property
    def is_whole(self) -> bool:
        """Whether all of the chunk's columns are wanted."""
        return self.wanted == slice(0, self.n_columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkGrid:
    """How rows are cut into chunks, each of which holds one run of the values in C order.

    Attributes
    ----------
    n_rows : int
        Rows in one chunk; 1 where a row takes several.
    edges : tuple of int
        Where the chunks of a row begin among its flat values, and its length.
    """

    n_rows: int
    edges: tuple[int, ...]

    @property
    def n_columns(self) -> int:
        """The values in a row."""
        return self.edges[-1]

    @property
    def n_runs(self) -> int:
        """How many chunks lie side by side in a row."""
        return len(self.edges) - 1

    def cut_runs(self, begin: int, end: int) -> list[Run]:
        """Return which chunks of a row hold its columns from `begin` to `end`."""
        return [
            Run(
                number=number,
                n_columns=stop - start,
                wanted=slice(max(begin, start) - start, min(end, stop) - start),
                place=slice(max(begin, start) - begin, min(end, stop) - begin),
            )
            for number, (start, stop) in enumerate(itertools.pairwise(self.edges))
            if start < end and stop > begin
        ]

    def begin_chunks(self, n_rows: int) -> NDArray[np.int64]:
        """Return where each chunk of `n_rows` rows begins among their flat values."""
        starts = np.arange(0, n_rows, self.n_rows)[:, None] * self.n_columns
        return (starts + np.array(self.edges[:-1], np.int64)).reshape(-1)

    def sum_chunks(self, rows: NDArray[Any]) -> list[int]:
        """Return the checksum of each chunk in rows (n, *shape), which begin with a chunk."""
        flat = np.ascontiguousarray(rows).reshape(-1)
        starts = self.begin_chunks(len(rows)).tolist()
        cuts = itertools.pairwise([*starts, flat.size])
        return [sum_values(flat[start:stop]) for start, stop in cuts]


def lay_grid(row_shape: tuple[int, ...], chunk: tuple[int, ...]) -> ChunkGrid | None:
    """Lay chunks over rows; None where a chunk of that shape is not one run of the values."""
    n_columns = math.prod(row_shape)
    cut_axes = [axis for axis, n in enumerate(row_shape) if chunk[axis + 1] != n]
    if not cut_axes:
        return ChunkGrid(n_rows=chunk[0], edges=(0, n_columns)) if n_columns else None
    last = cut_axes[-1]
    if math.prod(chunk[: last + 1]) != 1:
        return None
    inner = math.prod(row_shape[last + 1 :])
    line, step = row_shape[last] * inner, chunk[last + 1] * inner
    starts = (range(begin, begin + line, step) for begin in range(0, n_columns, line))
    return ChunkGrid(n_rows=1, edges=(*itertools.chain(*starts), n_columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChunks:
    """Where the chunks of a dataset lie in its file, and what they must hold.

    Attributes
    ----------
    grid : ChunkGrid
    n_rows : int
    dtype : numpy.dtype
    offsets : ndarray of int64, shape (n_chunks,)
        In bytes.
    sums : ndarray of uint64, shape (n_chunks,)
    """

    grid: ChunkGrid
    n_rows: int
    dtype: np.dtype[Any]
    offsets: NDArray[np.int64]
    sums: NDArray[np.uint64]


def match_chunks(dataset: h5py.Dataset, sums: NDArray[np.uint64]) -> StoredChunks | None:
    """Find the chunks of a dataset that have these sums; None where only HDF5 can read them."""
    if not _is_plain(dataset):
        return None
    grid = lay_grid(dataset.shape[1:], dataset.chunks)
    starts, offsets = _list_chunks(dataset)
    if grid is None or len(sums) != len(starts):
        return None
    if not np.array_equal(starts, grid.begin_chunks(len(dataset))):
        return None
    return StoredChunks(
        grid=grid, n_rows=len(dataset), dtype=dataset.dtype, offsets=offsets, sums=sums
    )


def _is_plain(dataset: h5py.Dataset) -> bool:
    is_unpacked = list_filters(dataset) == [h5z.FILTER_FLETCHER32]
    return CAN_LIST and is_unpacked and dataset.dtype.isnative


def _list_chunks(dataset: h5py.Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each whole chunk begins among the flat values, rising, and in the file."""
    found: list[Any] = []
    dataset.id.chunk_iter(found.append)
    n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize + _FLETCHER_BYTES
    places = [
        (*chunk.chunk_offset, chunk.byte_offset)
        for chunk in found
        if chunk.size == n_bytes and not chunk.filter_mask
    ]
    table = np.array(places, np.int64).reshape(len(places), dataset.ndim + 1)
    strides = [math.prod(dataset.shape[axis:]) for axis in range(1, dataset.ndim + 1)]
    starts = table[:, :-1] @ np.array(strides, np.int64)
    order = np.argsort(starts)
    return starts[order], table[order, -1]
