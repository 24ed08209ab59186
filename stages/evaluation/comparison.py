"""Whether one head is better than another by what they are ranked by, or only luckier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.intervals import draw_scores, iterate_weights
from permafrost.stages.evaluation.metrics import judge

# Weights of up to 16,000 groups are kept for the next head; drawing them takes longer than an R².
_KEPT_BYTES = 64 * 2**20
# Means of the same scores, added up in another order or by another processor, differ by less.
_ROUNDING = 1e-9


class Resamples:
    """The groups of test rows drawn anew, with replacement, and the same for every head.

    Of n groups each draw takes n - 1, wherever they lie, so that the draws vary as much as the
    score itself would with other groups; n of n vary by the factor (n - 1) / n less (Rao and Wu,
    "Resampling inference with complex survey data", 1988). A fold counts by the share of its
    groups that a draw took: with one group a fold, that is a draw of folds.

    Parameters
    ----------
    folds : sequence of Fold
    groups : ndarray, shape (n_rows,)
        Of the rows that the folds speak of: rows with equal keys are drawn together.
    """

    def __init__(
        self, folds: Sequence[Fold], groups: NDArray[Any], *, seed: int, n_draws: int = 1000
    ) -> None:
        self._units = [np.unique(groups[fold.test], return_inverse=True)[1] for fold in folds]
        sizes = np.array([units.max() + 1 for units in self._units])
        n_units = sizes.sum()
        rng = np.random.default_rng(seed)
        self._n_drawn = rng.multinomial(n_units - 1, sizes / n_units, size=n_draws)
        shares = self._n_drawn / sizes
        # A single group cannot be drawn without itself: all draws are undefined.
        self._shares = shares / np.where(shares.any(axis=1), shares.sum(axis=1), np.nan)[:, None]
        self._seed = seed
        self._is_kept = 4 * n_draws * n_units <= _KEPT_BYTES
        self._kept: dict[int, list[NDArray[np.float32]]] = {}

    def units(self, fold: int) -> NDArray[np.int64]:
        """Return the number of each test row's group within the fold, from 0 on."""
        return self._units[fold]

    def shares(self, fold: int) -> NDArray[np.float64]:
        """Return what the fold counts in each draw, shape (n_draws,); all folds add up to 1."""
        shares: NDArray[np.float64] = self._shares[:, fold]
        return shares

    def weights(self, fold: int) -> Iterable[NDArray[np.float32]]:
        """Return how often each of the fold's groups is drawn, as `iterate_weights` does."""
        if fold in self._kept:
            return self._kept[fold]
        # A seed of its own: the first group of one fold has nothing to do with that of another.
        rng = np.random.default_rng([self._seed, fold])
        weights = iterate_weights(self._units[fold].max() + 1, rng, self._n_drawn[:, fold])
        return self._kept.setdefault(fold, list(weights)) if self._is_kept else weights


def collect_evidence(
    targets: Targets,
    outputs: NDArray[np.float64],
    classes: NDArray[np.str_],
    *,
    resamples: Resamples,
    fold: int,
) -> NDArray[Any]:
    """Return what one head's results on a fold contribute to its comparison with others.

    Parameters
    ----------
    targets, outputs, classes
        Of the fold's test rows, as in `metrics.score`.
    fold : int
        Which of its folds.

    Returns
    -------
    ndarray
        Of a classification int64, shape (n_groups,): how many of each group's rows are taken for
        another class. Else float64, shape (n_draws,): the part of the fold in the mean of the
        metric that heads are ranked by (`metrics.PRIMARY`) over the folds of each draw; NaN where
        it is undefined.
    """
    judged = judge(targets, outputs, classes)
    units = resamples.units(fold)
    if targets.task == CLASSIFICATION:
        wrong = judged.outputs.argmax(axis=1) != judged.truth
        return np.bincount(units, wrong).astype(np.int64)
    drawn = draw_scores(targets.task, judged, units, resamples.weights(fold))
    shares = resamples.shares(fold)
    part: NDArray[np.float64] = np.where(shares == 0, 0.0, shares * drawn)
    return part


def compare_counts(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Test whether two classifiers differ in accuracy on the same groups of rows by more than luck.

    If they are alike, either may as well have made the other's mistakes in any one group: the
    randomisation test of Fisher, "The Design of Experiments" (1935), over all exchanges at once.
    Where every row is a group of its own, it is the exact test of McNemar, "Note on the sampling
    error of the difference between correlated proportions or percentages" (1947).

    Parameters
    ----------
    a, b : ndarray of int64, shape (n_groups,)
        The `collect_evidence` of both, of all folds.

    Returns
    -------
    float
        Two-sided p value; 1.0 where there is no difference at all. Rows of all folds count alike,
        as they do in the mean over folds where these are of one size.
    """
    differences = a - b
    sizes, n_groups = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of each sum of what goes to the first
    for size, n in zip(sizes.tolist(), n_groups.tolist(), strict=True):
        part = np.zeros(size * n + 1)
        part[::size] = _toss(n)
        chances = np.convolve(chances, part)
    imbalance = np.abs(2 * np.arange(len(chances)) - (len(chances) - 1))
    return min(1.0, float(chances[imbalance >= abs(differences.sum())].sum()))


def _toss(n: int) -> NDArray[np.float64]:
    """Return the chance of each number of heads, from 0 to n, of n fair coins.

    SciPy has it too, but takes a second to load, which a sweep with nothing to do need not.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # of the factorials
    chances: NDArray[np.float64] = np.exp(logs[n] - logs - logs[::-1] - n * np.log(2))
    return chances


def compare_draws(a: NDArray[np.float64], b: NDArray[np.float64], *, difference: float) -> float:
    """Test whether two heads differ in what they are ranked by, by more than luck.

    The paired bootstrap test of Efron and Tibshirani, "An Introduction to the Bootstrap" (1993),
    chapter 16. The differences d* of the draws scatter around the measured one, d, as that would
    around 0 if the heads were alike, so that

        p = (1 + the number of draws with |d* - d| >= |d|) / (1 + the number of draws).

    The ones, of the measured difference itself, keep p from being 0 (Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 4.2).

    Parameters
    ----------
    a, b : ndarray of float64, shape (n_draws,)
        The `collect_evidence` of both, added up over the folds.
    difference : float
        Of the means over folds by which the heads are ranked.

    Returns
    -------
    float
        Two-sided p value; 1.0 where there is no difference at all, and where no draw defines one.
        Resamples of an
        R² over folds of few groups scatter widely, which makes it too large.
    """
    drawn = a - b
    drawn = drawn[np.isfinite(drawn)]
    if abs(difference) <= _ROUNDING or not len(drawn):
        return 1.0
    n_extreme = (np.abs(drawn - difference) >= abs(difference) - _ROUNDING).sum()
    return float(1 + n_extreme) / (1 + len(drawn))
