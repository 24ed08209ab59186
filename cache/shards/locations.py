"""Which shard and row holds the features of an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NO_DIGESTS = np.empty((0, 32), np.uint8)
# Looked for together: what that takes is a hundred bytes a row.
_ROWS_PER_BLOCK = 65_536
# So much of each digest is kept in a table, which is most of what a plan takes. No two files share
# it by chance; reading a row compares the digest as a whole.
_KEPT_BYTES = 16


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

    def find_runs(self) -> np.ndarray:
        """Find where each run begins: rows, at least one, that follow each other in one shard.

        Returns
        -------
        ndarray of int64, shape (n_runs,)
        """
        follows = (np.diff(self.shard) == 0) & (np.diff(self.row) == 1)
        return np.flatnonzero(np.append(True, ~follows)[: len(self.row)])

    def select(self, rows: slice | np.ndarray) -> RowLocations:
        """Return the locations of some of the rows."""
        return RowLocations(shards=self.shards, shard=self.shard[rows], row=self.row[rows])

    def fill(self, rows: np.ndarray, found: RowLocations) -> RowLocations:
        """Return these locations, with those of some rows taken from where they were found."""
        names = sorted({*self.shards, *found.shards})
        places = {name: place for place, name in enumerate(names)}
        # The last of each is for -1, which is no shard.
        own, other = (
            np.array([*map(places.__getitem__, one.shards), -1], np.int32) for one in (self, found)
        )
        shard, row = own[self.shard], self.row.copy()
        shard[rows], row[rows] = other[found.shard], found.row
        return RowLocations(shards=names, shard=shard, row=row)


class RowTable:
    """Finds rows of some shards by their digests.

    Parameters
    ----------
    shards : iterable of (str, ndarray of uint8, shape (n, 32))
        The name of each, in order, and which rows it holds. Where several have a row, the first by
        name serves it.
    """

    def __init__(self, shards: Iterable[tuple[str, np.ndarray]]) -> None:
        self._names: list[str] = []
        ends, joined = [0], bytearray()
        # One by one: two copies of all digests would be the most that a plan takes.
        for name, digests in shards:
            self._names.append(name)
            joined += _take_words(digests).data
            ends.append(len(joined) // _KEPT_BYTES)
        self._starts = np.array(ends)
        self._words = _take_words(np.frombuffer(joined, np.uint8).reshape(-1, _KEPT_BYTES))
        # Stable: two runs at once may compute a row twice; the first shard by name serves it.
        order = np.argsort(self._words[:, 0], kind="stable")
        self._first_words = self._words[order, 0]
        self._order = order.astype(np.min_scalar_type(len(order)))

    def __len__(self) -> int:
        """How many different rows there are."""
        return len(np.unique(self._words, axis=0))

    @property
    def n_rows(self) -> int:
        """How many rows there are, those that several shards hold counted each time."""
        return len(self._words)

    @property
    def n_bytes(self) -> int:
        """How much memory the table takes."""
        tables = (self._words, self._order, self._first_words)
        return sum(int(table.nbytes) for table in tables)

    def locate(self, digests: np.ndarray) -> RowLocations:
        """Find where the rows of digests, uint8 (n, 32), lie."""
        number, row = np.empty(len(digests), np.int32), np.empty(len(digests), np.int64)
        for start in range(0, len(digests), _ROWS_PER_BLOCK):
            block = slice(start, start + _ROWS_PER_BLOCK)
            found = self._find(_take_words(digests[block]))
            number[block] = np.searchsorted(self._starts, found, side="right") - 1
            row[block] = np.where(found < 0, -1, found - self._starts[number[block]])
        used = np.unique(number)
        shards = used[used >= 0].tolist()
        places = np.full(len(self._names) + 1, -1, np.int32)
        places[shards] = np.arange(len(shards))
        return RowLocations(
            shards=[self._names[one] for one in shards], shard=places[number], row=row
        )

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        """Return the row of each digest, counted through all shards; -1 for none."""
        rows = np.full(len(wanted), -1, np.int64)
        # In order, which finds those of a million rows in a seventh of the time.
        order = np.argsort(wanted[:, 0])
        at = np.empty(len(wanted), np.int64)
        at[order] = np.searchsorted(self._first_words, wanted[order, 0])
        left = np.arange(len(wanted))
        # One round is enough, unless different digests share their first word.
        while len(left):
            left = left[at[left] < len(self._order)]
            left = left[self._first_words[at[left]] == wanted[left, 0]]
            candidates = self._order[at[left]].astype(np.int64)
            equal = (self._words[candidates] == wanted[left]).all(axis=1)
            rows[left[equal]] = candidates[equal]
            left = left[~equal]
            at[left] += 1
        return rows


def _take_words(digests: np.ndarray) -> np.ndarray:
    """Return what is kept of digests as numbers: uint64, shape (n, 2)."""
    return np.ascontiguousarray(digests[:, :_KEPT_BYTES]).view(np.uint64)


def split_digests(digests: np.ndarray) -> list[bytes]:
    """Turn uint8 (n, 32) into n digests of 32 bytes."""
    split: list[bytes] = np.ascontiguousarray(digests).view("V32").ravel().tolist()
    return split


def join_digests(digests: Sequence[bytes]) -> np.ndarray:
    """Turn n digests of 32 bytes into uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
