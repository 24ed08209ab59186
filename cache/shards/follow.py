"""Read rows wherever they lie now: shards may have been merged since the rows were located."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import MissingShardError
from permafrost.cache.shards.blocks import Block
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import NO_DIGESTS, RowLocations, RowTable
from permafrost.cache.shards.reader import MOST_LOOKS, list_shards, read_digests_or_none


def follow_rows(
    source: StoredRows, rows: NDArray[np.int64], out: NDArray[np.generic], *, block: Block = ()
) -> StoredRows:
    """Read some rows into an array; where a shard is gone, look for its rows by their digests.

    Parameters
    ----------
    source : StoredRows
    rows : ndarray of int64, shape (m,)
        Which of them.
    out : ndarray, shape (m, *shape of the block)
        In the shards' dtype.
    block : tuple of slice, optional
        The part of each row that is wanted.

    Returns
    -------
    StoredRows
        Where all of them lie now; a row that no longer exists has the shard -1.

    Raises
    ------
    MissingShardError
        One of the rows no longer exists.
    DamagedError
        A value could not be read as it was written.
    """
    known: dict[str, NDArray[np.uint8]] = {}
    errors: list[MissingShardError] = []
    for _ in range(MOST_LOOKS + 1):
        try:
            gather_rows(source.select(rows), out, block=block)
        except MissingShardError as error:
            errors.append(error)
            source = replace(source, locations=_look_again(source, known))
        else:
            return source
    # The first one names the shard that they were in.
    raise errors[0]


def _look_again(source: StoredRows, known: dict[str, NDArray[np.uint8]]) -> RowLocations:
    """Find the rows in what lies in the folder now; `known` says what was read of it before."""
    for _ in range(MOST_LOOKS):
        there = {path.name: path for path, _ in list_shards(source.folder)}
        if there.keys() == known.keys():
            break
        for name in known.keys() - there.keys():
            del known[name]
        for name in there.keys() - known.keys():
            digests = read_digests_or_none(there[name], source.key)
            known[name] = NO_DIGESTS if digests is None else digests
    return RowTable(sorted(known.items(), key=lambda shard: shard[0])).locate(source.digests)
