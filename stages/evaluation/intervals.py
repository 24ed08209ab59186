"""How sure a score is, and whether one head is better than another or only luckier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, Targets
from permafrost.stages.evaluation.metrics import Judged, judge, measure_tag_losses

# Weights of draws that are worked on at a time: what fits a processor's cache is fastest.
WEIGHTS_BYTES = 8 * 2**20


def bootstrap_interval(  # noqa: PLR0913
    targets: Targets,
    outputs: NDArray[np.float64],
    classes: NDArray[np.str_],
    *,
    groups: NDArray[Any] | None = None,
    seed: int,
    n_draws: int = 1000,
) -> tuple[float, float] | None:
    """Return the 95 % interval of the metric that heads are chosen by (`metrics.PRIMARY`).

    The percentile bootstrap of Efron, "Bootstrap methods: another look at the jackknife" (1979):
    the rows are drawn anew, with replacement, and measured each time. It says how the score would
    vary with other test rows, not with other training rows; where every row is right it has no
    width.

    Parameters
    ----------
    targets, outputs, classes
        As in `metrics.score`.
    groups : ndarray, shape (n,), optional
        Rows with equal keys are drawn together.
    seed : int
    n_draws : int, optional

    Returns
    -------
    low, high : float
        None if the metric is undefined in every draw. Single draws where it is are left out.

    Raises
    ------
    InputError
        There are no rows.
    """
    judged = judge(targets, outputs, classes)
    units = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    if targets.task == CLASSIFICATION:
        drawn = _draw_accuracies(judged, units, rng, n_draws)
    else:
        draw = _draw_precisions if targets.task == MULTILABEL else _draw_r2
        drawn = draw(judged, units, _iterate_weights(units.max() + 1, rng, n_draws))
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _draw_accuracies(
    judged: Judged, units: NDArray[np.int64], rng: np.random.Generator, n_draws: int
) -> NDArray[np.float64]:
    right = judged.outputs.argmax(axis=1) == judged.truth
    totals = np.column_stack([np.bincount(units, right), np.bincount(units)])
    # Units with the same totals are as good as one another: counting how many of which kind are
    # drawn is the same as drawing them one by one.
    kinds, n_units = np.unique(totals, axis=0, return_counts=True)
    drawn = rng.multinomial(len(totals), n_units / len(totals), size=n_draws) @ kinds
    accuracies: NDArray[np.float64] = drawn[:, 0] / drawn[:, 1]
    return accuracies


def _iterate_weights(
    n_units: int, rng: np.random.Generator, n_draws: int
) -> Iterator[NDArray[np.float32]]:
    """Yield how often each unit is drawn, shape (k, n_units), until there were all draws."""
    step = max(1, WEIGHTS_BYTES // (4 * n_units))
    for start in range(0, n_draws, step):
        weights = np.empty((min(step, n_draws - start), n_units), np.float32)
        for draw in weights:
            draw[:] = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)
        yield weights


def _draw_r2(
    judged: Judged, units: NDArray[np.int64], weights: Iterator[NDArray[np.float32]]
) -> NDArray[np.float64]:
    truth = judged.truth - judged.truth.mean()
    columns = (np.ones(len(truth)), truth, truth**2, (judged.outputs - judged.truth) ** 2)
    totals = np.array([np.bincount(units, column) for column in columns])
    n_rows, sums, squares, errors = np.concatenate([some @ totals.T for some in weights]).T
    spread = squares - sums**2 / n_rows
    # What cancels to nothing but rounding is a draw of one value only.
    spread[spread <= 1e-12 * squares] = np.nan
    r2: NDArray[np.float64] = 1 - errors / spread
    return r2


class _Listing(NamedTuple):
    """A tag's rows from the highest output down, cut behind every output of a row that has it.

    Attributes
    ----------
    listed, found : ndarray of int64
        The units of all rows down to the last cut, and of those among them that have the tag.
    listed_starts, found_starts : ndarray of int64
        Where in these the part before each cut begins.
    """

    listed: NDArray[np.int64]
    listed_starts: NDArray[np.int64]
    found: NDArray[np.int64]
    found_starts: NDArray[np.int64]


def _draw_precisions(
    judged: Judged, units: NDArray[np.int64], weights: Iterator[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return the mean average precision of each draw, over the tags that it has."""
    columns = zip(judged.outputs.T, judged.truth.T, strict=True)
    listings = [_list_rows(*column, units) for column in columns if column[1].any()]
    if not listings:
        return np.empty(0)
    return np.concatenate([_average_precisions(listings, some) for some in weights])


