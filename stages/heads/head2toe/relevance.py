"""Which of many features matter: the group lasso over all of them, by proximal steps.

What is minimised over the weights W of scaled rows, shape (n_features, n_outputs), and a bias that
is not penalised, is loss(W) + λ Σ_j ‖W_j‖ (Yuan and Lin, "Model selection and estimation in
regression with grouped variables", 2006). A gradient step and then a shrinking of each feature's
weights towards zero, which many of them reach, is accelerated as in FISTA (Beck and Teboulle, 2009)
and starts afresh where it overshoots (O'Donoghue and Candès, "Adaptive restart for accelerated
gradient schemes", 2015).

Only features that may have weights at all are stepped through, in memory: those whose slope exceeds
λ. One pass over the rows gives the slopes of all features, and either finds more such ones or
proves the minimum.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError
from permafrost.stages.heads.loss import Problem, normalise
from permafrost.stages.matrices.budget import format_bytes
from permafrost.stages.matrices.matrix import ArrayMatrix, Rows
from permafrost.stages.matrices.stream import RowStream

logger = logging.getLogger(__name__)

# How far a slope may be from what the minimum has, relative to λ.
TOLERANCE = 1e-2
MOST_STEPS = 5000
# At least so many features are added before the next pass over the rows.
LEAST_ADDED = 128
# Of the loss, where a step starts to be tried; rows of length 1 have at most 1.
LEAST_CURVATURE = 1 / 64

Weights = NDArray[np.float64]


def measure_relevance(problem: Problem, *, strength: float, n_bytes: int) -> Weights:
    """Score each feature: the norm of its weights, or how far it is from having any.

    Parameters
    ----------
    problem, strength, n_bytes
        As for `solve_group_lasso`.

    Returns
    -------
    ndarray of float64, shape (n_features,)
        Above 0 the norm. Features without weights have -1 to 0: how much less than λ their slope
        is, relative to it; the first to get weights were λ smaller come first.
    """
    weights, penalty, slopes = solve_group_lasso(problem, strength=strength, n_bytes=n_bytes)
    norms = _measure_norms(weights[:-1])
    return np.where(norms > 0, norms, np.minimum(slopes / penalty - 1, 0))


def solve_group_lasso(
    problem: Problem, *, strength: float, n_bytes: int
) -> tuple[Weights, float, Weights]:
    """Find the weights of the group lasso.

    Parameters
    ----------
    problem : Problem
        Without an L2 penalty.
    strength : float
        λ as a share of the least one with which no feature has weights, below 1.
    n_bytes : int
        What the values of features with weights may take, beside what the stream does.

    Returns
    -------
    weights : ndarray of float64, shape (n_features + 1, n_outputs)
        Of scaled features, and last the bias.
    penalty : float
        λ.
    slopes : ndarray of float64, shape (n_features,)
        The norm of the loss's gradient in the weights of each feature.

    Raises
    ------
    InputError
        All features are constant, or the memory holds too few of them.
    """
    from threadpoolctl import threadpool_limits

    weights = np.zeros(problem.shape)
    weights[-1] = _find_bias(problem)
    slopes = _measure_slopes(problem, weights)
    if not slopes.max() > 0:
        raise InputError("no feature tells the training rows apart: all of them are constant")
    penalty = strength * float(slopes.max())
    active = np.empty(0, np.int64)
    while len(added := _find_missing(slopes, active, penalty)):
        active = np.sort(np.concatenate([active, added]))
        _check_room(problem, active, n_bytes, strength)
        chosen = [*active, len(weights) - 1]
        part = _take_columns(problem, active)
        # So few values are multiplied before a second thread has woken up.
        with threadpool_limits(1, user_api="blas"):
            weights[chosen] = minimise_grouped(part, weights[chosen], penalty)
        slopes = _measure_slopes(problem, weights)
    return weights, penalty, slopes


def _find_missing(slopes: Weights, active: Rows, penalty: float) -> Rows:
    """Return the features that should have weights, steepest first, and no more at a time."""
    missing = np.setdiff1d(np.flatnonzero(slopes > penalty * (1 + TOLERANCE)), active)
    steepest = missing[np.argsort(-slopes[missing], kind="stable")]
    return steepest[: max(LEAST_ADDED, len(active))]


def _check_room(problem: Problem, active: Rows, n_bytes: int, strength: float) -> None:
    needed = 4 * len(problem.stream) * len(active)
    if needed > n_bytes:
        raise InputError(
            f"with relevance={strength:g} more than {len(active)} features have weights, whose"
            f" values take more than {format_bytes(needed)}; give a larger relevance, or more"
            " --memory"
        )


def _find_bias(problem: Problem) -> Weights:
    """Return the best bias where no feature has weights."""
    expected = problem.expect(np.arange(len(problem.stream)))
    mean = (problem.shares * expected).sum(axis=0)
    if problem.link == "identity":
        return np.asarray(mean, np.float64)
    shares = np.clip(mean, 1e-9, 1 - 1e-9)
    bias: Weights = np.log(shares) - (np.log1p(-shares) if problem.link == "sigmoid" else 0)
    return bias


def _measure_slopes(problem: Problem, weights: Weights) -> Weights:
    return _measure_norms(problem.measure(weights.ravel())[1].reshape(problem.shape)[:-1])


def _measure_norms(weights: Weights) -> Weights:
    norms: Weights = np.linalg.norm(weights, axis=1)
    return norms


def read_columns(problem: Problem, columns: Rows) -> NDArray[np.float32]:
    """Read features of all rows, scaled and centred: shape (n_rows, n_columns)."""
    values = np.empty((len(problem.stream), len(columns)), np.float32)
    mean, deviation = problem.mean[columns], problem.deviation[columns]
    rows = np.arange(len(values))
    for positions, features in problem.stream.batches(rows, problem.stream.block_rows):
        scaled = normalise(features, problem.normalised)[:, columns]
        values[positions] = (scaled - mean) / deviation
    return values


def _take_columns(problem: Problem, columns: Rows) -> Problem:
    """Return the same problem for some features alone, in memory."""
    values = read_columns(problem, columns)
    matrix = ArrayMatrix(values)
    stream = RowStream(matrix=matrix, rows=np.arange(len(values)), n_bytes=0, held=values)
    # With rows of about length 1 neither the bias nor the weights are far ahead of the other.
    length = math.sqrt(np.einsum("ij,ij->", values, values, dtype=np.float64) / len(values))
    return dataclasses.replace(
        problem,
        stream=stream,
        normalised=(),
        mean=np.zeros(len(columns)),
        deviation=np.full(len(columns), length),
    )


def minimise_grouped(problem: Problem, start: Weights, penalty: float) -> Weights:
    """Minimise the loss and `penalty` times the norm of each feature's weights.

    Parameters
    ----------
    problem : Problem
        Whose features all have one `deviation`; it only sets the pace.
    start : ndarray of float64, shape (n_features + 1, n_outputs)
        Weights of features that are not divided by it, and last the bias.

    Returns
    -------
    ndarray of float64, shape (n_features + 1, n_outputs)
    """
    unit = np.append(problem.deviation, 1.0)[:, np.newaxis]
    penalty /= unit[0, 0]
    weights: Weights = start * unit
    point = weights
    pace, curvature = 1.0, LEAST_CURVATURE
    for _ in range(MOST_STEPS):
        moved, curvature = _step(problem, point, penalty, curvature)
        if curvature * _measure_norms(moved - point).max() <= TOLERANCE * penalty / 2:
            weights = moved
            break
        is_past = ((point - moved) * (moved - weights)).sum() > 0
        faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead = 0.0 if is_past else (pace - 1) / faster
        point = moved + ahead * (moved - weights)
        weights, pace = moved, 1.0 if is_past else faster
    else:
        logger.warning(
            "head2toe is short of the group lasso's minimum after %d steps; give a larger"
            " relevance",
            MOST_STEPS,
        )
    weights /= unit
    return weights


def _step(
    problem: Problem, point: Weights, penalty: float, curvature: float
) -> tuple[Weights, float]:
    """Take one proximal step, as long as the loss is below the parabola that it assumes."""
    loss, flat = problem.measure(point.ravel())
    slopes = flat.reshape(point.shape)
    while True:
        moved = point - slopes / curvature
        norms = np.maximum(_measure_norms(moved[:-1]), np.finfo(np.float64).tiny)
        moved[:-1] *= np.maximum(0, 1 - penalty / curvature / norms)[:, np.newaxis]
        step = moved - point
        bound = loss + (slopes * step).sum() + curvature / 2 * np.square(step).sum()
        if problem.measure(moved.ravel())[0] <= bound + 1e-12 * max(1.0, abs(loss)):
            return moved, curvature
        curvature *= 2
