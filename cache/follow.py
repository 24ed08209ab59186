"""Read rows wherever they lie now: shards may have been merged since one looked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache.errors import MissingShardError
from cache.gather import Block, StoredRows, gather_rows
from cache.store import RowLocations, RowTable, list_shards, read_rows_of

# Looks at the folder; one is in vain where shards are merged between it and the reading.
_ATTEMPTS = 2


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
    for _ in range(_ATTEMPTS):
        try:
            gather_rows(source.select(rows), out, block=block)
        except MissingShardError:
            source = replace(source, locations=_look_again(source))
        else:
            return source
    gather_rows(source.select(rows), out, block=block)
    return source


def _look_again(source: StoredRows) -> RowLocations:
    shards = ((path.name, read_rows_of(path, source.key)) for path, _ in list_shards(source.folder))
    table = RowTable((name, digests) for name, digests in shards if digests is not None)
    return table.locate(source.digests)
