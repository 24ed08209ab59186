"""Write rows of some shards as one new shard: each checked as it is read, summed as it is written.

What makes upkeep safe beside anything else that runs, and at any kill: a process removes a shard
only after it has itself published another one with all rows that are to stay. Then the worst that
can remain is a row that is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.shards.blocks import split_rows
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.upkeep.survey import SetSurvey, StoredShard


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of a shard: ndarray of int64, rising."""

    shard: StoredShard
    rows: NDArray[np.int64]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Of these rows, shape (m, 32)."""
        return self.shard.digests[self.rows]


def write_parts(survey: SetSurvey, parts: Sequence[Part]) -> Path:
    """Write rows as one new shard of the feature set, and publish it.

    There is at least one row, none comes twice, and their shards have one format. The new shard's
    time is that of the newest of them: rows stay in the order in which they were computed, which
    is that of their datasets.

    Raises
    ------
    DamagedError, MissingShardError
        A value could not be read as it was written; nothing is published.
    OSError
        There is no room; nothing is published.
    """
    n_rows = sum(len(part.rows) for part in parts)
    row = parts[0].shard.row
    writer = ShardWriter(survey.folder, key=survey.key, row=row, n_rows=n_rows)
    try:
        for part in parts:
            for digests, values in read_part(survey, part):
                writer.append(digests, values)
        return writer.publish(time_ns=max(part.shard.time_ns for part in parts))
    finally:
        writer.discard()


def read_part(
    survey: SetSurvey, part: Part
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.generic]]]:
    """Yield the digests and the values of rows, some megabytes at a time, with every check."""
    row = part.shard.row
    for start, stop in split_rows(len(part.rows), row.row_bytes):
        source = StoredRows.in_shard(
            part.shard.path, survey.key, part.rows[start:stop], part.digests[start:stop]
        )
        values = np.empty((stop - start, *row.shape), row.dtype)
        gather_rows(source, values)
        yield source.digests, values


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What remains of a shard: its `digests`, shape (n, 32), and which rows are `intact`, (n,)."""

    path: Path
    key: str
    digests: NDArray[np.uint8]
    intact: NDArray[np.bool_]


def rebuild_shard(old: Remains, fresh: Mapping[bytes, NDArray[Any]], row: RowFormat) -> Path | None:
    """Put a shard of the intact and the fresh rows, in their order, in the place of the old one.

    With all rows it has the old one's name, and whatever points at it finds them. The rows that
    are neither are left out. Killed half way, the old one is still there.

    Parameters
    ----------
    fresh : mapping of bytes to ndarray, shape (*shape)
        Digest → values, of rows that are not intact.

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
