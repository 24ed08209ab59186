"""Which rows of a feature set exist, and where.

The shards are the truth: a shard counts when it lies in the feature set's folder, whatever the
index says. The index only saves reading again which rows each of them holds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.shards.writer import read_digests
from permafrost.cache.store.index import Index, IndexedShard
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, recipe_key

_log = logging.getLogger(__name__)

NO_DIGESTS = np.empty((0, 32), np.uint8)
# While shards are merged, a listing of the folder may show neither the old ones nor the new one:
# only two that are the same tell that a row is nowhere.
MOST_LOOKS = 10


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


class RowTable:
    """Finds rows of some shards by their digests.

    Parameters
    ----------
    shards : iterable of (str, ndarray of uint8, shape (n, 32))
        The name of each, and which rows it holds. Where several have a row, the first by name
        serves it.
    """

    def __init__(self, shards: Iterable[tuple[str, np.ndarray]]) -> None:
        named = sorted(shards, key=lambda shard: shard[0])
        self._names = [name for name, _ in named]
        self._starts = np.cumsum([0, *(len(digests) for _, digests in named)])
        digests = np.concatenate([NO_DIGESTS, *(digests for _, digests in named)])
        self._words = digests.view(np.uint64)
        # Stable: two runs at once may compute a row twice; the first shard by name serves it.
        self._order = np.argsort(self._words[:, 0], kind="stable")
        self._first_words = self._words[self._order, 0]

    def __len__(self) -> int:
        """How many different rows there are."""
        return len(np.unique(self._words, axis=0))

    def locate(self, digests: np.ndarray) -> RowLocations:
        """Find where the rows of digests, uint8 (n, 32), lie."""
        rows = self._find(np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 4))
        number = np.searchsorted(self._starts, rows, side="right") - 1
        used, shard = np.unique(number, return_inverse=True)
        n_nowhere = int((used < 0).sum())
        return RowLocations(
            shards=[self._names[number] for number in used[n_nowhere:]],
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
        self._shards: dict[str, IndexedShard] = {}
        self._table = RowTable(())
        self.refresh()

    def refresh(self) -> None:
        """Look again at what lies in the folder, until it stays; only what has changed is read."""
        for _ in range(MOST_LOOKS):
            stamps = {path.name: stamp for path, stamp in list_shards(self.folder)}
            if stamps == {name: shard.stamp for name, shard in self._shards.items()}:
                return
            self._shards = {shard.name: shard for shard in self._read_shards(stamps)}
            self._table = RowTable((shard.name, shard.digests) for shard in self._shards.values())

    def __len__(self) -> int:
        """How many different rows exist."""
        return len(self._table)

    def locate(self, digests: Sequence[bytes]) -> RowLocations:
        """Find where the rows of these digests lie; ``b""`` lies nowhere."""
        # An empty one becomes 32 zeros, which is no file's SHA-256.
        return self._table.locate(np.array(digests, "S32").view(np.uint8).reshape(-1, 32))

    def add(self, shard: Path, digests: np.ndarray) -> None:
        """Tell the index of a shard that was just published."""
        self._index.replace_shards(self.key, add=[IndexedShard(shard.name, _stamp(shard), digests)])

    def _read_shards(self, stamps: Mapping[str, str]) -> Iterator[IndexedShard]:
        indexed = self._index.shards_of(self.key)
        known = {**indexed, **self._shards}
        unknown: list[IndexedShard] = []
        for name, stamp in stamps.items():
            shard = known.get(name)
            if shard is None or shard.stamp != stamp:
                digests = read_rows_of(self.folder / name, self.key)
                shard = IndexedShard(name, stamp, NO_DIGESTS if digests is None else digests)
                if digests is not None:
                    unknown.append(shard)
            yield shard
        self._index.replace_shards(self.key, add=unknown, remove=indexed.keys() - stamps.keys())


def read_rows_of(path: Path, key: str) -> np.ndarray | None:
    """Read which rows a shard holds: uint8 (n, 32); None where it is gone or, with a word, damaged.

    The rows of a damaged one count as missing. They are computed again, and if together, then
    under the same name.
    """
    try:
        return read_digests(path, key)
    except MissingShardError:
        return None  # Removed since it was listed: its rows lie elsewhere, or nowhere.
    except DamagedError as error:
        _log.warning("%s; its rows count as missing", error)
        return None


def list_shards(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each shard in a feature set's folder, and what tells file versions apart."""
    for path in folder.glob("shard-*.h5"):
        # Another run may merge shards or remove them at any time.
        with contextlib.suppress(FileNotFoundError):
            yield path, _stamp(path)


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
