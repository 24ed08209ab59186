"""How far the probabilities of classes mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_BINS = 15


def measure_ece(
    outputs: NDArray[np.float64], truth: NDArray[np.int64], *, n_bins: int = N_BINS
) -> float:
    """Return the expected calibration error of the class that is answered.

    Rows are sorted by the probability of that class into bins of as many rows each; the error is
    the mean over rows of how far, in its bin, the mean probability is from the share of right
    answers. Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning" (2015), with bins of equal mass as in Nguyen and O'Connor, "Posterior calibration and
    exploratory analysis for natural language processing models" (2015). Rows of one probability
    are in one bin. Of few rows it is too large: a perfect head has an error as well.

    Parameters
    ----------
    outputs : ndarray of float64, shape (n, n_classes)
    truth : ndarray of int64, shape (n,)
        Columns of `outputs`.
    """
    sure, right = outputs.max(axis=1), outputs.argmax(axis=1) == truth
    edges = np.quantile(sure, np.arange(1, n_bins) / n_bins)
    bins = np.searchsorted(edges, sure, side="left")
    gaps = np.bincount(bins, sure - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(truth))


def measure_brier(outputs: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the score of Brier, "Verification of forecasts expressed in terms of probability".

    The mean over rows of the squares of what is missing from the truth, added up over classes: from
    0 to 2. For two classes scikit-learn's, by default, is half of it. Arguments as of
    `measure_ece`.
    """
    missing = outputs.copy()
    missing[np.arange(len(truth)), truth] -= 1
    return float(np.square(missing).sum(axis=1).mean())
