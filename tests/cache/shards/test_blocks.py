"""Which parts of rows are read at once."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.cache.shards.blocks import split_columns
from permafrost.cache.shards.format import RowFormat, choose_chunk


@pytest.mark.parametrize("shape", [(56, 56, 128), (14, 14, 512), (7, 7, 512), (4_000_000,), (512,)])
@pytest.mark.parametrize("n_columns", [7000, 100_000, 450_000, 5_000_000])
def test_blocks_of_columns_follow_each_other_and_split_no_chunk_in_vain(
    shape: tuple[int, ...], n_columns: int
) -> None:
    chunk = choose_chunk(RowFormat(shape=shape, dtype="float32"), 1)[1:]
    flat = np.arange(np.prod(shape)).reshape(shape)
    blocks = list(split_columns(shape, n_columns, chunk=chunk))
    parts = [flat[block].ravel() for block in blocks]
    np.testing.assert_array_equal(np.concatenate(parts), flat.ravel())
    assert max(map(len, parts)) <= n_columns
    chunk_of = np.zeros(shape, np.int64)
    for axis, (length, step) in enumerate(zip(shape, chunk, strict=True)):
        numbers = (np.arange(length) // step).reshape(-1, *[1] * (len(shape) - axis - 1))
        chunk_of = chunk_of * -(-length // step) + numbers
    touched = np.concatenate([np.unique(chunk_of[block]) for block in blocks])
    most = 1 if n_columns >= np.prod(chunk) else 2 * np.prod(chunk) / n_columns + 1
    assert np.bincount(touched).max() <= most
