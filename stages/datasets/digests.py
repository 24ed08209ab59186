"""Digests of many files in 32 bytes each, where a list of them takes 88."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 32
# What stands for none; it is no file's SHA-256.
_NONE = bytes(DIGEST_BYTES)
_ROWS_PER_BLOCK = 5000


class Digests(Sequence[bytes]):
    """SHA-256 digests of files, ``b""`` where there is none; NumPy takes them as an array of S32.

    Parameters
    ----------
    array : ndarray of uint8, shape (n, 32)
        Zeros where there is none.
    """

    __slots__ = ("array",)

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> Digests:
        """Return digests of 32 bytes, or none, each."""
        if isinstance(digests, Digests):
            return digests
        packed: NDArray[Any] = np.array(list(digests), "S32")
        return cls(packed.view(np.uint8).reshape(-1, DIGEST_BYTES))

    @classmethod
    def none(cls, n_rows: int) -> Digests:
        """Return as many as there are rows, each ``b""``."""
        return cls(np.zeros((n_rows, DIGEST_BYTES), np.uint8))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> Digests: ...
    def __getitem__(self, row: int | slice) -> bytes | Digests:
        if isinstance(row, slice):
            return Digests(self.array[row])
        raw = self.array[row].tobytes()
        return b"" if raw == _NONE else raw

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            block = np.ascontiguousarray(self.array[start : start + _ROWS_PER_BLOCK])
            for raw in block.view("V32").ravel().tolist():
                yield b"" if raw == _NONE else raw

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Digests):
            return np.array_equal(self.array, other.array)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __array__(
        self,
        dtype: Any = None,
        copy: bool | None = None,  # noqa: FBT001 - NumPy's protocol
    ) -> NDArray[Any]:
        """Return the array as S32, without a copy unless one is asked for."""
        packed = np.ascontiguousarray(self.array).view("S32").ravel()
        return np.array(packed, dtype, copy=copy) if dtype not in (None, "S32") or copy else packed

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask of the rows that have one: ndarray of bool, shape (n,)."""
        return np.asarray(self.array.view(np.uint64).any(axis=1), np.bool_)

    def is_in(self, some: Collection[bytes]) -> NDArray[np.bool_]:
        """Return a mask of the rows whose digest is one of some: ndarray of bool, shape (n,)."""
        words = Digests.of(some).array.view(np.uint64)[:, 0]
        mask = np.isin(self.array.view(np.uint64)[:, 0], words)
        rows = np.flatnonzero(mask)
        mask[rows] = [self[row] in some for row in rows.tolist()]
        return mask

    @property
    def first(self) -> NDArray[np.bool_]:
        """Mask of the rows that have a digest which none before them has: bool, shape (n,)."""
        mask, seen = self.known, set[bytes]()
        for row in self.find_repeated():
            mask[row] = self[row] not in seen
            seen.add(self[row])
        return mask

    def find_repeated(self) -> list[int]:
        """Return the rows that have the digest of another row, too."""
        words = np.ascontiguousarray(self.array.view(np.uint64)[:, 0])
        # Mostly there are none, which takes a tenth of the time to see.
        if not (np.diff(np.sort(words)) == 0).any():
            return []
        order = np.argsort(words)
        same = np.diff(words[order]) == 0
        # Different ones may share their first word.
        rows = np.sort(order[np.append(same, False) | np.append(False, same)]).tolist()
        counts = Counter(map(self.__getitem__, rows))
        return [row for row in rows if self[row] and counts[self[row]] > 1]
