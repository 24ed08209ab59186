"""How far probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Claims of about one confidence.

    Attributes
    ----------
    n : int
        How many, one at least.
    claimed, kept : float
        Their mean confidence, and the share of them that are right.
    """

    n: int
    claimed: float
    kept: float


def list_claims(
    outputs: NDArray[np.float64], truth: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return how sure a head is of each thing it says, and whether that is right.

    Parameters
    ----------
    outputs : ndarray of float64, shape (n, n_classes)
    truth : ndarray of int64, shape (n,), or of bool, shape (n, n_classes)
        Columns of `outputs`, and then it says the likeliest class of a row; or of tags, and then
        it says each tag of each row.
    """
    if truth.ndim == 2:
        return outputs.ravel(), truth.ravel()
    return outputs.max(axis=1), outputs.argmax(axis=1) == truth


def fill_bins(claimed: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """Sort claims by their confidence into bins of as many each, from low to high.

    Claims of one confidence are in one bin; empty bins are left out.
    """
    edges = np.quantile(claimed, np.arange(1, N_BINS) / N_BINS)
    number = np.searchsorted(edges, claimed, side="left")
    n, claims, kept = (
        np.bincount(number, weights, minlength=N_BINS) for weights in (None, claimed, right)
    )
    return [
        Bin(n=int(n[one]), claimed=float(claims[one] / n[one]), kept=float(kept[one] / n[one]))
        for one in np.flatnonzero(n)
    ]


def measure_ece(outputs: NDArray[np.float64], truth: NDArray[Any]) -> float:
    """Return the expected calibration error.

    The mean over claims of how far, in its bin, the mean confidence is from the share that is
    right. Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning" (2015), with bins of equal mass as in Nguyen and O'Connor, "Posterior calibration and
    exploratory analysis for natural language processing models" (2015). Of few rows it is too
    large: a perfect head has an error as well.

    Parameters
    ----------
    outputs, truth
        As in `list_claims`.
    """
    claimed, right = list_claims(outputs, truth)
    bins = fill_bins(claimed, right)
    return sum(one.n * abs(one.claimed - one.kept) for one in bins) / len(claimed)


def measure_brier(outputs: NDArray[np.float64], truth: NDArray[Any]) -> float:
    """Return the score of Brier, "Verification of forecasts expressed in terms of probability".

    The mean over rows of the squares of what is missing from the truth, added up over classes: from
    0 to 2. For two classes scikit-learn's, by default, is half of it. Of tags it is the mean over
    rows and tags. Arguments as of `list_claims`.
    """
    if truth.ndim == 2:
        return float(np.square(outputs - truth).mean())
    missing = outputs.copy()
    missing[np.arange(len(truth)), truth] -= 1
    return float(np.square(missing).sum(axis=1).mean())
