"""List the shards in a feature set's folder with their rows and formats, reading no features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.reader import list_shards, read_digests, read_format
from permafrost.cache.store.folders import read_recipe
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import recipe_key


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShard:
    """One shard, by what its file says of itself.

    Its digests are of shape (n, 32), `n_bytes` is the size of the file, and `time_ns` when its
    newest row was computed.
    """

    path: Path
    digests: NDArray[np.uint8]
    row: RowFormat
    n_bytes: int
    time_ns: int

    @property
    def names(self) -> NDArray[np.bytes_]:
        """The digests as texts, shape (n,), which NumPy sorts and compares at once."""
        return np.ascontiguousarray(self.digests).view("S32").reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSurvey:
    """One feature set, and its shards by name: where several have a row, the first serves it."""

    folder: Path
    key: str
    shards: list[StoredShard]


def is_empty(folder: Path) -> bool:
    """Tell whether a feature set's folder is one that a run has only just made, or left so."""
    return not (folder / "recipe.json").exists() and not any(list_shards(folder))


def survey_set(layout: CacheLayout, folder: Path) -> SetSurvey:
    """Look at a feature set.

    Raises
    ------
    DamagedError
        The recipe, or what a shard says of itself, is damaged.
    """
    file = folder / "recipe.json"
    try:
        key = recipe_key(read_recipe(layout, folder))
    except FileNotFoundError as error:
        raise DamagedError(f"{str(file)!r} is missing") from error
    except DamagedError as error:
        raise DamagedError(f"{str(file)!r} is damaged: {error}") from error
    shards = list(_read_shards(folder, key))
    if len({(shard.row.shape, shard.row.dtype) for shard in shards}) > 1:
        raise DamagedError(f"the rows of {str(folder)!r} are of different shapes")
    return SetSurvey(folder=folder, key=key, shards=shards)


def _read_shards(folder: Path, key: str) -> Iterator[StoredShard]:
    for path in sorted(path for path, _ in list_shards(folder)):
        # Another upkeep run may have replaced it.
        with contextlib.suppress(MissingShardError, FileNotFoundError):
            yield describe_shard(path, key, read_digests(path, key))


def describe_shard(path: Path, key: str, digests: NDArray[np.uint8]) -> StoredShard:
    """Describe a shard of which it is known which rows it holds."""
    row, status = read_format(path, key), path.stat()
    return StoredShard(
        path=path, digests=digests, row=row, n_bytes=status.st_size, time_ns=status.st_mtime_ns
    )
