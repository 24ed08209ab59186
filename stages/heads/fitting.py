"""Heads fitted, whatever their kind, and calibrated on folds of the rows that they learn from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.calibration import CalibrationPlan, calibrate, find_floor
from permafrost.stages.heads.estimators import FittedEstimator
from permafrost.stages.heads.fit_rows import Checkpoint, FitRows
from permafrost.stages.heads.head import Head, predict_rows
from permafrost.stages.heads.registry import HEADS, check_task
from permafrost.stages.matrices.matrix import Matrix, Rows, Store
from permafrost.stages.matrices.reduction import scale_rows


def fit_head(  # noqa: PLR0913
    kind: str,
    settings: Any,
    matrix: Matrix,
    targets: Targets,
    *,
    train: Rows,
    seed: int,
    groups: NDArray[Any] | None = None,
    memory_bytes: int = 4_000_000_000,
    store: Store | None = None,
    checkpoint: Checkpoint | None = None,
    calibration: CalibrationPlan | None = None,
) -> Head:
    """Fit a head; nothing but the training rows is learnt from.

    Parameters
    ----------
    kind : str
        A name in `HEADS`.
    settings : dataclass
        What `parse_settings` returned for this kind.
    targets : Targets
        Of all rows of `matrix`.
    train : ndarray of int64
        The training rows of `matrix`.
    seed : int
        The same seed and rows give the same head.
    groups : ndarray, shape (n_rows,), optional
        Rows of equal keys belong together: none of them is held out while another is learnt from.
        By default each row is a group of its own.
    memory_bytes : int
        What the fit may take.
    store : Store, optional
        Keeps reduced rows for the next fit.
    checkpoint : Checkpoint, optional
        Keeps the state of a head that is trained.
    calibration : CalibrationPlan, optional
        Of a classification.

    Raises
    ------
    InputError
        The head cannot do the task; too few training rows or classes; features that are NaN or
        infinite; too little memory.
    """
    if len(targets) != matrix.shape[0]:
        raise InputError(
            f"{matrix.shape[0]} rows of features have {len(targets)} labels; give one each"
        )
    truth = targets.select(train)
    check_training(kind, truth)
    if not HEADS[kind].is_estimator:
        rows = FitRows(
            matrix=matrix,
            targets=targets,
            train=train,
            groups=np.arange(len(targets)) if groups is None else groups,
            seed=seed,
            memory_bytes=memory_bytes,
            checkpoint=checkpoint,
        )
        return fit_trained(kind, settings, rows, calibration=calibration)
    scaled = next(
        scale_rows(
            matrix,
            train,
            scale=settings.scale,
            trains=[np.arange(len(train))],
            memory_bytes=memory_bytes,
            store=store,
            may_reduce=not HEADS[kind].keeps_rows,
            fit_bytes=HEADS[kind].fit_bytes,
        )
    )
    fitted = fit_estimator(kind, settings, scaled.values, truth, seed=seed, calibration=calibration)
    return fitted.to_head(scaled)


def fit_trained(
    kind: str, settings: Any, rows: FitRows, *, calibration: CalibrationPlan | None = None
) -> Head:
    """Fit a head that is no estimator; once more for each fold that it is calibrated on."""

    def predict(train: Rows, test: Rows) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        own = dataclasses.replace(rows, train=rows.train[train], checkpoint=None)
        other: Head = HEADS[kind].fit(settings, own)
        return predict_rows(other, rows.matrix, rows.train[test]), other.classes

    head: Head = HEADS[kind].fit(settings, rows)
    if calibration is None:
        return head
    truth, floor = rows.targets.select(rows.train), find_floor(kind, settings)
    found = calibrate(calibration, truth, floor=floor, predict=predict)
    return dataclasses.replace(head, calibration=found)


def fit_estimator(  # noqa: PLR0913
    kind: str,
    settings: Any,
    values: NDArray[Any],
    targets: Targets,
    *,
    seed: int,
    calibration: CalibrationPlan | None = None,
) -> FittedEstimator:
    """Fit a kind of which `HEADS` says that it is an estimator, on rows that are scaled already.

    Parameters
    ----------
    settings : dataclass
        What `parse_settings` returned for this kind; its scale is taken as done.
    values : ndarray of float32 or float64, shape (n_rows, n_columns)
        Finite, and not changed. Rotated rows, of whatever number of columns, give the same fit.
    targets : Targets
        Of these rows.
    seed : int
        The same seed and rows give the same fit.
    calibration : CalibrationPlan, optional
        Of these rows, which are scaled once for all of its folds.

    Raises
    ------
    InputError
        The head cannot do the task, or there are too few rows or classes.
    """

    def predict(train: Rows, test: Rows) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        other = fit_estimator(kind, settings, values[train], targets.select(train), seed=seed)
        return other.predict(values[test]), other.classes

    check_training(kind, targets)
    is_classification = targets.task == CLASSIFICATION
    fitted = FittedEstimator(
        kind=kind,
        settings=settings,
        task=targets.task,
        classes=np.unique(targets.values) if is_classification else targets.classes,
        estimator=HEADS[kind].fit(settings, values, targets, seed=seed),
    )
    if calibration is None:
        return fitted
    floor = find_floor(kind, settings)
    found = calibrate(calibration, targets, floor=floor, predict=predict)
    return dataclasses.replace(fitted, calibration=found)


def check_training(kind: str, targets: Targets) -> None:
    """Raise InputError unless there is something to learn from."""
    check_task(kind, targets.task)
    n_rows = len(targets)
    if not n_rows:
        raise InputError("there are no training rows; give the head at least two that differ")
    if n_rows == 1 or (targets.values == targets.values[0]).all():
        said = {CLASSIFICATION: "are labelled", MULTILABEL: "have the tags", REGRESSION: "are of"}
        first = targets.values[0]
        name = ";".join(targets.classes[first]) if targets.task == MULTILABEL else str(first)
        raise InputError(
            f"all {n_rows} training rows {said[targets.task]} {name!r}; a head needs at least two"
            " that differ"
        )
