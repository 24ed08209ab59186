"""A shard opened and checked: its digests, its format, its checksums."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.disk.orphans import list_folder
from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.hdf5.checksum import SUM_DTYPE, SUM_NAME
from permafrost.cache.hdf5.chunks import StoredChunks, match_chunks
from permafrost.cache.hdf5.compression import find_compression, load_filters
from permafrost.cache.hdf5.opening import check_kind, has_node, open_node
from permafrost.cache.hdf5.sealed import read_array
from permafrost.cache.shards.format import STORED_DTYPES, RowFormat, shard_name
from permafrost.command import COMMAND
from permafrost.refusals import raise_refusal
from permafrost.stamps import write_stamp

_log = logging.getLogger(__name__)
# While shards are merged, a listing of the folder may show neither the old ones nor the new one:
# only two equal listings show that a row is nowhere.
MOST_LOOKS = 10


@contextmanager
def open_shard(path: Path, key: str) -> Iterator[h5py.File]:
    """Open a shard for reading; every failure inside names the file.

    Raises
    ------
    MissingShardError
        There is no such file.
    DamagedError
        It is not as it was written, or belongs to another feature set than `key`.
    OSError
        The system does not let it be read.
    """
    # Shards never change, so nothing is locked: some network file systems cannot.
    with naming_shard(path), h5py.File(path, "r", locking=False) as file:
        if file.attrs["key"] not in (key, key.encode()):
            raise DamagedError(f"{str(path)!r} holds rows of another feature set")
        check_kind(open_node(file, "digest"), ("uint8",), row_shape=(32,))
        features = open_node(file, "features")
        check_kind(features, STORED_DTYPES)
        if has_node(file, SUM_NAME):
            check_kind(open_node(file, SUM_NAME), (SUM_DTYPE,), row_shape=())
        load_filters(features)
        yield file


@contextmanager
def naming_shard(path: Path) -> Iterator[None]:
    """Make every failure to read a shard one that names its file.

    What the system refuses, as it does without a descriptor left, is an `OSError` and no damage.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingShardError(f"the shard {str(path)!r} is gone") from error
    except (OSError, KeyError, RuntimeError, ValueError, MemoryError) as error:
        raise_refusal(error, path)
        raise DamagedError(
            f"the shard {str(path)!r} is damaged: {error};"
            f" mend it with: {COMMAND} repair --cache DIR"
        ) from error


def read_digests(path: Path, key: str) -> np.ndarray:
    """Read which rows a shard holds: ndarray of uint8, shape (n, 32)."""
    with open_shard(path, key) as file:
        digests = read_array(file["digest"])
        if path.name != shard_name(digests) or len(digests) != len(file["features"]):
            raise DamagedError(f"{str(path)!r} does not hold the rows that its name says")
        return digests


def find_chunks(file: h5py.File) -> StoredChunks | None:
    """Find the chunks of a shard's features; None where only HDF5 can read them.

    The rule: they have their sums, each is one run of the values, and lies in the file as these
    values with HDF5's own checksum behind. Compressed ones do not; the first versions had no sums.
    """
    return match_chunks(file["features"], file[SUM_NAME][()]) if SUM_NAME in file else None


def read_format(path: Path, key: str) -> RowFormat:
    """Read what the rows of a shard look like.

    Raises
    ------
    MissingShardError, DamagedError
        It cannot be read.
    """
    with open_shard(path, key) as file:
        dataset = file["features"]
        return RowFormat(
            shape=tuple(dataset.shape[1:]),
            dtype=dataset.dtype.name,
            compression=find_compression(dataset),
        )


def read_digests_or_none(path: Path, key: str) -> np.ndarray | None:
    """Read which rows a shard holds: uint8 (n, 32); None where it is gone or damaged.

    The log warns of a damaged one. Its rows count as missing and are computed again; where they
    all go into one shard, it takes the name of the damaged one.
    """
    try:
        return read_digests(path, key)
    except MissingShardError:
        return None  # Removed since it was listed: its rows lie elsewhere, or nowhere.
    except DamagedError as error:
        _log.warning("%s; its rows count as missing", error)
        return None


def list_shards(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each shard in a feature set's folder, and its stamp, which changes with the file."""
    for path in list_folder(folder):
        # Another run may merge shards or remove them at any time.
        with contextlib.suppress(FileNotFoundError):
            if fnmatch(path.name, "shard-*.h5"):
                yield path, write_stamp(path.stat())
