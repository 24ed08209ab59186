"""Texts of many rows in one, where a list of them takes 57 bytes more for each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_BLOCK = 5000


class Texts(Sequence[str]):
    """Different texts of many rows, as their paths are.

    Parameters
    ----------
    joined : str
        All of them, one behind the other.
    bounds : ndarray of unsigned int, shape (n + 1,)
        Where in it each begins, and the last ends.
    """

    __slots__ = ("_bounds", "_joined")

    def __init__(self, joined: str, bounds: NDArray[Any]) -> None:
        self._joined = joined
        self._bounds = bounds.astype(np.min_scalar_type(bounds[-1]))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Return texts, of which some are in a list at a time."""
        if isinstance(texts, Texts):
            return texts
        rest, parts = iter(texts), []
        while block := list(islice(rest, _ROWS_PER_BLOCK)):
            lengths = np.fromiter(map(len, block), np.int64, len(block))
            parts.append(cls("".join(block), np.append(0, np.cumsum(lengths))))
        return cls.join(parts)

    @classmethod
    def join(cls, parts: Sequence[Texts]) -> Texts:
        """Return all of several."""
        lengths = np.concatenate([[0], *(np.diff(part._bounds) for part in parts)])
        return cls("".join(part._joined for part in parts), np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            rows = range(len(self))[row]
            return self.pick(np.arange(rows.start, rows.stop, rows.step))
        row = range(len(self))[row]
        start, stop = self._bounds[row : row + 2].tolist()
        return self._joined[start:stop]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            yield from self[start : start + _ROWS_PER_BLOCK]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return self._joined == other._joined and np.array_equal(self._bounds, other._bounds)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __sizeof__(self) -> int:
        """How much memory all of it takes."""
        return sys.getsizeof(self._joined) + self._bounds.nbytes

    def holds(self, part: str) -> bool:
        """Whether any text holds a part; a text and the next one together are taken for one."""
        return part in self._joined

    def pick(self, rows: NDArray[np.int64]) -> list[str]:
        """Return those of some rows, in the order in which the rows are given."""
        places = map(slice, self._bounds[rows].tolist(), self._bounds[rows + 1].tolist())
        return [*map(self._joined.__getitem__, places)]
