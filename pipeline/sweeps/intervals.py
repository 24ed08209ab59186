"""How sure the scores on a leaderboard are, and the differences between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.sweeps.journal import FoldRecord
from permafrost.stages.evaluation.comparison import Resamples
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.intervals import Interval, bound_draws, draw_shares

_N_DRAWS = 1000


def count_groups(folds: Sequence[Fold], resamples: Resamples) -> NDArray[np.int64]:
    """Return how many rows each group has, in the order of the evidence of all folds."""
    return np.concatenate([np.bincount(resamples.units(fold)) for fold in range(len(folds))])


def bound_score(
    records: Sequence[FoldRecord], sizes: NDArray[np.int64] | None = None
) -> Interval | None:
    """Return the 95 % interval of the score that heads are ranked by.

    The percentile bootstrap over groups of rows, as for the test split
    (`stages.evaluation.intervals`).

    Parameters
    ----------
    sizes : ndarray of int64, shape (n_groups,), optional
        As `count_groups` gives them; without, groups count as of one size, so that the folds need
        not be known.
    """
    evidence = [record.evidence for record in records]
    if evidence[0].dtype != np.int64:
        return bound_draws(np.sum(evidence, axis=0))
    wrong = np.concatenate(evidence)
    counted = _even_out(records, len(wrong)) if sizes is None else sizes
    return bound_draws(1 - draw_shares(wrong, counted, np.random.default_rng(0), _N_DRAWS))


def _even_out(records: Sequence[FoldRecord], n_groups: int) -> NDArray[np.float64]:
    return np.full(n_groups, sum(record.n_test for record in records) / n_groups)


def bound_difference(ours: Sequence[FoldRecord], theirs: Sequence[FoldRecord]) -> Interval | None:
    """Return the 95 % interval of how much better one head's score is than another's.

    The same bootstrap, paired: both are measured on the same draws. Groups count as of one size,
    which hardly matters to a difference near 0; so the folds need not be known.
    """
    evidence = [[record.evidence for record in records] for records in (ours, theirs)]
    if evidence[0][0].dtype != np.int64:
        return bound_draws(np.sum(evidence[0], axis=0) - np.sum(evidence[1], axis=0))
    saved = np.concatenate(evidence[1]) - np.concatenate(evidence[0])
    sizes = _even_out(ours, len(saved))
    return bound_draws(draw_shares(saved, sizes, np.random.default_rng(0), _N_DRAWS))
