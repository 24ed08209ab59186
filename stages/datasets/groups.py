"""Rows that must not be parted: identical images, and what a column says belongs together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import UnknownNameError

GROUP_COLUMN = "group"
# Words in names of columns of which one value often has several images.
_SEEN_OFTEN = {
    *("animal", "biopsy", "burst", "case", "clip", "cluster", "donor", "family", "group"),
    *("identity", "individual", "lesion", "participant", "patient", "people", "person", "scan"),
    *("scene", "sequence", "series", "session", "slide", "specimen", "study", "subject", "track"),
    *("video",),
}
# What an id may be of that is no group: the image itself, or what is to be learnt.
_OF_ONE_ROW_OR_CLASS = {
    *("category", "class", "file", "image", "img", "index", "label", "photo", "picture", "row"),
    *("tag", "target"),
}


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


def find_group_column(
    columns: Mapping[str, Sequence[str]], named: str | None = None
) -> Sequence[str] | None:
    """Return the column `named`, or else the one called ``group``, in any case, if there is one.

    Raises
    ------
    UnknownNameError
        There is no column of the name that was given.
    """
    if named is not None and named not in columns:
        raise UnknownNameError("column", named, columns, where="for --group")
    return next((column for name, column in columns.items() if is_group(name, named)), None)


def is_group(name: str, named: str | None = None) -> bool:
    """Tell whether a column is the one that says which rows belong together."""
    return name == named if named is not None else name.strip().casefold() == GROUP_COLUMN


def find_parted(columns: Mapping[str, Sequence[str]], parts: Sequence[str]) -> dict[str, int]:
    """Find columns that, by their names, say what belongs together, and whose values are parted.

    Parameters
    ----------
    columns : mapping of str to sequence of str, each of length n
    parts : sequence of str, length n
        Which split or fold a row is in; ``""`` for none.

    Returns
    -------
    dict of str to int
        Column → how many of its values have rows in more than one part.
    """
    counts = {}
    for name, column in columns.items():
        if not _looks_like_group(name):
            continue
        found: defaultdict[str, set[str]] = defaultdict(set)
        for value, part in zip(column, parts, strict=True):
            if value.strip() and part:
                found[value.strip()].add(part)
        counts[name] = sum(len(some) > 1 for some in found.values())
    return {name: count for name, count in counts.items() if count}


def describe_parted(found: Mapping[str, int], *, what: str) -> str:
    """Say which columns `find_parted` found, and what to do; `what` parts them."""
    named = ", ".join(f"{name!r} ({count} values)" for name, count in found.items())
    return (
        f"{what} part rows with the same value of {named}; if these belong together, scores are"
        f" too good: keep them together with --group {next(iter(found))}"
    )


def _looks_like_group(name: str) -> bool:
    """Tell whether a column's name speaks of what is seen several times: ``PatientID``."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    stems = {word.removesuffix("id") for word in words} | {word.removesuffix("s") for word in words}
    return bool(stems & _SEEN_OFTEN) or ("id" in words and not stems & _OF_ONE_ROW_OR_CLASS)


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
