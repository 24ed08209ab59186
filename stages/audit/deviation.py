"""How far values lie from the rest of their own kind, whatever their unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The median absolute deviation of a normal distribution, in standard deviations.
_NORMAL_MAD = 0.6745


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is said of one row: of which kind, how certainly (0 to 1), and why.

    `other` is the row that it is a copy of.
    """

    row: int
    kind: str
    score: float
    detail: str
    other: int = -1


def measure_deviation(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how many deviations each value lies above the median; NaN stays NaN.

    The modified z-score of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993), on
    the side that a value lies on: a long tail below hides nothing above.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return np.full(len(values), np.nan)
    middle = np.median(known)
    away = np.asarray(values, np.float64) - middle
    away_known = known - middle
    sides = away_known[away_known <= 0], away_known[away_known >= 0]
    spreads = [np.median(np.abs(side)) for side in sides]
    scale = np.where(away < 0, *spreads) / _NORMAL_MAD
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.where(away == 0, 0.0, away / scale)
    return np.where(np.isnan(values), np.nan, found)


def score_beyond(deviation: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Return 0.5 at the bound, and towards 1 the further beyond; 0 of what is within, or NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = 1 - bound / (2 * deviation)
    return np.where(deviation >= bound, scores, 0.0)
