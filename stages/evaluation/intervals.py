"""How sure a score is: the metric that heads are chosen by, on rows drawn anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, Targets
from permafrost.stages.evaluation.metrics import Judged, judge

# Weights of draws that are worked on at a time: what fits a processor's cache is fastest.
WEIGHTS_BYTES = 8 * 2**20

Interval = tuple[float, float]


def bootstrap_interval(  # noqa: PLR0913
    targets: Targets,
    outputs: NDArray[np.float64],
    classes: NDArray[np.str_],
    *,
    groups: NDArray[Any] | None = None,
    seed: int,
    n_draws: int = 1000,
) -> Interval | None:
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
        right = judged.outputs.argmax(axis=1) == judged.truth
        drawn = draw_shares(np.bincount(units, right), np.bincount(units), rng, n_draws)
    else:
        n_units = units.max() + 1
        weights = iterate_weights(n_units, rng, np.full(n_draws, n_units))
        drawn = draw_scores(targets.task, judged, units, weights)
    return bound_draws(drawn)


def bound_draws(drawn: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % interval of draws; None where none is defined."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def draw_shares(
    counts: NDArray[Any], sizes: NDArray[Any], rng: np.random.Generator, n_draws: int
) -> NDArray[np.float64]:
    """Draw units anew, with replacement, and return the sum of their counts over that of sizes.

    Parameters
    ----------
    counts, sizes : ndarray, shape (n_units,)
        Of what is counted, and of all rows, in each unit.

    Returns
    -------
    ndarray of float64, shape (n_draws,)
    """
    totals = np.column_stack([counts, sizes])
    # Units with the same totals are as good as one another: counting how many of which kind are
    # drawn is the same as drawing them one by one.
    kinds, n_units = np.unique(totals, axis=0, return_counts=True)
    drawn = rng.multinomial(len(totals), n_units / len(totals), size=n_draws) @ kinds
    shares: NDArray[np.float64] = drawn[:, 0] / drawn[:, 1]
    return shares


def iterate_weights(
    n_units: int, rng: np.random.Generator, n_drawn: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Yield how often each unit is drawn, shape (k, n_units), until there were all draws.

    Parameters
    ----------
    n_drawn : ndarray of int64, shape (n_draws,)
        How many units each draw takes.
    """
    step = max(1, WEIGHTS_BYTES // (4 * n_units))
    for start in range(0, len(n_drawn), step):
        sizes = n_drawn[start : start + step].tolist()
        weights = np.empty((len(sizes), n_units), np.float32)
        for draw, size in zip(weights, sizes, strict=True):
            draw[:] = np.bincount(rng.integers(n_units, size=size), minlength=n_units)
        yield weights


def draw_scores(
    task: str, judged: Judged, units: NDArray[np.int64], weights: Iterable[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Measure the metric that heads are chosen by on each draw, of tags or values.

    Parameters
    ----------
    task : str
        ``multilabel`` or ``regression``.
    judged : Judged
        Of n rows.
    units : ndarray of int64, shape (n,)
        Which rows are drawn together.
    weights : iterable of ndarray of float32, shape (k, n_units)
        As `iterate_weights` yields them.

    Returns
    -------
    ndarray of float64, shape (n_draws,)
        NaN where the metric is undefined.
    """
    draw = _draw_precisions if task == MULTILABEL else _draw_r2
    return draw(judged, units, weights)


def _draw_r2(
    judged: Judged, units: NDArray[np.int64], weights: Iterable[NDArray[np.float32]]
) -> NDArray[np.float64]:
    truth = judged.truth - judged.truth.mean()
    columns = (np.ones(len(truth)), truth, truth**2, (judged.outputs - judged.truth) ** 2)
    totals = np.array([np.bincount(units, column) for column in columns])
    n_rows, sums, squares, errors = np.concatenate([some @ totals.T for some in weights]).T
    spread = squares - sums**2 / np.maximum(n_rows, 1)
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
    judged: Judged, units: NDArray[np.int64], weights: Iterable[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return the mean average precision of each draw, over the tags that it has."""
    columns = zip(judged.outputs.T, judged.truth.T, strict=True)
    listings = [_list_rows(*column, units) for column in columns if column[1].any()]
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
        listed = _sum_parts(by_unit, tag.listed, tag.listed_starts)
        hits = _sum_parts(by_unit, tag.found, tag.found_starts)
        _accumulate(listed)
        found = hits.copy()
        _accumulate(found)
        occurs = found[-1] > 0
        hits *= found
        hits /= np.maximum(listed, 1, out=listed)
        total[occurs] += hits.sum(axis=0, dtype=np.float64)[occurs] / found[-1][occurs]
        n_tags += occurs
    return total / np.where(n_tags, n_tags, np.nan)


def _sum_parts(
    by_unit: NDArray[np.float32], units: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Add up the rows of `by_unit` that each part of `units` names, shape (n_parts, k)."""
    from scipy.sparse import csr_array

    # A third of the time that gathering the rows and numpy's `add.reduceat` take.
    ones, stops = np.ones(len(units), np.float32), np.append(starts, len(units))
    parts = csr_array((ones, units, stops), shape=(len(starts), len(by_unit)))
    sums: NDArray[np.float32] = parts @ by_unit
    return sums


def _accumulate(rows: NDArray[np.float32]) -> None:
    """Add to each row all those before it; `cumsum` down the columns takes five times as long."""
    for before, after in itertools.pairwise(rows):
        np.add(before, after, out=after)
