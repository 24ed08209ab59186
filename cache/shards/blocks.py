"""How a read of many rows is cut into pieces of bounded size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

# What part of each row is read: a slice of each of its axes, () for all of it. It is always one run
# of the row's values in their flat (C) order.
Block = tuple[slice, ...]

# One read of a shard; larger ones are no faster and this bounds the memory of scattered reads.
READ_BYTES = 32 * 1024 * 1024


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


def flatten_block(block: Block, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the start and stop of a block among the flat values of a row."""
    first = last = 0
    every = (slice(None),) * (len(shape) - len(block))
    for n, cut in zip(shape, (*block, *every), strict=True):
        within = range(n)[cut]
        first, last = first * n + within[0], last * n + within[-1]
    return first, last + 1


def split_rows(n_rows: int, row_bytes: int, *, chunk_rows: int = 1) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks ``start, stop`` of about `READ_BYTES`, and of whole chunks."""
    step = max(1, READ_BYTES // max(1, row_bytes) // chunk_rows) * chunk_rows
    for start in range(0, n_rows, step):
        yield start, min(n_rows, start + step)
