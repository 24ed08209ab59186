"""Write and open one immutable shard: some rows of one feature set in one HDF5 file.

A shard holds ``digest`` (n, 32) uint8 and ``features`` (n, *shape). Every chunk carries HDF5's
Fletcher-32 checksum, and the newest file format is used because only there HDF5 checks its own
metadata: a flipped bit anywhere is an error when read, never a wrong feature. Uncompressed ones
also hold their chunks' own `cache.hdf5.checksum` (n_chunks,) uint64, with which `cache.hdf5.direct`
reads them faster; whoever does not know it reads the same features without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import rename, sync, temporary_path
from permafrost.cache.disk.sharing import share
from permafrost.cache.hdf5.checksum import SUM_DTYPE, SUM_NAME
from permafrost.cache.hdf5.chunks import lay_grid
from permafrost.cache.hdf5.compression import compression_options
from permafrost.cache.hdf5.create import WriteStream, create_file, create_group
from permafrost.cache.hdf5.sealed import write_array
from permafrost.cache.shards.format import (
    DIGESTS_PER_CHUNK,
    RowFormat,
    as_storable,
    choose_chunk,
    shard_name,
)

_SUMS_PER_CHUNK = 8192


class FeatureDataset:
    """A new dataset of features, whose chunks are summed up as they are written.

    `name` is its path in the file; groups above it are created.
    """

    def __init__(self, file: h5py.File, name: str, *, row: RowFormat, n_rows: int) -> None:
        self._file = file
        self.chunk = choose_chunk(row, n_rows)
        parent, _, leaf = name.rpartition("/")
        self.dataset = create_group(file, parent).create_dataset(
            leaf,
            shape=(n_rows, *row.shape),
            maxshape=(n_rows, *row.shape),
            chunks=self.chunk,
            dtype=row.dtype,
            fletcher32=True,
            **compression_options(row.compression),
        )
        self._grid = lay_grid(row.shape, self.chunk) if row.compression == "none" else None
        self._sums: list[int] = []

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """Write the next rows, whole chunks of them unless they are the last."""
        self.dataset[start : start + len(rows)] = rows
        self._sums += self._grid.sum_chunks(rows) if self._grid else []

    def write_sums(self, name: str) -> None:
        """Store the checksums of the chunks under a path, where `match_chunks` can use them."""
        if self._sums:
            parent, _, leaf = name.rpartition("/")
            group, sums = create_group(self._file, parent), np.array(self._sums, SUM_DTYPE)
            write_array(group, leaf, sums, n_rows=_SUMS_PER_CHUNK)


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
        self._stream = WriteStream(self._path)
        self._file = create_file(self._stream)
        # Fixed in length: other strings lie in HDF5's global heap, which has no checksum, and one
        # flipped bit there keeps HDF5 looking for them for ever.
        self._file.attrs["key"] = np.bytes_(key)
        self._features = FeatureDataset(self._file, "features", row=row, n_rows=n_rows)
        self._buffer = np.empty((self._features.chunk[0], *row.shape), row.dtype)
        self._n_buffered = 0

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
        features : ndarray of float32 or uint8, shape (n, *shape)
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
        self._features.write(self._n_written, self._buffer[: self._n_buffered])
        self._stream.check()
        self._n_written += self._n_buffered
        self._n_buffered = 0

    def publish(self, *, time_ns: int | None = None) -> Path:
        """Seal it, and give it its final name, which is returned."""
        return self.seal(time_ns=time_ns)()

    def seal(self, *, time_ns: int | None = None) -> Callable[[], Path]:
        """Write what is left and make it durable; return what gives it its final name.

        Parameters
        ----------
        time_ns : int, optional
            When its rows were computed; now by default.
        """
        self._flush()
        digests = np.concatenate(self._digests)
        self._features.dataset.resize(len(digests), axis=0)
        write_array(self._file, "digest", digests, n_rows=DIGESTS_PER_CHUNK)
        self._features.write_sums(SUM_NAME)
        self._close()
        self._stream.check()
        if time_ns is not None:
            os.utime(self._path, ns=(time_ns, time_ns))
        final = self._folder / shard_name(digests)
        share(self._path)
        sync(self._path)

        def rename_sealed() -> Path:
            rename(self._path, final)
            return final

        return rename_sealed

    def discard(self) -> None:
        """Close and remove the temporary file; harmless after `publish`."""
        self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._file.close()
        self._stream.close()
