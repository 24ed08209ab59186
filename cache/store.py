"""Which rows of a feature set exist, and where.

The shards are the truth: a shard counts when it lies in the feature set's folder, whatever the
index says. The index only saves reading again which rows each of them holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import DamagedError
from cache.index import Index, IndexedShard
from cache.key import Recipe, recipe_key
from cache.layout import CacheLayout
from cache.shard import read_digests

_log = logging.getLogger(__name__)

_NO_DIGESTS = np.empty((0, 32), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLocations:
    """Where rows lie.

    Attributes
    ----------
    shards : list of str
        File names of those that hold one of the rows, sorted: a view then is the same whatever
        else the feature set holds.
    shard : ndarray of int32, shape (n,)
        Index into `shards`; -1 where the row does not exist.
    row : ndarray of int64, shape (n,)
        Row inside that shard.
    """

    shards: list[str]
    shard: np.ndarray
    row: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """Mask of the rows that do not exist: ndarray of bool, shape (n,)."""
        missing: np.ndarray = self.shard < 0
        return missing

    def select(self, rows: slice | np.ndarray) -> RowLocations:
        """Return the locations of some of the rows."""
        return RowLocations(shards=self.shards, shard=self.shard[rows], row=self.row[rows])


class FeatureSet:
    """All rows ever computed under one recipe.

    Parameters
    ----------
    layout : CacheLayout
    recipe : Recipe
    index : Index
        Consulted, and brought up to date with what lies in the folder.
    """

    def __init__(self, layout: CacheLayout, recipe: Recipe, index: Index) -> None:
        self.recipe = recipe
        self.key = recipe_key(recipe)
        self.folder = layout.feature_set_folder(recipe)
        self._index = index
        self.refresh()

    def refresh(self) -> None:
        """Look again at what lies in the folder."""
        shards = sorted(self._read_shards(), key=lambda shard: shard.name)
        self._shards = [shard.name for shard in shards]
        self._starts = np.cumsum([0, *(len(shard.digests) for shard in shards)])
        digests = np.concatenate([_NO_DIGESTS, *(shard.digests for shard in shards)])
        self._words = digests.view(np.uint64)
        # Stable: two runs at once may compute a row twice; the first shard by name serves it.
        self._order = np.argsort(self._words[:, 0], kind="stable")
        self._first_words = self._words[self._order, 0]

    def __len__(self) -> int:
        """How many different rows exist."""
        return len(np.unique(self._words, axis=0))

    def locate(self, digests: Sequence[bytes]) -> RowLocations:
        """Find where the rows of these digests lie; ``b""`` lies nowhere."""
        # An empty one becomes 32 zeros, which is no file's SHA-256.
        rows = self._find(np.array(digests, "S32").view(np.uint64).reshape(-1, 4))
        number = np.searchsorted(self._starts, rows, side="right") - 1
        used, shard = np.unique(number, return_inverse=True)
        n_nowhere = int((used < 0).sum())
        return RowLocations(
            shards=[self._shards[number] for number in used[n_nowhere:]],
            shard=(shard.reshape(-1) - n_nowhere).astype(np.int32),
            row=np.where(rows < 0, -1, rows - self._starts[number]),
        )

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        """Return the row of each digest, counted through all shards; -1 for none."""
        rows = np.full(len(wanted), -1, np.int64)
        at = np.searchsorted(self._first_words, wanted[:, 0])
        left = np.arange(len(wanted))
        # One round is enough, unless different digests share their first word.
        while len(left):
            left = left[at[left] < len(self._order)]
            left = left[self._first_words[at[left]] == wanted[left, 0]]
            candidates = self._order[at[left]]
            equal = (self._words[candidates] == wanted[left]).all(axis=1)
            rows[left[equal]] = candidates[equal]
            left = left[~equal]
            at[left] += 1
        return rows

    def add(self, shard: Path, digests: np.ndarray) -> None:
        """Tell the index of a shard that was just published."""
        self._index.replace_shards(self.key, add=[IndexedShard(shard.name, _stamp(shard), digests)])

    def _read_shards(self) -> Iterator[IndexedShard]:
        indexed = self._index.shards_of(self.key)
        unknown: list[IndexedShard] = []
        stamps = dict(self._list_shards())
        for name, stamp in stamps.items():
            shard = indexed.get(name)
            if shard is None or shard.stamp != stamp:
                shard = self._read_unknown(name, stamp)
                if shard is None:
                    continue
                unknown.append(shard)
            yield shard
        self._index.replace_shards(self.key, add=unknown, remove=indexed.keys() - stamps.keys())

    def _list_shards(self) -> Iterator[tuple[str, str]]:
        if self.folder.is_dir():
            for path in self.folder.glob("shard-*.h5"):
                yield path.name, _stamp(path)

    def _read_unknown(self, name: str, stamp: str) -> IndexedShard | None:
        try:
            digests = read_digests(self.folder / name, self.key)
        except DamagedError as error:
            # Its rows count as missing: they are computed again, under the same name if together.
            _log.warning("%s; its rows will be computed again", error)
            return None
        return IndexedShard(name, stamp, digests)


def split_digests(digests: np.ndarray) -> list[bytes]:
    """Turn uint8 (n, 32) into n digests of 32 bytes."""
    split: list[bytes] = np.ascontiguousarray(digests).view("V32").ravel().tolist()
    return split


def join_digests(digests: Sequence[bytes]) -> np.ndarray:
    """Turn n digests of 32 bytes into uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"
