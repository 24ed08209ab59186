"""Which training rows are held out, to stop early by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.heads.fit_rows import Truth
from permafrost.stages.matrices.matrix import Rows

HELD_OUT_SHARE = 0.1
# Where groups are too large to hold out a tenth, one may be, of at most this share.
LARGEST_SHARE = 0.25
# Fewer held-out rows than this say more about chance than about when to stop.
MIN_HELD_OUT = 10


def hold_out(truth: Truth, groups: NDArray[Any], *, patience: int, seed: int) -> Rows:
    """Choose the rows to watch; those with tags or values as if they were of one class.

    None without `patience`, which then looks at none. Otherwise see `choose_held_out`.
    """
    if not patience:
        return np.empty(0, np.int64)
    is_classification = truth.task == CLASSIFICATION
    codes = truth.values[:, 0] if is_classification else np.zeros(len(truth.values), np.int64)
    return choose_held_out(codes, groups, seed=seed)


def choose_held_out(codes: NDArray[np.int64], groups: NDArray[Any], *, seed: int) -> Rows:
    """Choose the rows on which early stopping watches the loss.

    Parameters
    ----------
    codes : ndarray of int64, shape (n_rows,)
        The class of every row.
    groups : ndarray, shape (n_rows,)
        Rows of equal keys are held out together or not at all.

    Returns
    -------
    ndarray of int64
        About a tenth of every class, and never all of a class; where groups are too large for
        that, one of them. Empty where there are too few rows, or only groups of more than a
        quarter of them.
    """
    _, firsts, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(group_of_row)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    # A group counts as one of its first row's class.
    by_class = shuffled[np.argsort(codes[firsts][shuffled], kind="stable")]
    is_held = np.zeros(len(sizes), np.bool_)
    is_held[by_class[_draw_share(sizes[by_class])]] = True
    if not is_held.any():
        is_held[shuffled[sizes[shuffled] <= LARGEST_SHARE * len(codes)][:1]] = True
    is_lost = ~np.isin(codes, codes[~is_held[group_of_row]])
    is_held[group_of_row[is_lost]] = False
    held_out = np.flatnonzero(is_held[group_of_row])
    return held_out if len(held_out) >= MIN_HELD_OUT else held_out[:0]


def _draw_share(sizes: NDArray[np.int64]) -> list[int]:
    """Choose groups in passing, so that of those passed about a tenth of the rows is chosen."""
    chosen, n_passed, n_chosen = [], 0, 0
    for number, size in enumerate(sizes.tolist()):
        n_passed += size
        if n_chosen + size / 2 < HELD_OUT_SHARE * n_passed:
            chosen.append(number)
            n_chosen += size
    return chosen
