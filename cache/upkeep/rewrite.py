"""Write rows of some shards as one new shard: each checked as it is read, summed as it is written.

What makes upkeep safe beside anything else that runs, and at any kill: a process removes a shard
only after it has itself published another one with all rows that are to stay. Then the worst that
can remain is a row that is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.shards.blocks import split_rows
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
