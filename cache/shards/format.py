"""What a shard looks like: names, chunk sizes, and how a row becomes storable."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np

from permafrost.cache.errors import UnstorableError

# From a quarter of a megabyte to four, rows in order or scattered are read equally fast; at 64 KB,
# what is done for each chunk takes a third of the time. A single row costs all of its chunk.
CHUNK_BYTES = 512 * 1024

LARGEST_CHUNK_BYTES = 1024 * 1024

DIGESTS_PER_CHUNK = 8192

SHARD_NAME = re.compile(r"shard-[0-9a-f]{16}\.h5")

# Of features, and what rows may be stored as: images are bytes, whatever features are.
DTYPES = ("float32", "float16")
STORED_DTYPES = (*DTYPES, "uint8")

# What a kill may cost: about a minute of work, or this much of the largest layer.
SHARD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """What one row of a feature set looks like on disk.

    Attributes
    ----------
    shape : tuple of int
        Shape of one row, without the row axis.
    dtype : str
        One of `STORED_DTYPES`.
    compression : str
        One of `COMPRESSIONS`; never part of the recipe, since it does not change the numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    compression: str = "none"

    @property
    def row_bytes(self) -> int:
        """Bytes of one uncompressed row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def choose_chunk(row: RowFormat, n_rows: int) -> tuple[int, ...]:
    """Choose the chunk shape: several small rows, or a slice of a large one."""
    if row.row_bytes <= LARGEST_CHUNK_BYTES:
        return (max(1, min(n_rows, CHUNK_BYTES // max(1, row.row_bytes))), *row.shape)
    return (1, *_split_axes(row.shape, LARGEST_CHUNK_BYTES // np.dtype(row.dtype).itemsize))


def _split_axes(shape: tuple[int, ...], n_values: int) -> tuple[int, ...]:
    """Cut the leading axes until one piece has at most `n_values` values."""
    inner = math.prod(shape[1:])
    if inner > n_values:
        return (1, *_split_axes(shape[1:], n_values))
    # Even pieces: 56 rows as 28 + 28, not as 42 + 14.
    n_pieces = math.ceil(shape[0] / max(1, n_values // inner))
    return (math.ceil(shape[0] / n_pieces), *shape[1:])


def shard_name(digests: np.ndarray) -> str:
    """Return the file name of the shard that holds exactly these rows in this order."""
    return f"shard-{hashlib.sha256(digests.tobytes()).hexdigest()[:16]}.h5"


def as_storable(features: np.ndarray, dtype: str) -> np.ndarray:
    """Return rows in the dtype of their feature set.

    Raises
    ------
    UnstorableError
        A value is NaN or infinite, or overflows float16.
    """
    with np.errstate(over="ignore"):
        block = features.astype(dtype, casting="same_kind", copy=False)
    if block.dtype.kind != "f" or np.isfinite(block).all():
        return block
    flat = block.reshape(len(block), -1)
    row = int(np.flatnonzero(~np.isfinite(flat).all(axis=1))[0])
    value = features.reshape(len(block), -1)[row][~np.isfinite(flat[row])][0]
    if np.isfinite(value):
        reason = f"the value {value:g} overflows {dtype}; use --dtype float32"
    else:
        reason = f"the network gave {value}"
    raise UnstorableError(row, reason)
