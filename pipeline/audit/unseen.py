"""What a head says of every labelled row, without having seen it, nor labels that are doubtful."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.models.measure import Bench, cross_validate, plan_trial
from permafrost.pipeline.tasks.task import count_folds
from permafrost.stages.audit.labels import find_confident
from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.evaluation.crossfit import Trial
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.matrices.matrix import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenLabels:
    """Outputs out of fold.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        All rows with a label.
    targets : Targets
        Of these rows.
    outputs : ndarray of float64, shape (m, n_outputs)
        A column for each class of the targets.
    n_doubted : int
        Rows that no head was fitted on in the second round.
    """

    rows: Rows
    targets: Targets
    outputs: NDArray[np.float64]
    n_folds: int
    n_doubted: int


def predict_labels(bench: Bench, candidate: Candidate, *, n_folds: int | None) -> UnseenLabels:
    """Predict every labelled row out of fold, twice: the second time without doubtful labels.

    Wrong labels bend the heads that are to find them. So what the first round finds confidently of
    another class than its label is left out of the training rows of the second, as confident
    learning trains its final model. Of the first 50 suspects among 1,000 photos with 5 % of their
    labels flipped, 46 are right, in place of 42. Rows of the test split are in the folds as well.

    Parameters
    ----------
    n_folds : int, optional
        Five by default, or as many as the rows allow.

    Raises
    ------
    StageError
        There are too few rows of too few classes.
    """
    labelled = bench.labelled
    rows = np.sort(np.concatenate([labelled.folds, labelled.test]))
    nothing = np.empty(0, np.int64)
    labelled = dataclasses.replace(labelled, folds=rows, test=nothing)
    bench = dataclasses.replace(bench, labelled=labelled)
    n_folds = n_folds or count_folds(labelled, bench.files)
    trial = plan_trial(bench, n_folds=n_folds)
    _, outputs, _ = cross_validate(candidate, trial)
    targets = labelled.targets.select(rows)
    n_doubted = 0
    if targets.task == CLASSIFICATION:
        codes = np.searchsorted(targets.classes, targets.values)
        confident = find_confident(codes, outputs)
        doubtful = (confident >= 0) & (confident != codes)
        if doubtful.any():
            trial, n_doubted = _leave_out(trial, doubtful, codes), int(doubtful.sum())
            _, outputs, _ = cross_validate(candidate, trial)
    return UnseenLabels(
        rows=rows, targets=targets, outputs=outputs, n_folds=n_folds, n_doubted=n_doubted
    )


def _leave_out(trial: Trial, doubtful: NDArray[np.bool_], codes: NDArray[np.int64]) -> Trial:
    """Leave doubtful rows out of the training rows, but of no class more than half."""
    folds = []
    for train, test in trial.folds:
        own = codes[train % len(codes)]
        is_kept = ~doubtful[train % len(codes)]
        n_rows = np.bincount(own)
        is_gutted = 2 * np.bincount(own, is_kept, minlength=len(n_rows)) < n_rows
        folds.append(Fold(train[is_kept | is_gutted[own]], test))
    return dataclasses.replace(trial, folds=folds)
