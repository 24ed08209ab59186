"""How far probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import MULTILABEL, Targets
from permafrost.stages.evaluation.metrics import judge

N_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The claims of about one confidence.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far probabilities mean what they say.

    Attributes
    ----------
    bins : tuple of Bin
        From low confidence to high.
    expected_error : float
        The mean distance of `claimed` and `kept` over the bins, weighted by their sizes.
    brier : float
        The mean squared distance of probabilities from the truth, summed over classes.
    """

    bins: Sequence[Bin]
    expected_error: float
    brier: float


def measure_calibration(
    targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]
) -> Calibration:
    """Compare probabilities with how often they come true.

    The expected calibration error (Naeini et al., "Obtaining well calibrated probabilities using
    Bayesian binning", 2015; of the likeliest class: Guo et al., "On calibration of modern neural
    networks", 2017) and the score of Brier, "Verification of forecasts expressed in terms of
    probability" (1950).

    Parameters
    ----------
    targets, outputs, classes
        As in `metrics.score`, of classes or tags. Of classes, a claim is the likeliest one of a
        row; of tags, each tag of each row, and the Brier score is the mean over tags.
    """
    judged = judge(targets, outputs, classes)
    if targets.task == MULTILABEL:
        claimed, kept = judged.outputs.ravel(), judged.truth.ravel()
        brier = float(np.square(judged.outputs - judged.truth).mean())
    else:
        claimed = judged.outputs.max(axis=1)
        kept = judged.outputs.argmax(axis=1) == judged.truth
        truth = np.eye(len(judged.classes))[judged.truth]
        brier = float(np.square(judged.outputs - truth).sum(axis=1).mean())
    bins = _fill_bins(claimed, kept)
    error = sum(one.n * abs(one.claimed - one.kept) for one in bins) / len(claimed)
    return Calibration(bins=bins, expected_error=error, brier=brier)


def _fill_bins(claimed: NDArray[np.float64], kept: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Sort claims into bins of equal width; empty ones are left out."""
    number = np.minimum((claimed * N_BINS).astype(np.int64), N_BINS - 1)
    n, claims, right = (
        np.bincount(number, weights, minlength=N_BINS) for weights in (None, claimed, kept)
    )
    return tuple(
        Bin(n=int(n[i]), claimed=float(claims[i] / n[i]), kept=float(right[i] / n[i]))
        for i in np.flatnonzero(n)
    )
