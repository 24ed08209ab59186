"""Rows of an open ``features.h5`` in batches, in order or shuffled, some megabytes in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.shards.blocks import READ_BYTES
from permafrost.cache.shards.format import choose_chunk
from permafrost.cache.views.features import Features
from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """How many rows are handed out, read and stored together.

    Attributes
    ----------
    batch, read, chunk : int
        In a batch; at once, whole batches of about 32 MiB; in an HDF5 chunk.
    """

    batch: int
    read: int
    chunk: int


def choose_batches(features: Features, layer: str, batch_size: int) -> BatchSize:
    """Choose how many batches are read at once.

    Raises
    ------
    InputError
        The batch size is not at least 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: at least 1 is needed")
    row = features.row_format(layer)
    n_batches = READ_BYTES // max(1, batch_size * row.row_bytes)
    return BatchSize(
        batch=batch_size,
        read=batch_size * max(1, n_batches),
        chunk=choose_chunk(row, max(1, len(features)))[0],
    )


def iterate_batches(
    features: Features, layer: str, rows: Rows, *, size: BatchSize
) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield rows and their values, shape (batch, *shape of a row); the last may be fewer."""
    for start in range(0, len(rows), size.read):
        together = rows[start : start + size.read]
        values = features.read(layer, together)
        for first in range(0, len(together), size.batch):
            batch = slice(first, first + size.batch)
            yield together[batch], values[batch]


def shuffle_rows(rows: Rows, seed: Sequence[int], *, size: BatchSize) -> Rows:
    """Shuffle runs of a chunk's rows, then the rows that are read together."""
    random = np.random.default_rng(seed)
    runs = np.split(rows, range(size.chunk, len(rows), size.chunk))
    order = np.concatenate([runs[number] for number in random.permutation(len(runs))])
    for start in range(0, len(order), size.read):
        random.shuffle(order[start : start + size.read])
    return order
