"""Which of the four scenarios of transfer learning: few or many images, of a like or other domain.

The rules are conventions, and are told together with the figures that they are applied to.
"""

from __future__ import annotations

from permafrost.stages.evaluation.intervals import Interval

DIFFERENT, SIMILAR, UNDECIDED = "different", "similar", "undecided"
SMALL, LARGE = "small", "large"

# Where a drop as large as this is not excluded, the last layer is not called as good as the best.
LARGEST_DROP = 0.05
LARGE_ROWS_PER_CLASS = 1000
LARGE_ROWS_PER_1000_WEIGHTS = 1.0


def judge_domain(n_layers: int, peak: int, interval: Interval | None) -> str:
    """Say whether a backbone's last layers fit the images.

    Their domain is another one if an earlier layer is better than the last by more than chance; it
    is alike if the last is the best, or behind the best by `LARGEST_DROP` at most.

    Parameters
    ----------
    n_layers, peak : int
        How many there are, and the place of the best, from the first (0) to the last.
    interval : tuple of float, optional
        95 % of the difference between the best and the last.
    """
    if n_layers == 1 or interval is None:
        return UNDECIDED
    if peak == n_layers - 1:
        return SIMILAR
    if interval[0] > 0:
        return DIFFERENT
    return SIMILAR if interval[1] <= LARGEST_DROP else UNDECIDED


def judge_size(rows_per_class: float, rows_per_1000_weights: float | None) -> str:
    """Say whether rows are many, by both rules; by the first, where weights are not known.

    Parameters
    ----------
    rows_per_class : float
        Training rows, the mean over classes or tags; of values, all rows.
    """
    is_large = rows_per_class >= LARGE_ROWS_PER_CLASS and (
        rows_per_1000_weights is None or rows_per_1000_weights >= LARGE_ROWS_PER_1000_WEIGHTS
    )
    return LARGE if is_large else SMALL
