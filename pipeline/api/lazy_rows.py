"""Rows of a ``features.h5`` that is opened only when they are read, in whichever process."""

from __future__ import annotations

import hashlib
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import DamagedError
from permafrost.cache.shards.blocks import READ_BYTES
from permafrost.cache.shards.format import choose_chunk
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.views.features import Features, Located
from permafrost.stages.matrices.matrix import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyRows:
    """One layer of a file that is not open: a small value which travels to other processes.

    Attributes
    ----------
    path : Path
        Absolute.
    key : str
        Digest of the recipe and of the images, in order. When the file was written anew with
        others, reading it is an error.
    shape : tuple of int
        The number of images, then the shape of a row.
    """

    path: Path
    layer: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read what basic indexing, or a list of rows, selects."""
        first, *others = index if isinstance(index, tuple) else (index,)
        n_rows = self.shape[0]
        is_slice = isinstance(first, slice)  # of ten million rows, perhaps
        rows = np.arange(*first.indices(n_rows)) if is_slice else np.arange(n_rows)[first]
        with self.open() as features:
            values = features.read(self.layer, rows.reshape(-1))
        # An integer takes the axis of the rows away.
        every = (slice(None),) * rows.ndim
        selected: NDArray[Any] = values.reshape(*rows.shape, *self.shape[1:])[*every, *others]
        return selected

    def open(self) -> Features:
        """Open the file, and make sure that it still holds these rows.

        What that takes is done once for each version of a file, and kept by the process for the
        last few, as there are as many reads as blocks.
        """
        with ExitStack() as stack:
            features = stack.enter_context(Features(self.path))
            with _lock:
                features.located = self._verify(features)
            stack.pop_all()
        return features

    def _verify(self, features: Features) -> Located:
        known = (self, features.stamp)
        if known not in _verified:
            if self.layer not in features.layers or _digest_rows(features, self.layer) != self.key:
                raise DamagedError(
                    f"{str(self.path)!r} holds other rows than before; open it again"
                )
            features.locations(self.layer)
            _verified[known] = features.located
            if len(_verified) > _MOST_VERIFIED:
                del _verified[next(iter(_verified))]
        return _verified[known]

    def cut_blocks(self) -> list[int]:
        """Cut the rows into blocks of about 32 MiB; return where each starts, and the end.

        A block ends where the next row lies in another HDF5 chunk of the shard that holds it, so
        that neighbouring blocks read no chunk twice; only a longer run of rows is cut anyway.
        """
        n_rows = self.shape[0]
        with self.open() as features:
            row, locations = features.row_format(self.layer), features.locations(self.layer)
        step = max(1, READ_BYTES // max(1, row.row_bytes))
        starts = _find_chunks(locations, choose_chunk(row, max(1, n_rows))[0], n_rows)
        cuts = [0]
        while n_rows - cuts[-1] > step:
            last = int(starts[np.searchsorted(starts, cuts[-1] + step, side="right") - 1])
            cuts.append(last if last > cuts[-1] else cuts[-1] + step)
        return [*cuts, n_rows]


def describe_rows(features: Features, layer: str) -> LazyRows:
    """Describe a layer of an open file, to be read when it is no longer open."""
    return LazyRows(
        path=features.path.absolute(),
        layer=layer,
        key=_digest_rows(features, layer),
        shape=(len(features), *features.shape(layer)),
        dtype=features.dtype(layer),
    )


# By rows and version of the file; 44 bytes a row each.
_verified: dict[tuple[LazyRows, tuple[int, ...]], Located] = {}
_MOST_VERIFIED = 4
_lock = threading.Lock()


def _digest_rows(features: Features, layer: str) -> str:
    digest = hashlib.sha256(recipe_key(features.recipe(layer)).encode())
    digest.update(features.digests.tobytes())
    return digest.hexdigest()


def _find_chunks(locations: RowLocations | None, chunk_rows: int, n_rows: int) -> Rows:
    """Return the rows that lie in another HDF5 chunk than the row before them."""
    if locations is None:  # The file holds the values itself, in chunks of its own.
        return np.arange(0, n_rows, chunk_rows)
    chunks = np.stack([locations.shard, locations.row // chunk_rows])
    return np.append(0, np.flatnonzero(np.diff(chunks).any(axis=0)) + 1)
