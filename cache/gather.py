"""Read rows out of shards, in any order, with every check there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cache.errors import DamagedError
from cache.shard import open_shard
from cache.store import RowLocations

# What part of each row is read: a slice of each of its axes, () for all of it.
Block = tuple[slice, ...]

# One read of a shard; larger ones are no faster and this bounds the memory of scattered reads.
READ_BYTES = 32 * 1024 * 1024
# Scattered rows are read here first, then put in their places: what fits a processor's cache.
_SCATTERED_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows of one feature set, n of them, all of which exist.

    Attributes
    ----------
    folder : Path
        Where the shards lie.
    key : str
        The feature set's key.
    locations : RowLocations
    digests : ndarray of uint8, shape (n, 32)
        Which image each row must belong to.
    """

    folder: Path
    key: str
    locations: RowLocations
    digests: np.ndarray


def gather_rows(source: StoredRows, out: np.ndarray, *, block: Block = ()) -> None:
    """Read rows into an array.

    Parameters
    ----------
    source : StoredRows
    out : ndarray, shape (n, *shape of the block)
        In the shards' dtype.
    block : tuple of slice, optional
        The part of each row that is wanted.

    Raises
    ------
    MissingShardError, DamagedError
        Never is a wrong row returned.
    """
    for number, positions in _group_positions(source.locations.shard):
        path = source.folder / source.locations.shards[number]
        with open_shard(path, source.key) as shard:
            rows = source.locations.row[positions]
            _check_digests(path, shard["digest"], rows, source.digests[positions])
            read_rows(shard["features"], rows, positions=positions, out=out, block=block)


def read_rows(
    dataset: h5py.Dataset,
    rows: np.ndarray,
    *,
    positions: np.ndarray,
    out: np.ndarray,
    block: Block = (),
) -> None:
    """Read rows of a dataset in any order, repeated ones too, into ``out[positions]``."""
    if len(rows) == 0:
        return
    for piece in _split_reads(rows, dataset, row_bytes=math.prod(out.shape[1:]) * out.itemsize):
        _read_piece(dataset, rows[piece], out, positions[piece], block)


def split_columns(
    shape: tuple[int, ...], n_columns: int, *, chunk: tuple[int, ...]
) -> Iterator[Block]:
    """Cut a row into blocks that follow each other in its flat (C) order.

    Parameters
    ----------
    shape : tuple of int
        Shape of one row.
    n_columns : int
        The most values of a row in one block, at least 1.
    chunk : tuple of int
        The part of a row that is read at once: no block crosses from one into the next unless it
        ends at a border, so that none is read more often than its size demands.
    """
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    if inner > n_columns:
        rests = list(split_columns(shape[1:], n_columns, chunk=chunk[1:]))
        yield from ((slice(i, i + 1), *rest) for i in range(shape[0]) for rest in rests)
        return
    whole = (slice(None),) * (len(shape) - 1)
    for start, stop in _split_axis(shape[0], n_columns // max(1, inner), chunk[0]):
        yield slice(start, stop), *whole


def _split_axis(length: int, step: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Cut an axis into whole chunks where they fit into a step, and chunks into steps if not."""
    outer = max(chunk, step - step % chunk)
    for begin in range(0, length, outer):
        end = min(length, begin + outer)
        n_pieces = math.ceil((end - begin) / step)
        cuts = [begin + (end - begin) * piece // n_pieces for piece in range(n_pieces + 1)]
        yield from itertools.pairwise(cuts)


def _group_positions(shards: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each shard's number with the positions of its rows, rising."""
    order = np.argsort(shards, kind="stable")
    if len(order) == 0:
        return
    for positions in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
        yield int(shards[positions[0]]), positions


def _check_digests(
    path: Path, stored: h5py.Dataset, rows: np.ndarray, expected: np.ndarray
) -> None:
    if rows.max() >= len(stored) or not np.array_equal(stored[()][rows], expected):
        raise DamagedError(f"{str(path)!r} holds other rows than when the view was written")


def _split_reads(
    rows: np.ndarray, dataset: h5py.Dataset, *, row_bytes: int
) -> Iterator[np.ndarray]:
    """Order rows and cut them where a whole chunk would be read in vain or a read gets too big."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    in_order = (np.diff(order) == 1).all()
    most = READ_BYTES if in_order else _SCATTERED_BYTES
    chunk = dataset.chunks[0] if dataset.chunks else 1  # a stranger may have written it whole
    # Whole chunks, or those at the cuts would be read twice.
    span = max(1, most // max(1, row_bytes) // chunk) * chunk
    gap = np.diff(ordered) > chunk
    window = np.diff(ordered // span) > 0
    yield from np.split(order, np.flatnonzero(gap | window) + 1)


def _read_piece(
    dataset: h5py.Dataset, rows: np.ndarray, out: np.ndarray, positions: np.ndarray, block: Block
) -> None:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    first, last = int(positions[0]), int(positions[-1]) + 1
    if len(rows) == stop - start == last - first and (np.diff(positions) == 1).all():
        dataset.read_direct(out, (slice(start, stop), *block), np.s_[first:last])
    else:
        out[positions] = dataset[(slice(start, stop), *block)][rows - start]
