"""How large chunks are."""

from __future__ import annotations

import pytest

from permafrost.cache.shards.format import RowFormat, choose_chunk


@pytest.mark.parametrize(
    ("shape", "n_rows", "chunk"),
    [
        ((512,), 100_000, (256, 512)),
        ((512,), 10, (10, 512)),
        ((7, 7, 512), 1000, (5, 7, 7, 512)),
        ((56, 56, 128), 1000, (1, 28, 56, 128)),
        ((4_000_000,), 3, (1, 250_000)),
        ((), 1_000_000, (131_072,)),
    ],
)
def test_chunks_are_hundreds_of_kilobytes(
    shape: tuple[int, ...], n_rows: int, chunk: tuple[int, ...]
) -> None:
    assert choose_chunk(RowFormat(shape=shape, dtype="float32"), n_rows) == chunk