def _list_rows(
    outputs: NDArray[np.float64], truth: NDArray[np.bool_], units: NDArray[np.int64]
) -> _Listing:
    order = np.argsort(-outputs)
    falling, has_tag = -outputs[order], truth[order]
    cuts = np.unique(falling[has_tag])
    listed_stops = np.searchsorted(falling, cuts, "right")
    found_stops = np.searchsorted(falling[has_tag], cuts, "right")
    return _Listing(
        listed=units[order][: listed_stops[-1]],
        listed_starts=np.concatenate([[0], listed_stops[:-1]]),
        found=units[order][has_tag],
        found_starts=np.concatenate([[0], found_stops[:-1]]),
    )


def _average_precisions(
    listings: Sequence[_Listing], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the mean over tags for each draw, NaN where a draw has no tag at all."""
    by_unit = np.ascontiguousarray(weights.T)
    total, n_tags = np.zeros(len(weights)), np.zeros(len(weights))
    for tag in listings:
        # Sums of whole numbers: float32 holds them exactly up to 16 million rows.
        listed = np.add.reduceat(by_unit[tag.listed], tag.listed_starts).cumsum(axis=0)
        hits = np.add.reduceat(by_unit[tag.found], tag.found_starts)
        found = hits.cumsum(axis=0)
        occurs = found[-1] > 0
        precisions = found / np.maximum(listed, 1)
        total[occurs] += ((hits * precisions).sum(axis=0) / np.maximum(found[-1], 1))[occurs]
        n_tags += occurs
    return total / np.where(n_tags, n_tags, np.nan)


def row_losses(
    targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]
) -> NDArray[Any]:
    """Return what `compare_paired` compares two heads by.

    Parameters
    ----------
    targets, outputs, classes
        As in `metrics.score`.

    Returns
    -------
    ndarray, shape (n,)
        classification: bool, whether the row is taken for another class; multilabel: float64, the
        log loss in nats, the mean over tags; regression: float64, the absolute error.
    """
    judged = judge(targets, outputs, classes)
    if targets.task == CLASSIFICATION:
        wrong: NDArray[np.bool_] = judged.outputs.argmax(axis=1) != judged.truth
        return wrong
    if targets.task == MULTILABEL:
        return measure_tag_losses(judged)
    errors: NDArray[np.float64] = np.abs(judged.outputs - judged.truth)
    return errors


def compare_paired(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Test whether two heads differ on the same rows by more than luck.

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        The `row_losses` of both. bool: the exact test of McNemar, "Note on the sampling error of
        the difference between correlated proportions or percentages" (1947): of the rows that one
        head alone has wrong, either has about half if they are alike. float64: the signed-rank
        test of Wilcoxon, "Individual comparisons by ranking methods" (1945).

    Returns
    -------
    float
        Two-sided p value; 1.0 where there is no difference at all. Rows count as independent: with
        groups of related rows it is too small.
    """
    if a.dtype == np.bool_:
        return _test_discordant(int((a & ~b).sum()), int((b & ~a).sum()))
    difference = a - b
    # One head computed in two ways differs by rounding, always to the same side.
    difference[np.abs(difference) <= 1e-9 * np.maximum(np.abs(a), np.abs(b))] = 0
    if not difference.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference).pvalue)


def _test_discordant(n_first: int, n_second: int) -> float:
    """Return the two-sided p value of so many heads and tails from a fair coin."""
    from scipy.stats import binomtest

    n_rows = n_first + n_second
    return float(binomtest(n_first, n_rows).pvalue) if n_rows else 1.0
