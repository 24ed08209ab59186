"""Write and open one immutable shard: some rows of one feature set in one HDF5 file.

A shard holds ``digest`` (n, 32) uint8 and ``features`` (n, *shape). Every chunk carries HDF5's
Fletcher-32 checksum, and the newest file format is used because only there HDF5 checks its own
metadata: a flipped bit anywhere is an error when read, never a wrong feature. Uncompressed ones
also hold ``xxh3`` (n_chunks,) uint64, with which `cache.hdf5.chunks` reads them faster; whoever does not
know it reads the same features without.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from permafrost.cache.disk.publish import publish, temporary_path
from permafrost.cache.errors import DamagedError, MissingShardError, UnstorableError
from permafrost.cache.hdf5.chunks import SUMS, lay_grid
from permafrost.cache.hdf5.create import WriteStream, create_file
from permafrost.cache.hdf5.opening import PLUGIN_FILTERS, check_kind, has_node, open_node
from permafrost.cache.hdf5.sealed import read_array, write_array

# From a quarter of a megabyte to four, rows in order or scattered are read equally fast; at 64 KB,
# what is done for each chunk takes a third of the time. A single row costs all of its chunk.
CHUNK_BYTES = 512 * 1024
LARGEST_CHUNK_BYTES = 1024 * 1024
DIGESTS_PER_CHUNK = 8192
SUMS_PER_CHUNK = 8192
COMPRESSIONS = ("none", "lz4", "zstd")
SHARD_NAME = re.compile(r"shard-[0-9a-f]{16}\.h5")
# Of features.
DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """What one row of a feature set looks like on disk.

    Attributes
    ----------
    shape : tuple of int
        Shape of one row, without the row axis.
    dtype : str
        ``"float32"`` or ``"float16"``.
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


