"""What one process does in cross-validation: fit some heads on one fold, predict its test rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError, StageError
from permafrost.stages.evaluation.calibrating import plan_calibration
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.heads import (
    HEADS,
    Checkpoint,
    Epoch,
    FitRows,
    calibrate_estimator,
    calibrate_trained,
    fit_estimator,
)
from permafrost.stages.heads.head import average_views, predict_rows
from permafrost.stages.matrices.matrix import Matrix
from permafrost.stages.matrices.reduction import scale_rows

# The number of a candidate, and that of a fold.
Fit = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A head that may be fitted.

    Attributes
    ----------
    kind : str
        In `stages.heads.HEADS`.
    settings : dataclass
        Parsed.
    layers : tuple of str
        Of those that a sweep goes over, the ones that it is tried on; none says all that it can
        be fitted on.
    calibration : str
        One of `stages.heads.CALIBRATIONS`.
    """

    kind: str
    settings: Any
    layers: tuple[str, ...] = ()
    calibration: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldOutputs:
    """What one candidate says of the rows of one fold that it was not fitted on.

    Attributes
    ----------
    candidate, fold : int
        Which of those given.
    outputs : ndarray of float64, shape (n_test, n_outputs)
        As `Head.predict` gives them.
    classes : ndarray of str, shape (n_classes,)
        Those among the training rows.
    seconds : float
        Of the fit and the prediction.
    epochs : tuple of Epoch
        Of the training of a network.
    error : str
        Why the head could not be fitted, and then there are no outputs; ``""`` if it could.
    """

    candidate: int
    fold: int
    outputs: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 1)))
    classes: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    seconds: float = 0.0
    epochs: tuple[Epoch, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldTask:
    """Some candidates on one fold, all that a process of its own needs to know.

    Attributes
    ----------
    values : ndarray, shape (n_rows, n_columns), optional
        The rows of `matrix`, where they are scaled already.
    targets : Targets
        Of all rows of `matrix`.
    groups : ndarray, shape (n_rows,)
        As in `stages.heads.fit_head`.
    fold : Fold
        Rows of `matrix`.
    number : int
        Of the fold.
    candidates : mapping of int to Candidate
        By number. Estimators with the same setting ``scale``, or one head of another kind.
    memory_bytes : int
        For all of the task.
    n_averaged : int
        Over so many views predictions are averaged: the fold's test rows come view by view.
    checkpoint : Checkpoint, optional
        Of the one head of another kind.
    """

    matrix: Matrix
    values: NDArray[Any] | None = None
    targets: Targets
    groups: NDArray[Any]
    fold: Fold
    number: int
    candidates: Mapping[int, Candidate]
    seed: int
    memory_bytes: int
    n_averaged: int = 1
    checkpoint: Checkpoint | None = None


class FoldAnswer(NamedTuple):
    """Outputs of a fold's test rows, the classes that they are of, and how the head was trained."""

    outputs: NDArray[np.float64]
    classes: NDArray[np.str_]
    epochs: tuple[Epoch, ...] = ()


def run_task(task: FoldTask) -> list[FoldOutputs]:
    """Fit a task's candidates and ask them about its test rows."""
    first = next(iter(task.candidates.values()))
    values = task.values
    if values is None and HEADS[first.kind].is_estimator:
        try:
            values = _scale(task, first.settings.scale)
        except Exception as error:  # noqa: BLE001
            reason = explain_failure(error)
            return [
                FoldOutputs(candidate=number, fold=task.number, error=reason)
                for number in task.candidates
            ]
    return [_try(task, number, values) for number in task.candidates]


def _scale(task: FoldTask, scale: str) -> NDArray[Any]:
    scaled_rows = scale_rows(
        task.matrix,
        np.arange(task.matrix.shape[0]),
        scale=scale,
        trains=[task.fold.train],
        memory_bytes=task.memory_bytes,
        may_reduce=False,
        fit_bytes=max(HEADS[one.kind].fit_bytes for one in task.candidates.values()),
    )
    return next(scaled_rows).values


def _try(task: FoldTask, number: int, values: NDArray[Any] | None) -> FoldOutputs:
    """Fit one candidate; one that cannot be fitted must not end a night of others."""
    started_s = time.monotonic()
    candidate = task.candidates[number]
    try:
        answer = _fit(task, candidate, values)
        if not np.isfinite(answer.outputs).all():
            raise InputError(f"{candidate.kind} gives NaN or infinity; scale the features")
    except Exception as error:  # noqa: BLE001
        return FoldOutputs(candidate=number, fold=task.number, error=explain_failure(error))
    return FoldOutputs(
        candidate=number,
        fold=task.number,
        outputs=average_views(answer.outputs, task.n_averaged),
        classes=answer.classes,
        seconds=time.monotonic() - started_s,
        epochs=answer.epochs,
    )


def explain_failure(error: Exception) -> str:
    """Return in one line why a fit failed.

    Raises
    ------
    Exception
        `error` itself where the fit is not to blame, but memory, the disk or the features, whose
        errors name a status for the process to end with.
    """
    if isinstance(error, StageError):
        return str(error)
    if isinstance(error, MemoryError | OSError) or hasattr(error, "exit_status"):
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def _fit(task: FoldTask, candidate: Candidate, values: NDArray[Any] | None) -> FoldAnswer:
    kind, settings = candidate.kind, candidate.settings
    train, test = task.fold
    plan = plan_calibration(
        candidate.calibration, task.targets.select(train), task.groups[train], seed=task.seed
    )
    if values is not None:
        truth = task.targets.select(train)
        fitted = fit_estimator(kind, settings, values[train], truth, seed=task.seed)
        outputs = fitted.predict(values[test])
        if plan is not None:
            found = calibrate_estimator(
                kind, settings, values[train], truth, seed=task.seed, plan=plan
            )
            outputs = found.apply(outputs)
        return FoldAnswer(outputs, fitted.classes)
    rows = FitRows(
        matrix=task.matrix,
        targets=task.targets,
        train=train,
        groups=task.groups,
        seed=task.seed,
        memory_bytes=task.memory_bytes,
        checkpoint=task.checkpoint,
    )
    head = HEADS[kind].fit(settings, rows)
    outputs = predict_rows(head, task.matrix, test)
    if plan is not None:
        outputs = calibrate_trained(kind, settings, rows, plan=plan).apply(outputs)
    return FoldAnswer(outputs, head.classes, getattr(head, "history", ()))
