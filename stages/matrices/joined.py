"""Several matrices as one: layers side by side, and views one above the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.matrices.matrix import Matrix, RowOrigin, Rows, Store


@dataclass(frozen=True)
class _Parts:
    """What both ways of putting matrices together have in common.

    Parameters
    ----------
    parts : sequence of Matrix
        At least one.
    """

    parts: Sequence[Matrix]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds the values of every part."""
        return np.result_type(*(part.dtype for part in self.parts))

    def _digest_keys(self, *words: str) -> str:
        keys = [*words, *(part.key for part in self.parts)]
        return hashlib.sha256(" ".join(keys).encode()).hexdigest()


@dataclass(frozen=True)
class JoinedMatrix(_Parts):
    """Matrices of the same rows, side by side.

    Parameters
    ----------
    stores : sequence of (Store or None), optional
        Where what is made of each part alone is kept.
    """

    stores: Sequence[Store | None] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each part has."""
        return tuple(part.shape[1] for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""
        return self.parts[0].shape[0], sum(self.widths)

    @property
    def origin(self) -> RowOrigin:
        """What a row was before it was flattened."""
        return RowOrigin(shape=self.shape[1:])

    @property
    def key(self) -> str:
        """Digest of the parts' keys."""
        return self._digest_keys()

    def read(self, rows: Rows) -> NDArray[Any]:
        """Read rows in the given order."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        own = np.split(out, np.cumsum(self.widths)[:-1], axis=1)
        for part, columns in zip(self.parts, own, strict=True):
            columns[:] = part.read(rows)
        return out

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the columns from left to right, some of them at a time, for all of `rows`."""
        for part in self.parts:
            yield from part.iterate_columns(rows, n_bytes=n_bytes)


def split_layers(matrix: Matrix, store: Store | None) -> list[tuple[Matrix, Store | None]]:
    """Return each layer of a matrix, and where what is made of it is kept: `store` by default."""
    if not isinstance(matrix, JoinedMatrix):
        return [(matrix, store)]
    stores = matrix.stores or [store] * len(matrix.parts)
    return list(zip(matrix.parts, stores, strict=True))


class StackedMatrix(_Parts):
    """Matrices of as many rows and features each, one below the other.

    Row i of part k is row ``i + k * n`` of all, each part having n.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""
        n_rows, n_features = self.parts[0].shape
        return n_rows * len(self.parts), n_features

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer has."""
        return self.parts[0].widths

    @property
    def origin(self) -> RowOrigin:
        """What a row was before it was flattened."""
        return self.parts[0].origin

    @property
    def key(self) -> str:
        """Digest of the parts' keys."""
        return self._digest_keys("stacked")

    def read(self, rows: Rows) -> NDArray[Any]:
        """Read rows in the given order."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        for part, places, own in self._find(rows):
            out[places] = part.read(own)
        return out

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the columns from left to right, some of them at a time, for all of `rows`."""
        found = self._find(rows)
        # Half of it for what the parts give, which may be blocks of different widths.
        shares = (n_bytes * len(own) // (2 * max(1, len(rows))) for _, _, own in found)
        streams = [
            part.iterate_columns(own, n_bytes=share)
            for (part, _, own), share in zip(found, shares, strict=True)
        ]
        left = [next(stream) for stream in streams]
        n_features = self.shape[1]
        while n_features:
            width = min(block.shape[1] for block in left)
            out = np.empty((len(rows), width), self.dtype)
            for (_, places, _), block in zip(found, left, strict=True):
                out[places] = block[:, :width]
            yield out
            n_features -= width
            left = [
                block[:, width:] if block.shape[1] > width or not n_features else next(stream)
                for block, stream in zip(left, streams, strict=True)
            ]

    def _find(self, rows: Rows) -> list[tuple[Matrix, Rows, Rows]]:
        """Return each part that has some of the rows, their places in `rows`, and its own rows."""
        numbers, own = np.divmod(rows, self.parts[0].shape[0])
        places = (np.flatnonzero(numbers == number) for number in range(len(self.parts)))
        found = [(part, some, own[some]) for part, some in zip(self.parts, places, strict=True)]
        return [one for one in found if len(one[1])] or found[:1]


def stack_rows(rows: Rows, *, n_rows: int, times: int) -> Rows:
    """Return the same rows of so many parts of a `StackedMatrix`, each of `n_rows`, part by part.

    Examples
    --------
    >>> stack_rows(np.array([0, 2]), n_rows=5, times=2).tolist()
    [0, 2, 5, 7]
    """
    return np.add.outer(n_rows * np.arange(times), rows).ravel()
