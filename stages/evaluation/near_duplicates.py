"""Test images whose features are nearly those of a training image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.evaluation.neighbours import compute_cosines, find_nearest
from permafrost.stages.matrices.matrix import Matrix, Rows

# The cosine from which on two rows are nearly one.
THRESHOLD = 0.99
N_PAIRS = 10
N_SAMPLED = 256
# Test rows × training rows × features: half a minute on two cores.
MAX_PRODUCTS = 2 * 10**12
# By chance, one ordinary pair in 10⁹ lies so many standard deviations above the mean.
EVIDENT = 6.0


class Pair(NamedTuple):
    """A test row, the training row most like it, and their cosine."""

    test: int
    train: int
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """Test rows that are so like a training row that they measure memory.

    Attributes
    ----------
    n_checked : int
        Test rows that were compared: all, unless that would take minutes; 0 if not `is_telling`.
    n_found : int
        Those of them that have a cosine above `THRESHOLD` with a training row.
    pairs : tuple of Pair
        At most ten of these, best first, each test row once.
    is_centred : bool
        Whether the training rows' mean was taken off all rows first.
    is_telling : bool
        False where ordinary pairs come so close to `THRESHOLD` that being above it says nothing.
    """

    n_checked: int = 0
    n_found: int = 0
    pairs: tuple[Pair, ...] = ()
    is_centred: bool
    is_telling: bool


def find_near_duplicates(
    matrix: Matrix, test: Rows, train: Rows, *, memory_bytes: int
) -> NearDuplicates:
    """Find the test rows that have a cosine above `THRESHOLD` with a training row.

    What comes out of a ReLU is never negative: all rows point to one side, and in early layers
    ordinary photos come above 0.99. So a sample of pairs is looked at first. Fisher's
    transformation artanh makes their cosines nearly normal ("Frequency distribution of the values
    of the correlation coefficient", 1915; on MobileNet's ``conv_pw_6_relu:avg`` it predicts the
    share above 0.99 of 1,000 photos' pairs, 0.0003). If `THRESHOLD` is not `EVIDENT` standard
    deviations above them, as their quartiles have it, the training rows' mean is taken off all
    rows; if it still is not, nothing is compared.

    Parameters
    ----------
    matrix : Matrix
        Finite values.
    test, train : ndarray of int64
        Rows of `matrix`, one of each at least.
    memory_bytes : int
        What blocks of rows and of cosines may take. All is read once if the test rows fit a
        quarter of it, or all cosines a half; otherwise training rows are read again for each
        block of test rows.

    Returns
    -------
    NearDuplicates
        Above `MAX_PRODUCTS` multiplications only of as many test rows, evenly spaced.
    """
    n_checked = min(len(test), max(1, MAX_PRODUCTS // (len(train) * matrix.shape[1])))
    test = _thin(test, n_checked)
    is_telling, is_centred = _judge_cosines(matrix, test, train, memory_bytes)
    nothing = NearDuplicates(is_centred=is_centred, is_telling=is_telling)
    if not is_telling:
        return nothing
    best_of = find_nearest(matrix, test, train, memory_bytes=memory_bytes, is_centred=is_centred)
    cosines, nearest = best_of.cosines[:, 0], best_of.positions[:, 0]
    found = np.flatnonzero(cosines > THRESHOLD)
    best = found[np.argsort(-cosines[found], kind="stable")][:N_PAIRS]
    pairs = (Pair(int(test[i]), int(train[nearest[i]]), float(cosines[i])) for i in best)
    return replace(nothing, n_checked=len(test), n_found=len(found), pairs=tuple(pairs))


def describe_near_duplicates(found: NearDuplicates, paths: Sequence[str]) -> str | None:
    """Return a line for the user, with the rows' `paths`; None where there is nothing to say."""
    if not found.n_found:
        return None
    first = found.pairs[0]
    features = "features less their mean" if found.is_centred else "features"
    return (
        f"{found.n_found} of {found.n_checked} test images are nearly training images (cosine of"
        f" {features} above {THRESHOLD:g}), first {paths[first.test]!r} and"
        f" {paths[first.train]!r} ({first.cosine:.4f}), and flatter the test score; name what"
        " belongs together in a column 'group' and split again"
    )


def _thin(rows: Rows, n_kept: int) -> Rows:
    """Return so many of the rows, evenly spaced."""
    return rows[np.arange(n_kept) * len(rows) // n_kept]


def _judge_cosines(matrix: Matrix, test: Rows, train: Rows, memory_bytes: int) -> tuple[bool, bool]:
    """Return whether cosines tell near-duplicates, and whether rows are to be centred for it."""
    n_sampled = max(2, min(N_SAMPLED, memory_bytes // (16 * matrix.shape[1])))
    some_test, some_train = (
        matrix.read(_thin(rows, min(len(rows), n_sampled))).astype(np.float32, copy=False)
        for rows in (test, train)
    )
    if _is_evident(compute_cosines(some_test, some_train)):
        return True, False
    mean = some_train.mean(axis=0)
    some_test -= mean
    some_train -= mean
    return _is_evident(compute_cosines(some_test, some_train)), True


def _is_evident(cosines: NDArray[np.float32]) -> bool:
    """Whether ordinary pairs, whatever the few best are, hardly ever come above `THRESHOLD`."""
    low, middle, high = np.arctanh(
        np.quantile(cosines, [0.25, 0.5, 0.75]).clip(-0.999999, 0.999999)
    )
    deviation = (high - low) / 1.349  # of a normal distribution with these quartiles
    # No deviation: all rows are one, or centred zeros.
    return bool(0 < EVIDENT * deviation < np.arctanh(THRESHOLD) - middle)
