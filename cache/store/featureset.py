"""Which rows of a feature set exist, and where.

The shards are the truth: a shard counts when it lies in the feature set's folder, whatever the
index says. The index only saves reading again which rows each of them holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from permafrost.cache.shards.locations import RowLocations, RowTable
from permafrost.cache.shards.reader import MOST_LOOKS, list_shards, read_digests_or_none
from permafrost.cache.store.index import Index, IndexedShard
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.stamps import write_stamp

_log = logging.getLogger(__name__)


# Making a table takes half a microsecond a row of the set. So what was added since is looked up in
# a table of its own, up to so many rows, or this share of all.
_MOST_RECENT = 50_000
_RECENT_SHARE = 0.1


class FeatureSet:
    """All rows ever computed under one recipe.

    The index is consulted, and brought up to date with what lies in the folder.
    """

    def __init__(self, layout: CacheLayout, recipe: Recipe, index: Index) -> None:
        self.recipe = recipe
        self.key = recipe_key(recipe)
        self.folder = layout.feature_set_folder(recipe)
        self._index = index
        self._stamps: dict[str, str] = {}
        # Of the shards in the table, by name; the others are in the recent one.
        self._settled: dict[str, str] = {}
        self._table = self._recent = RowTable(())
        self.refresh()

    def refresh(self) -> None:
        """Look again at what lies in the folder, until it stays; only what has changed is read."""
        for _ in range(MOST_LOOKS):
            stamps = {path.name: stamp for path, stamp in sorted(list_shards(self.folder))}
            if stamps == self._stamps:
                return
            self._stamps = stamps
            self._read_recent()

    def settle(self) -> None:
        """Put all rows into one table, so that of two alike the first shard by name serves."""
        if self._settled != self._stamps:
            # Before there is another: the tables are most of what a plan takes.
            self._table = self._recent = RowTable(())
            self._table = RowTable(self._read_shards(self._stamps))
            self._settled = self._stamps

    def __len__(self) -> int:
        """How many different rows exist."""
        self.settle()
        return len(self._table)

    @property
    def table_bytes(self) -> int:
        """How much memory what is known of the rows takes."""
        return self._table.n_bytes + self._recent.n_bytes

    def locate(self, digests: Sequence[bytes]) -> RowLocations:
        """Find where the rows of these digests lie; ``b""`` lies nowhere."""
        # An empty one becomes 32 zeros, which is no file's SHA-256.
        wanted = np.asarray(digests, "S32").view(np.uint8).reshape(-1, 32)
        located = self._table.locate(wanted)
        rows = np.flatnonzero(located.missing) if self._recent.n_rows else np.empty(0, np.int64)
        return located.fill(rows, self._recent.locate(wanted[rows])) if len(rows) else located

    def add(self, shard: Path, digests: np.ndarray) -> None:
        """Tell the index of a shard that was just published."""
        indexed = IndexedShard(shard.name, write_stamp(shard.stat()), digests)
        self._index.replace_shards(self.key, add=[indexed])

    def _read_recent(self) -> None:
        added = {name: stamp for name, stamp in self._stamps.items() if name not in self._settled}
        has_lost = any(self._stamps.get(name) != one for name, one in self._settled.items())
        if has_lost or not self._settled:
            self.settle()
            return
        self._recent = RowTable(self._read_shards(added))
        if self._recent.n_rows > max(_MOST_RECENT, _RECENT_SHARE * self._table.n_rows):
            self.settle()

    def _read_shards(self, stamps: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
        indexed = self._index.stamps_of(self.key)
        unknown: list[IndexedShard] = []
        for name, stamp in stamps.items():
            digests = self._index.rows_of(self.key, name) if indexed.get(name) == stamp else None
            if digests is None:
                digests = read_digests_or_none(self.folder / name, self.key)
                if digests is None:
                    continue
                unknown.append(IndexedShard(name, stamp, digests))
            yield name, digests
        gone = indexed.keys() - self._stamps.keys()
        self._index.replace_shards(self.key, add=unknown, remove=gone)
