"""Rows that must not be parted: identical images, and what a column says belongs together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP_COLUMN = "group"


def join_groups(
    digests: Sequence[bytes] | NDArray[np.uint8], column: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Join rows that share a digest or a value of a column, transitively, and number the groups.

    Parameters
    ----------
    digests : sequence of bytes, length n, or ndarray of uint8, shape (n, 32)
        ``b""`` joins nothing.
    column : sequence of str, length n, optional
        Spaces around a value mean nothing; ``""`` joins nothing.

    Returns
    -------
    ndarray of int64, shape (n,)
        From 0 on, in the order of the groups' first rows.

    Examples
    --------
    >>> join_groups([b"a", b"b", b"a", b""], ["", "x", "x", ""]).tolist()
    [0, 0, 0, 1]
    """
    parents = list(range(len(digests)))
    _join_equal(parents, map(bytes, digests))
    _join_equal(parents, (text.strip() for text in column or ()))
    roots = np.array([_find_root(parents, row) for row in range(len(parents))], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def find_group_column(columns: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """Return the column that is called ``group``, in any case; None where there is none."""
    return next((column for name, column in columns.items() if _is_group(name)), None)


def _is_group(name: str) -> bool:
    return name.strip().casefold() == GROUP_COLUMN


def _join_equal(parents: list[int], keys: Iterable[Hashable]) -> None:
    """Join the rows whose keys are equal and not empty."""
    first: dict[Any, int] = {}
    for row, key in enumerate(keys):
        if key and first.setdefault(key, row) != row:
            here, there = _find_root(parents, first[key]), _find_root(parents, row)
            # The first row is the root, so that roots rise with the groups' first rows.
            parents[max(here, there)] = min(here, there)


def _find_root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]  # halves the way for the next search
        row = parents[row]
    return row
