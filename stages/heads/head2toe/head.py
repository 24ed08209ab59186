"""The ``head2toe`` head: the most relevant features of all layers, and an exact head on them.

Evci, Dumoulin, Larochelle and Mozer, "Head2Toe: Utilizing Intermediate Representations for Better
Transfer Learning", ICML 2022: features of all layers are scored by the group lasso, a share of
them is kept, and a new head is fitted on those. Here the group lasso is solved, and the head is
`logreg`, or `ridge` of values. It comes as one of these with weights for all features, most of
which are zero, so that it is saved, predicts and is exported as they are.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.estimators import EstimatorHead, widen
from permafrost.stages.heads.fit_rows import FitRows, encode_targets, standardise
from permafrost.stages.heads.head2toe.relevance import measure_relevance, read_columns
from permafrost.stages.heads.linear import fit_standardised, list_parts
from permafrost.stages.heads.loss import Problem, make_head, pose_problem
from permafrost.stages.heads.settings import (
    class_weight_setting,
    layer_scale_setting,
    number,
    positive_setting,
    setting,
)
from permafrost.stages.matrices.budget import format_bytes
from permafrost.stages.matrices.matrix import Rows
from permafrost.stages.matrices.stream import count_least_bytes, leave_for_rows, open_stream

# Weights, slopes, and what a pass over the rows makes of them; moments of columns.
BYTES_PER_WEIGHT, BYTES_PER_FEATURE = 80, 64

# What was scored last, by all that the scores depend on: heads that differ in the share, in what
# comes after, are fitted one after the other on the same folds.
_SCORES: OrderedDict[str, NDArray[np.float64]] = OrderedDict()
_MOST_SCORES_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Head2ToeSettings:
    """Settings of a linear model on the most relevant features.

    Parameters
    ----------
    share : float
        What part of the features is kept; at least one is.
    relevance : float
        Strength of the group lasso that scores them, as a part of the least strength with which no
        feature has weights.
    C : float
        Inverse strength of the L2 penalty of the head on what is kept, whose columns are
        standardised: that of `logreg`, and 1 / alpha of `ridge`.
    scale
        What is done to all features before they are scored, as in `LogregSettings`.
    class_weight
        As in `LogregSettings`.
    """

    share: float = setting(0.01, number(lambda s: 0 < s <= 1), "a number above 0 and up to 1")
    relevance: float = setting(0.1, number(lambda r: 0 < r < 1), "a number between 0 and 1")
    C: float = positive_setting(1.0)
    scale: str = layer_scale_setting("layer")
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


def fit_head2toe(settings: Head2ToeSettings, rows: FitRows) -> EstimatorHead:
    """Score the features on the training rows, and fit a head on those with the highest scores.

    There is nothing to draw or to hold out.

    Raises
    ------
    InputError
        There is too little memory, a row holds NaN or infinity, or all features are constant.
    """
    learnt, matrix = np.sort(rows.train), rows.matrix
    chosen = rows.targets.select(learnt)
    truth = standardise(encode_targets(chosen, settings.class_weight))
    n_features = matrix.shape[1]
    n_bytes = leave_for_rows(
        rows.memory_bytes,
        taken_bytes=n_features * (BYTES_PER_WEIGHT * truth.n_outputs + BYTES_PER_FEATURE),
        least_bytes=2 * count_least_bytes(n_features),
        remedy="pool the layers, as with all:avg",
    )
    n_kept = max(1, round(settings.share * n_features))
    _check_room(settings, (len(learnt), n_kept), n_bytes=n_bytes // 2)
    # One half for rows that pass by, the other for the features that matter.
    stream = open_stream(matrix, learnt, n_bytes=n_bytes // 2)
    problem, columns = pose_problem(stream, truth, scale=settings.scale)
    scores = _score(settings, problem, chosen, n_bytes=n_bytes // 2)
    kept = np.sort(np.argsort(-scores, kind="stable")[:n_kept])
    estimator = _fit_kept(settings, problem, kept, chosen, seed=rows.seed, n_bytes=n_bytes)
    return make_head("head2toe", settings, problem, columns, estimator)


def _check_room(settings: Head2ToeSettings, shape: tuple[int, int], *, n_bytes: int) -> None:
    needed = 4 * shape[0] * shape[1]
    if needed > n_bytes:
        raise InputError(
            f"share={settings.share:g} keeps {shape[1]} features, whose values take"
            f" {format_bytes(needed)}; give a smaller share, or more --memory"
        )


def _score(
    settings: Head2ToeSettings, problem: Problem, targets: Targets, *, n_bytes: int
) -> NDArray[np.float64]:
    matrix, rows = problem.stream.matrix, problem.stream.rows
    facts = (matrix.key, matrix.widths, settings.scale, settings.relevance, settings.class_weight)
    digest = hashlib.sha256(repr((*facts, targets.task, targets.classes.tolist())).encode())
    digest.update(rows.tobytes())
    digest.update(repr(targets.values.tolist()).encode())
    name = digest.hexdigest()
    if name not in _SCORES:
        _SCORES[name] = measure_relevance(problem, strength=settings.relevance, n_bytes=n_bytes)
    scores = _SCORES[name]
    _SCORES.move_to_end(name)
    while len(_SCORES) > 1 and sum(one.nbytes for one in _SCORES.values()) > _MOST_SCORES_BYTES:
        _SCORES.popitem(last=False)
    return scores


def _fit_kept(  # noqa: PLR0913
    settings: Head2ToeSettings,
    problem: Problem,
    kept: Rows,
    targets: Targets,
    *,
    seed: int,
    n_bytes: int,
) -> Any:
    """Return scikit-learn's estimator of all features, scaled as `problem` has them."""
    narrow, scaled = fit_standardised(
        read_columns(problem, kept),
        targets,
        c=settings.C,
        class_weight=settings.class_weight,
        seed=seed,
        memory_bytes=n_bytes,
    )

    def restore(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        wide = np.zeros((len(weights), problem.stream.n_features))
        wide[:, kept] = scaled.restore(weights) / scaled.scaler.scale_
        return wide

    shift = np.zeros(problem.stream.n_features)
    shift[kept] = scaled.scaler.mean_
    estimator = widen(narrow, restore)
    for part in list_parts(estimator):
        part.intercept_ = part.intercept_ - part.coef_ @ shift
    return estimator


def count_kept(head: EstimatorHead, widths: Sequence[int]) -> list[int]:
    """Return how many features of each layer have weights.

    Parameters
    ----------
    head : EstimatorHead
        A fitted ``head2toe``.
    widths : sequence of int
        How many features each layer has.
    """
    parts = list_parts(head.pipeline[-1])
    is_kept = np.any([np.atleast_2d(part.coef_).any(axis=0) for part in parts], axis=0)
    return [int(one.sum()) for one in np.split(is_kept, np.cumsum(widths)[:-1])]
