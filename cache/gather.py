"""Read rows out of shards, in any order, with every check there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from cache.errors import DamagedError
from cache.shard import open_shard
from cache.store import RowLocations

# One read of a shard; larger ones are no faster and this bounds the memory of scattered reads.
READ_BYTES = 32 * 1024 * 1024


def gather_rows(
    folder: Path, *, key: str, locations: RowLocations, digests: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` with rows of one feature set.

    Parameters
    ----------
    folder : Path
        Where the shards lie.
    key : str
        The feature set's key.
    locations : RowLocations
        Of n rows, all of which exist.
    digests : ndarray of uint8, shape (n, 32)
        Which image each row must belong to.
    out : ndarray, shape (n, *shape)
        In the shards' dtype.

    Raises
    ------
    MissingShardError, DamagedError
        Never is a wrong row returned.
    """
    for number in np.unique(locations.shard):
        positions = np.flatnonzero(locations.shard == number)
        path = folder / locations.shards[number]
        with open_shard(path, key) as shard:
            rows = locations.row[positions]
            _check_digests(path, shard["digest"], rows, digests[positions])
            for piece in _split_reads(rows, shard["features"]):
                _read_piece(shard["features"], rows[piece], out, positions[piece])


def _check_digests(
    path: Path, stored: h5py.Dataset, rows: np.ndarray, expected: np.ndarray
) -> None:
    if rows.max() >= len(stored) or not np.array_equal(stored[()][rows], expected):
        raise DamagedError(f"{str(path)!r} holds other rows than when the view was written")


def _split_reads(rows: np.ndarray, features: h5py.Dataset) -> Iterator[np.ndarray]:
    """Order rows and cut them where a whole chunk would be read in vain or a read gets too big."""
    order = np.argsort(rows, kind="stable")
    row_bytes = max(1, features.dtype.itemsize * int(np.prod(features.shape[1:])))
    span = max(1, READ_BYTES // row_bytes)
    ordered = rows[order]
    gap = np.diff(ordered) > features.chunks[0]
    window = np.diff(ordered // span) > 0
    yield from np.split(order, np.flatnonzero(gap | window) + 1)


def _read_piece(
    features: h5py.Dataset, rows: np.ndarray, out: np.ndarray, positions: np.ndarray
) -> None:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    first, last = int(positions[0]), int(positions[-1]) + 1
    if len(rows) == stop - start == last - first and (np.diff(positions) == 1).all():
        features.read_direct(out, np.s_[start:stop], np.s_[first:last])
    else:
        out[positions] = features[start:stop][rows - start]
