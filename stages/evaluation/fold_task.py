"""What one process does in cross-validation: fit some heads on one fold, predict its test rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError, StageError
from permafrost.stages.evaluation.folds import plan_calibration
from permafrost.stages.heads import (
    HEADS,
    Epoch,
    FitRows,
    FittedEstimator,
    Head,
    fit_estimator,
    fit_trained,
)
from permafrost.stages.heads.head import average_views, predict_rows
from permafrost.stages.matrices.matrix import Rows
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
    rows : FitRows
        Of which those outside the fold are learnt from. The memory is for all of the task; the
        checkpoint is that of the one head of another kind than an estimator.
    test : ndarray of int64
        Rows to predict; view by view, where what is said of several is averaged.
    values : ndarray, shape (n_rows, n_columns), optional
        The rows of the matrix, where they are scaled already.
    number : int
        Of the fold.
    candidates : mapping of int to Candidate
        By number. Estimators with the same setting ``scale``, or one head of another kind.
    n_averaged : int
        Over so many views predictions are averaged.
    """

    rows: FitRows
    test: Rows
    values: NDArray[Any] | None = None
    number: int
    candidates: Mapping[int, Candidate]
    n_averaged: int = 1


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
        task.rows.matrix,
        np.arange(task.rows.matrix.shape[0]),
        scale=scale,
        trains=[task.rows.train],
        memory_bytes=task.rows.memory_bytes,
        may_reduce=False,
        fit_bytes=max(HEADS[one.kind].fit_bytes for one in task.candidates.values()),
    )
    return next(scaled_rows).values


def _try(task: FoldTask, number: int, values: NDArray[Any] | None) -> FoldOutputs:
    """Fit one candidate; one that cannot be fitted must not end a night of others."""
    started_s = time.monotonic()
    candidate = task.candidates[number]
    try:
        fitted, outputs = _fit(task, candidate, values)
        if not np.isfinite(outputs).all():
            raise InputError(f"{candidate.kind} gives NaN or infinity; scale the features")
    except Exception as error:  # noqa: BLE001
        return FoldOutputs(candidate=number, fold=task.number, error=explain_failure(error))
    return FoldOutputs(
        candidate=number,
        fold=task.number,
        outputs=average_views(outputs, task.n_averaged),
        classes=fitted.classes,
        seconds=time.monotonic() - started_s,
        epochs=fitted.history if isinstance(fitted, Head) else (),
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


def _fit(
    task: FoldTask, candidate: Candidate, values: NDArray[Any] | None
) -> tuple[Head | FittedEstimator, NDArray[np.float64]]:
    """Return what was fitted, and what it says of the test rows."""
    kind, settings, rows = candidate.kind, candidate.settings, task.rows
    truth = rows.targets.select(rows.train)
    plan = plan_calibration(candidate.calibration, truth, rows.groups[rows.train], seed=rows.seed)
    if values is None:
        head = fit_trained(kind, settings, rows, calibration=plan)
        return head, predict_rows(head, rows.matrix, task.test)
    fitted = fit_estimator(
        kind, settings, values[rows.train], truth, seed=rows.seed, calibration=plan
    )
    return fitted, fitted.predict(values[task.test])
