"""Read rows out of shards, in any order, with every check there is."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.hdf5.chunks import StoredChunks
from permafrost.cache.hdf5.direct import RawFile, as_index, read_chunks
from permafrost.cache.shards.blocks import READ_BYTES, Block, flatten_block
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.shards.reader import find_chunks, naming_shard, open_shard

# Scattered rows are read into a buffer, then put in their places; this fits a processor's cache.
_SCATTERED_BYTES = 4 * 1024 * 1024

# Asking HDF5 takes 2 ms a shard, over ten times as long as reading some scattered rows of it. Not a
# number of shards: shuffled rows come from all of them, and there may be hundreds of small ones.
MOST_SURVEYED_BYTES = 128 * 1024 * 1024
_SURVEY_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows of one feature set, n of them.

    Attributes
    ----------
    folder : Path
        Where the shards lie.
    key : str
        The feature set's key.
    locations : RowLocations
    digests : ndarray of uint8, shape (n, 32)
        Which image each row must belong to.
    """

    folder: Path
    key: str
    locations: RowLocations
    digests: np.ndarray

    @classmethod
    def in_shard(cls, path: Path, key: str, rows: np.ndarray, digests: np.ndarray) -> StoredRows:
        """Return rows of one shard: which, and the digests of these."""
        shard = np.zeros(len(rows), np.int32)
        locations = RowLocations(shards=[path.name], shard=shard, row=rows)
        return cls(folder=path.parent, key=key, locations=locations, digests=digests)

    def select(self, rows: np.ndarray) -> StoredRows:
        """Return some of the rows."""
        index = as_index(rows)
        return replace(self, locations=self.locations.select(index), digests=self.digests[index])


def gather_rows(source: StoredRows, out: np.ndarray, *, block: Block = ()) -> None:
    """Read rows into an array.

    Parameters
    ----------
    source : StoredRows
    out : ndarray, shape (n, *shape of the block)
        In the shards' dtype.
    block : tuple of slice, optional
        The part of each row that is wanted.

    Raises
    ------
    MissingShardError, DamagedError
        Never is a wrong row returned.
    """
    n_gone = int(source.locations.missing.sum())
    if n_gone:
        raise MissingShardError(f"{n_gone} rows are gone from {str(source.folder)!r}")
    for number, positions in _group_positions(source.locations.shard):
        path = source.folder / source.locations.shards[number]
        index = as_index(positions)
        rows = source.locations.row[index]
        with naming_shard(path), _open_surveyed(path, source.key) as (descriptor, shard):
            _check_digests(path, shard.digests, rows, source.digests[index])
            if shard.chunks is None or shard.chunks.dtype != out.dtype:
                with open_shard(path, source.key) as file:
                    read_rows(file["features"], rows, positions=positions, out=out, block=block)
            else:
                read_chunks(
                    RawFile(descriptor=descriptor, chunks=shard.chunks),
                    rows,
                    positions=positions,
                    columns=flatten_block(block, shard.shape),
                    out=out.reshape(len(out), -1),
                )


def read_rows(
    dataset: h5py.Dataset,
    rows: np.ndarray,
    *,
    positions: np.ndarray,
    out: np.ndarray,
    block: Block = (),
) -> None:
    """Read rows of a dataset in any order, repeated ones too, into ``out[positions]``."""
    if len(rows) == 0:
        return
    for piece in _split_reads(rows, dataset, row_bytes=math.prod(out.shape[1:]) * out.itemsize):
        _read_piece(dataset, rows[piece], out, positions[piece], block)


def _group_positions(shards: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each shard's number with the positions of its rows, rising."""
    order = np.argsort(shards, kind="stable")
    if len(order) == 0:
        return
    for positions in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
        yield int(shards[positions[0]]), positions


def identify_file(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from another one that takes its name."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What HDF5 says of a shard, so that it is asked once.

    Should the file change all the same, its chunks no longer have their sums.
    """

    digests: np.ndarray
    shape: tuple[int, ...]
    chunks: StoredChunks | None

    @property
    def n_bytes(self) -> int:
        n_chunks = 0 if self.chunks is None else len(self.chunks.sums)
        return _SURVEY_BYTES + self.digests.nbytes + 16 * n_chunks


def _survey_shard(path: Path, key: str, _: tuple[int, ...]) -> _Survey:
    with open_shard(path, key) as file:
        shape = tuple(file["features"].shape[1:])
        return _Survey(digests=file["digest"][()], shape=shape, chunks=find_chunks(file))


class _Surveys:
    """The surveys of the shards that were read last, as many as `MOST_SURVEYED_BYTES` hold."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Path, str, tuple[int, ...]], _Survey] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def recall(self, path: Path, key: str, stamp: tuple[int, ...]) -> _Survey:
        """Survey a shard, unless that was done since it has this stamp."""
        name = (path, key, stamp)
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        found = _survey_shard(path, key, stamp)
        with self._lock:
            if name not in self._known:
                self._known[name] = found
                self._n_bytes += found.n_bytes
            while self._n_bytes > MOST_SURVEYED_BYTES:
                self._n_bytes -= self._known.popitem(last=False)[1].n_bytes
        return found


_surveys = _Surveys()


@contextmanager
def _open_surveyed(path: Path, key: str) -> Iterator[tuple[int, _Survey]]:
    """Open a shard, and find out what HDF5 says of it.

    HDF5 opens it by its name, which another file may get just then: from a run that computed the
    same rows at the same time, or from a repair.
    """
    while True:
        with path.open("rb") as opened:
            stamp = identify_file(os.fstat(opened.fileno()))
            survey = _surveys.recall(path, key, stamp)
            if identify_file(path.stat()) == stamp:
                yield opened.fileno(), survey
                return


def _check_digests(path: Path, stored: np.ndarray, rows: np.ndarray, expected: np.ndarray) -> None:
    if rows.max() >= len(stored) or not np.array_equal(stored[as_index(rows)], expected):
        raise DamagedError(f"{str(path)!r} holds other rows than when the view was written")


def _split_reads(
    rows: np.ndarray, dataset: h5py.Dataset, *, row_bytes: int
) -> Iterator[np.ndarray]:
    """Order rows and cut them where a whole chunk would be read in vain or a read gets too big."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    in_order = (np.diff(order) == 1).all()
    most = READ_BYTES if in_order else _SCATTERED_BYTES
    chunk = dataset.chunks[0] if dataset.chunks else 1  # a stranger may have written it whole
    # Whole chunks, or those at the cuts would be read twice.
    span = max(1, most // max(1, row_bytes) // chunk) * chunk
    gap = np.diff(ordered) > chunk
    window = np.diff(ordered // span) > 0
    yield from np.split(order, np.flatnonzero(gap | window) + 1)


def _read_piece(
    dataset: h5py.Dataset, rows: np.ndarray, out: np.ndarray, positions: np.ndarray, block: Block
) -> None:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    first, last = int(positions[0]), int(positions[-1]) + 1
    if len(rows) == stop - start == last - first and (np.diff(positions) == 1).all():
        dataset.read_direct(out, (slice(start, stop), *block), np.s_[first:last])
    else:
        out[positions] = dataset[(slice(start, stop), *block)][rows - start]