class ShardWriter:
    """Collects rows into a temporary file and publishes it as a shard.

    Whole chunks are written, so that HDF5 never reads a chunk back to fill it; the rows short of
    one wait in memory.

    Parameters
    ----------
    folder : Path
        The feature set's folder.
    key : str
        The feature set's key, stored in the shard so that a shard under a wrong name is noticed.
    row : RowFormat
        Shape, dtype and compression of the rows.
    n_rows : int
        The most rows this shard will get.
    """

    def __init__(self, folder: Path, *, key: str, row: RowFormat, n_rows: int) -> None:
        self._folder = folder
        self._row = row
        self._path = temporary_path(folder / "shard.h5")
        self._digests: list[np.ndarray] = []
        self._n_written = 0
        self._chunk = choose_chunk(row, n_rows)
        self._buffer = np.empty((self._chunk[0], *row.shape), row.dtype)
        self._n_buffered = 0
        self._grid = lay_grid(row.shape, self._chunk) if row.compression == "none" else None
        self._sums: list[int] = []
        self._stream = WriteStream(self._path)
        self._file = create_file(self._stream)
        # Fixed in length: other strings lie in HDF5's global heap, which has no checksum, and one
        # flipped bit there keeps HDF5 looking for them for ever.
        self._file.attrs["key"] = np.bytes_(key)
        self._features = self._file.create_dataset(
            "features",
            shape=(n_rows, *row.shape),
            maxshape=(n_rows, *row.shape),
            chunks=self._chunk,
            dtype=row.dtype,
            fletcher32=True,
            **compression_options(row.compression),
        )

    @property
    def n_rows(self) -> int:
        """Rows appended so far."""
        return self._n_written + self._n_buffered

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows appended so far, before compression."""
        return self.n_rows * self._row.row_bytes

    def append(self, digests: np.ndarray, features: np.ndarray) -> None:
        """Append rows.

        Parameters
        ----------
        digests : ndarray of uint8, shape (n, 32)
        features : ndarray of float32, shape (n, *shape)
            Stored in the shard's dtype.

        Raises
        ------
        UnstorableError
            A value is NaN or infinite, or overflows float16; nothing of the block is appended.
        """
        block = as_storable(features, self._row.dtype)
        self._digests.append(np.array(digests, np.uint8))
        start = 0
        while start < len(block):
            n = min(len(block) - start, len(self._buffer) - self._n_buffered)
            self._buffer[self._n_buffered : self._n_buffered + n] = block[start : start + n]
            self._n_buffered += n
            start += n
            if self._n_buffered == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        stop = self._n_written + self._n_buffered
        rows = self._buffer[: self._n_buffered]
        self._features[self._n_written : stop] = rows
        self._stream.check()
        if self._grid is not None:
            self._sums += self._grid.sum_chunks(rows)
        self._n_written = stop
        self._n_buffered = 0

    def publish(self, *, time_ns: int | None = None) -> Path:
        """Write what is left, make it durable and give it its final name, which is returned.

        Parameters
        ----------
        time_ns : int, optional
            When its rows were computed; now by default.
        """
        self._flush()
        digests = np.concatenate(self._digests)
        self._features.resize(len(digests), axis=0)
        write_array(self._file, "digest", digests, n_rows=DIGESTS_PER_CHUNK)
        if self._grid is not None:
            sums = np.array(self._sums, np.uint64)
            write_array(self._file, SUMS, sums, n_rows=SUMS_PER_CHUNK)
        self._close()
        self._stream.check()
        if time_ns is not None:
            os.utime(self._path, ns=(time_ns, time_ns))
        final = self._folder / shard_name(digests)
        publish(self._path, final)
        return final

    def discard(self) -> None:
        """Close and remove the temporary file; harmless after `publish`."""
        self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._file.close()
        self._stream.close()


def as_storable(features: np.ndarray, dtype: str) -> np.ndarray:
    """Return rows in the dtype of their feature set.

    Raises
    ------
    UnstorableError
        A value is NaN or infinite, or overflows float16.
    """
    with np.errstate(over="ignore"):
        block = features.astype(dtype, copy=False)
    if np.isfinite(block).all():
        return block
    flat = block.reshape(len(block), -1)
    row = int(np.flatnonzero(~np.isfinite(flat).all(axis=1))[0])
    value = features.reshape(len(block), -1)[row][~np.isfinite(flat[row])][0]
    if np.isfinite(value):
        reason = f"the value {value:g} overflows {dtype}; use --dtype float32"
    else:
        reason = f"the network gave {value}"
    raise UnstorableError(row, reason)


def compression_options(compression: str) -> dict[str, Any]:
    """Return h5py's `create_dataset` options for one of `COMPRESSIONS`."""
    if compression == "none":
        return {}
    import hdf5plugin

    filters = {"lz4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd}
    # Byte shuffling groups the exponents, without which floats hardly compress.
    return {"shuffle": True, **filters[compression]()}


@contextmanager
def open_shard(path: Path, key: str) -> Iterator[h5py.File]:
    """Open a shard for reading; every failure inside names the file.

    Raises
    ------
    MissingShardError
        There is no such file.
    DamagedError
        It cannot be read, or belongs to another feature set than `key`.
    """
    # Shards never change, so nothing is locked: some network file systems cannot.
    with naming_shard(path), h5py.File(path, "r", locking=False) as file:
        if file.attrs["key"] not in (key, key.encode()):
            raise DamagedError(f"{str(path)!r} holds rows of another feature set")
        check_kind(open_node(file, "digest"), ("uint8",), row_shape=(32,))
        features = open_node(file, "features")
        check_kind(features, DTYPES)
        if has_node(file, SUMS):
            check_kind(open_node(file, SUMS), ("uint64",), row_shape=())
        load_filters(features)
        yield file


@contextmanager
def naming_shard(path: Path) -> Iterator[None]:
    """Make every failure to read a shard one that names its file."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingShardError(f"the shard {str(path)!r} is gone") from error
    except (OSError, KeyError, RuntimeError, ValueError, MemoryError) as error:
        raise DamagedError(
            f"the shard {str(path)!r} is damaged: {error};"
            " mend it with: python run.py repair --cache DIR"
        ) from error


def load_filters(dataset: h5py.Dataset) -> None:
    """Register the compression filters, if this dataset uses one of them."""
    if find_compression(dataset) != "none":
        import hdf5plugin  # noqa: F401


def find_compression(dataset: h5py.Dataset) -> str:
    """Return which of `COMPRESSIONS` a dataset has."""
    pipeline = dataset.id.get_create_plist()
    filters = (pipeline.get_filter(number)[0] for number in range(pipeline.get_nfilters()))
    return next((PLUGIN_FILTERS[one] for one in filters if one in PLUGIN_FILTERS), "none")


def read_digests(path: Path, key: str) -> np.ndarray:
    """Read which rows a shard holds: ndarray of uint8, shape (n, 32)."""
    with open_shard(path, key) as file:
        digests = read_array(file["digest"])
        if path.name != shard_name(digests) or len(digests) != len(file["features"]):
            raise DamagedError(f"{str(path)!r} does not hold the rows that its name says")
        return digests
