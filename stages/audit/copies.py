"""Images that are there twice, as they are or nearly, and images unlike all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from permafrost.stages.audit.deviation import Finding, measure_deviation, score_beyond
from permafrost.stages.audit.pictures import THUMBNAIL
from permafrost.stages.evaluation.neighbours import Nearest

# Of the distance to ordinary neighbours, the most that a near-duplicate is away. On 1,000 photos
# resized, recompressed and cropped ones lie below 0.36 of it, and ordinary ones from 0.5 on.
NEAR = 0.6
# The correlation of thumbnails from which on two images are one: copies of photos come to 0.98 and
# more, 999 of 1,000 pairs of ordinary neighbours below 0.85.
ALIKE = 0.92
_FAR = 3.0
_FINEST = 16
# Of each side; the two thumbnails are compared with as much of one of them cut away.
_MARGINS = (0.0, 0.025, 0.05)
# Pairs whose pixels are compared: a minute at most.
MOST_PAIRS = 200_000
_PAIRS_AT_ONCE = 256

# Given the rows of pairs, n on each side: how alike their pixels are, shape (n,).
Compare = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


def find_duplicates(digests: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield each row with the first one of the same digest, shape (n, 32), but that one itself."""
    keys = np.ascontiguousarray(digests).view("V32").ravel()
    _, firsts, numbers = np.unique(keys, return_index=True, return_inverse=True)
    first = firsts[numbers]
    for row in np.flatnonzero(first != np.arange(len(keys))):
        yield int(first[row]), int(row)


def measure_distances(cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of directions, from 0 to 2; infinity where there is no neighbour."""
    return np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))


def score_outliers(nearest: Nearest) -> NDArray[np.float64]:
    """Score rows by how much further than usual their neighbours are: shape (n,), 0 where not.

    The mean distance to the k nearest: Angiulli and Pizzuti, "Fast Outlier Detection in High
    Dimensional Spaces" (2002).
    """
    distances = measure_distances(nearest.cosines)
    known = np.isfinite(distances)
    total = np.where(known, distances, 0).sum(axis=1)
    mean = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
    return score_beyond(measure_deviation(mean), _FAR)


def find_near_pairs(
    nearest: Nearest, digests: NDArray[np.uint8], compare: Compare
) -> list[Finding]:
    """Find images that are nearly the same: features by far closer than ordinary, pixels alike.

    Parameters
    ----------
    nearest : Nearest
        The k nearest of each row, among all rows.
    digests : ndarray of uint8, shape (n, 32)
        Equal ones are no near-duplicates.
    compare : callable
        Returns how alike the pixels of pairs are, as `compare_thumbnails`; NaN where unknown.

    Returns
    -------
    list of Finding
        Each pair once, of the later row, the surest first, of the `MOST_PAIRS` closest. Where no
        pixels can be compared, only what is as close as half of `NEAR`.
    """
    distances = measure_distances(nearest.cosines)
    is_known = np.isfinite(distances)
    if not is_known.any() or nearest.cosines.shape[1] < 2:
        return []
    # Its furthest neighbours: the closest ones may be copies themselves.
    usual = np.where(is_known, distances, 0).max(axis=1)
    usual = np.minimum(usual, np.median(distances[is_known]))
    rows, places = np.nonzero(distances < NEAR * usual[:, None])
    others, ratios = nearest.positions[rows, places], distances[rows, places] / usual[rows]
    order = np.lexsort((ratios, np.maximum(rows, others), np.minimum(rows, others)))
    pairs = np.column_stack([np.minimum(rows, others), np.maximum(rows, others)])[order]
    pairs, firsts = np.unique(pairs, axis=0, return_index=True)
    ratios = ratios[order][firsts]
    ratios[(digests[pairs[:, 0]] == digests[pairs[:, 1]]).all(axis=1)] = np.inf
    closest = np.argsort(ratios, kind="stable")[: min(MOST_PAIRS, np.isfinite(ratios).sum())]
    pairs, ratios = pairs[closest], ratios[closest]
    found = list(map(_judge_pair, pairs.tolist(), ratios.tolist(), compare(*pairs.T).tolist()))
    return sorted(filter(None, found), key=lambda pair: -pair.score)


def _judge_pair(rows: tuple[int, int], ratio: float, alike: float) -> Finding | None:
    told = f"{ratio:.2f} of the usual distance"
    if np.isnan(alike) and ratio < NEAR / 2:
        told, score = f"{told}, pixels not compared", 1 - ratio / 2
    elif alike >= ALIKE:
        told, score = f"{told}, pixels correlate {alike:.3f}", alike * (1 - ratio / 2)
    else:
        return None
    return Finding(row=rows[1], other=rows[0], kind="near_duplicate", score=score, detail=told)


def compare_thumbnails(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the largest correlation of thumbnails, one of each two cropped by up to 5 % a side.

    Parameters
    ----------
    left, right : ndarray of uint8, shape (n, THUMBNAIL, THUMBNAIL)

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    best = np.full(len(left), -1.0)
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        mine = slice(start, start + _PAIRS_AT_ONCE)
        one, two = (side[mine].astype(np.float32) for side in (left, right))
        for whole, cut in ((one, two), (two, one)):
            full = _list_cuts()[0][0]
            fixed = _normalise(full.T @ whole @ full)
            for cuts in _list_cuts():
                for x, y in product(cuts, cuts):
                    alike = (fixed * _normalise(y.T @ cut @ x)).sum(axis=(1, 2))
                    np.maximum(best[mine], alike, out=best[mine])
    return best


@cache
def _list_cuts() -> list[list[NDArray[np.float32]]]:
    """Return what shrinks a line of a thumbnail, of each margin with all places of the cut."""
    return [
        [_make_cut(place * margin, 1 - (2 - place) * margin) for place in range(3 if margin else 1)]
        for margin in _MARGINS
    ]


def _make_cut(start: float, stop: float) -> NDArray[np.float32]:
    """Return Pillow's own weights, shape (THUMBNAIL, _FINEST)."""
    lines = Image.fromarray(np.eye(THUMBNAIL, dtype=np.float32))
    box = (start * THUMBNAIL, 0, stop * THUMBNAIL, THUMBNAIL)
    return np.asarray(lines.resize((_FINEST, THUMBNAIL), Image.Resampling.BILINEAR, box=box))


def _normalise(levels: NDArray[Any]) -> NDArray[Any]:
    away = levels - levels.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt((away**2).sum(axis=(1, 2), keepdims=True))
    # Two pictures of one level each are not known to be one.
    found: NDArray[Any] = np.divide(away, lengths, out=np.zeros_like(away), where=lengths > 1)
    return found
