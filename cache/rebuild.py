"""Write a shard again: what is intact of the old one, and what was computed anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.writer import RowFormat, ShardWriter, find_compression, open_shard
from permafrost.cache.views.writer import split_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """A shard, and which of its rows can still be read.

    Attributes
    ----------
    path : Path
        Where it lies, or lay.
    key : str
        The feature set's.
    digests : ndarray of uint8, shape (n, 32)
    intact : ndarray of bool, shape (n,)
    """

    path: Path
    key: str
    digests: NDArray[np.uint8]
    intact: NDArray[np.bool_]


def read_format(path: Path, key: str) -> RowFormat:
    """Read what the rows of a shard look like.

    Raises
    ------
    MissingShardError, DamagedError
        It cannot be read.
    """
    with open_shard(path, key) as file:
        dataset = file["features"]
        return RowFormat(
            shape=tuple(dataset.shape[1:]),
            dtype=dataset.dtype.name,
            compression=find_compression(dataset),
        )


def rebuild_shard(old: Remains, fresh: Mapping[bytes, NDArray[Any]], row: RowFormat) -> Path | None:
    """Put a shard of the intact and the fresh rows, in their order, in the place of the old one.

    With all rows it has the old one's name, and whatever points at it finds them. The rows that
    are neither are left out. Killed half way, the old one is still there.

    Parameters
    ----------
    old : Remains
    fresh : mapping of bytes to ndarray, shape (*shape)
        Digest → values, of rows that are not intact.
    row : RowFormat

    Returns
    -------
    Path or None
        The new shard; None where no row is left.
    """
    names = [digest.tobytes() for digest in old.digests]
    kept = np.flatnonzero([ok or name in fresh for ok, name in zip(old.intact, names, strict=True)])
    # Rows stay in the order in which they were computed.
    time_ns = old.path.stat().st_mtime_ns if old.path.exists() else None
    new = None
    if len(kept):
        writer = ShardWriter(old.path.parent, key=old.key, row=row, n_rows=len(kept))
        try:
            for start, stop in split_rows(len(kept), row.row_bytes):
                rows = kept[start:stop]
                writer.append(old.digests[rows], _collect(old, fresh, rows, row))
            new = writer.publish(time_ns=time_ns)
        finally:
            writer.discard()
    if new != old.path:
        old.path.unlink(missing_ok=True)
    return new


def _collect(
    old: Remains, fresh: Mapping[bytes, NDArray[Any]], rows: NDArray[np.int64], row: RowFormat
) -> NDArray[Any]:
    """Read the intact ones of some rows, and put the fresh ones between them."""
    block = np.empty((len(rows), *row.shape), row.dtype)
    is_intact = old.intact[rows]
    for place in np.flatnonzero(~is_intact):
        block[place] = fresh[old.digests[rows[place]].tobytes()]
    intact = rows[is_intact]
    if len(intact):
        values = np.empty((len(intact), *row.shape), row.dtype)
        stored = StoredRows.in_shard(old.path, old.key, intact, old.digests[intact])
        gather_rows(stored, values)
        block[is_intact] = values
    return block
