"""Heads fitted on all folds but one, and what they say of that one: many heads, one matrix."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.budget import Budget
from stages.errors import StageError
from stages.folds import Fold
from stages.heads import HEADS, Head, fit_estimator
from stages.matrix import ArrayMatrix, Matrix, Rows, iterate_rows
from stages.reduction import Store, scale_rows
from stages.targets import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A head that may be fitted: its kind in `HEADS` and its parsed settings."""

    kind: str
    settings: Any


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
    error : str
        Why the head could not be fitted, and then there are no outputs; ``""`` if it could.
    """

    candidate: int
    fold: int
    outputs: NDArray[np.float64]
    classes: NDArray[np.str_]
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried on which rows.

    Attributes
    ----------
    matrix : Matrix
    targets : Targets
        Of all rows of the matrix.
    rows : ndarray of int64, shape (n,)
        Rows of the matrix that the folds speak of.
    folds : sequence of Fold
        Positions into `rows`.
    seed : int
    memory_bytes : int
    store : Store, optional
        Keeps reduced rows for the next time.
    n_jobs : int
        Processes.
    scratch : Path, optional
        Folder for what processes share; needed for more than one.
    """

    matrix: Matrix
    targets: Targets
    rows: Rows
    folds: Sequence[Fold]
    seed: int
    memory_bytes: int
    store: Store | None = None
    n_jobs: int = 1
    scratch: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """Some candidates on one fold, all that a process of its own needs to know."""

    matrix: Matrix
    scale: str | None  # None: the matrix is scaled already
    targets: Targets
    fold: Fold
    number: int
    candidates: Mapping[int, Candidate]
    seed: int
    memory_bytes: int


def cross_fit(
    candidates: Sequence[Candidate],
    trial: Trial,
    *,
    wanted: Sequence[tuple[int, int]] | None = None,
) -> Iterator[FoldOutputs]:
    """Fit candidates on folds, each layer read once and each scaling done once for all of them.

    Parameters
    ----------
    candidates : sequence of Candidate
    trial : Trial
    wanted : sequence of (candidate, fold), optional
        What is to be fitted; everything by default.

    Yields
    ------
    FoldOutputs
        In no particular order, each as soon as it is there.
    """
    if wanted is None:
        wanted = [(c, f) for c in range(len(candidates)) for f in range(len(trial.folds))]
    # A reduced copy of the rows is made here, for all processes; so is all that is streamed.
    is_small = _is_small(trial, fit_bytes=_most_fit_bytes(candidates))
    estimators = [one for one in wanted if HEADS[candidates[one[0]].kind].is_estimator]
    trained = [one for one in wanted if not HEADS[candidates[one[0]].kind].is_estimator]
    if is_small:
        values = ArrayMatrix(trial.matrix.read(trial.rows))
        # The longest first, so that no process is left with one of them at the end.
        tasks = [*_list_trained(candidates, trial, trained, values)]
        tasks += _list_dense(candidates, trial, estimators, values)
        yield from _run_all(iter(tasks), trial)
    else:
        yield from _run_all(_list_scaled(candidates, trial, estimators), trial)
        for task in _list_trained(candidates, trial, trained, trial.matrix):
            yield from _run(task)


def predict_rows(head: Head, matrix: Matrix, rows: Rows) -> NDArray[np.float64]:
    """Predict rows of a matrix, block by block: ndarray of float64, shape (m, n_outputs)."""
    n_outputs = max(1, len(head.classes))
    blocks = [head.predict(block) for _, block in iterate_rows(matrix, rows)]
    return np.concatenate([np.empty((0, n_outputs)), *blocks])


def spread_outputs(found: FoldOutputs, classes: NDArray[np.str_]) -> NDArray[np.float64]:
    """Give outputs a column for every one of `classes`, of which the head may not know all."""
    if len(found.classes) == len(classes):
        return found.outputs
    outputs = np.zeros((len(found.outputs), len(classes)))
    outputs[:, np.searchsorted(classes, found.classes)] = found.outputs
    return outputs


def _most_fit_bytes(candidates: Iterable[Candidate]) -> int:
    return max(HEADS[one.kind].fit_bytes for one in candidates)


def _is_small(trial: Trial, *, fit_bytes: int) -> bool:
    """Whether every process can have the rows as they are, and gains nothing by reducing them."""
    budget = Budget(
        n_rows=len(trial.rows),
        n_features=trial.matrix.shape[1],
        memory_bytes=trial.memory_bytes,
        fit_bytes=fit_bytes,
    )
    return not budget.is_wide and trial.n_jobs * budget.dense_bytes(n_sets=2) <= budget.memory_bytes


def _list_trained(
    candidates: Sequence[Candidate],
    trial: Trial,
    wanted: Sequence[tuple[int, int]],
    matrix: Matrix,
) -> Iterator[_Task]:
    """List fits of heads that scale for themselves, one each."""
    rows = trial.rows if matrix is trial.matrix else np.arange(len(trial.rows))
    targets = trial.targets if matrix is trial.matrix else trial.targets.select(trial.rows)
    for candidate, fold in wanted:
        train, test = trial.folds[fold]
        yield _Task(
            matrix=matrix,
            scale=None,
            targets=targets,
            fold=Fold(rows[train], rows[test]),
            number=fold,
            candidates={candidate: candidates[candidate]},
            seed=trial.seed,
            memory_bytes=trial.memory_bytes // trial.n_jobs,
        )


def _list_dense(
    candidates: Sequence[Candidate],
    trial: Trial,
    wanted: Sequence[tuple[int, int]],
    values: ArrayMatrix,
) -> Iterator[_Task]:
    """List the scalings of each fold; who runs one of them does the scaling."""
    for scale, fold, chosen in _group(candidates, wanted):
        yield _Task(
            matrix=values,
            scale=scale,
            targets=trial.targets.select(trial.rows),
            fold=trial.folds[fold],
            number=fold,
            candidates=chosen,
            seed=trial.seed,
            memory_bytes=trial.memory_bytes,
        )


def _list_scaled(
    candidates: Sequence[Candidate], trial: Trial, wanted: Sequence[tuple[int, int]]
) -> Iterator[_Task]:
    """Scale, or reduce, the rows for each fold, and list what is to be fitted on them."""
    for scale, same in groupby(_group(candidates, wanted), key=lambda one: one[0]):
        groups = list(same)
        scaled_rows = scale_rows(
            trial.matrix,
            trial.rows,
            scale=scale,
            trains=[trial.folds[fold].train for _, fold, _ in groups],
            memory_bytes=trial.memory_bytes,
            store=trial.store,
            fit_bytes=_most_fit_bytes(one for *_, chosen in groups for one in chosen.values()),
        )
        for (_, fold, chosen), scaled in zip(groups, scaled_rows, strict=True):
            yield _Task(
                matrix=ArrayMatrix(scaled.values),
                scale=None,
                targets=trial.targets.select(trial.rows),
                fold=trial.folds[fold],
                number=fold,
                candidates=chosen,
                seed=trial.seed,
                memory_bytes=trial.memory_bytes,
            )


def _group(
    candidates: Sequence[Candidate], wanted: Sequence[tuple[int, int]]
) -> list[tuple[str, int, dict[int, Candidate]]]:
    """Collect (scale, fold, candidates by number), so that what is scaled alike is scaled once."""

    def place(one: tuple[int, int]) -> tuple[str, int]:
        return candidates[one[0]].settings.scale, one[1]

    return [
        (scale, fold, {number: candidates[number] for number, _ in same})
        for (scale, fold), same in groupby(sorted(wanted, key=place), key=place)
    ]


def _run_all(tasks: Iterator[_Task], trial: Trial) -> Iterator[FoldOutputs]:
    if trial.n_jobs == 1:
        for task in tasks:
            yield from _run(task)
        return
    from joblib import Parallel, delayed

    # Arrays go to the processes as maps of one file, which is dropped at the end.
    parallel = Parallel(
        n_jobs=trial.n_jobs,
        return_as="generator_unordered",
        temp_folder=str(trial.scratch),
        max_nbytes="256K",
        mmap_mode="r",
    )
    for found in parallel(delayed(_run)(task) for task in tasks):
        yield from found


def _run(task: _Task) -> list[FoldOutputs]:
    """Fit a task's candidates and ask them about its test rows."""
    is_estimator = all(HEADS[one.kind].is_estimator for one in task.candidates.values())
    values = _scale(task) if is_estimator else None
    found = []
    for number, candidate in task.candidates.items():
        started_s = time.monotonic()
        outputs, classes, error = _try(task, candidate, values)
        found.append(
            FoldOutputs(
                candidate=number,
                fold=task.number,
                outputs=outputs,
                classes=classes,
                seconds=time.monotonic() - started_s,
                error=error,
            )
        )
    return found


def _try(
    task: _Task, candidate: Candidate, values: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.str_], str]:
    """Fit one candidate; one that cannot be fitted must not end a night of others."""
    try:
        if values is None:
            return *_train(task, candidate), ""
        return *_estimate(task, candidate, values), ""
    except StageError as error:
        return np.empty((0, 1)), np.empty(0, np.str_), str(error)


def _estimate(
    task: _Task, candidate: Candidate, values: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    train, test = task.fold
    truth = task.targets.select(train)
    fitted = fit_estimator(candidate.kind, candidate.settings, values[train], truth, seed=task.seed)
    return fitted.predict(values[test]), fitted.classes


def _train(task: _Task, candidate: Candidate) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    head = HEADS[candidate.kind].fit(
        candidate.settings,
        task.matrix,
        task.targets,
        train=task.fold.train,
        seed=task.seed,
        memory_bytes=task.memory_bytes,
    )
    return predict_rows(head, task.matrix, task.fold.test), head.classes


def _scale(task: _Task) -> NDArray[Any]:
    rows = np.arange(task.matrix.shape[0])
    if task.scale is None:
        return task.matrix.read(rows)
    scaled_rows = scale_rows(
        task.matrix,
        rows,
        scale=task.scale,
        trains=[task.fold.train],
        memory_bytes=task.memory_bytes,
        may_reduce=False,
        fit_bytes=_most_fit_bytes(task.candidates.values()),
    )
    return next(scaled_rows).values


def collect_outputs(found: Sequence[FoldOutputs], trial: Trial) -> NDArray[np.float64]:
    """Put one candidate's outputs of all folds together.

    Returns
    -------
    ndarray of float64, shape (len(trial.rows), n_outputs)
        A column for each of the targets' classes; NaN where a row is in no fold's test rows.
    """
    classes = trial.targets.classes
    outputs = np.full((len(trial.rows), max(1, len(classes))), np.nan)
    for one in found:
        outputs[trial.folds[one.fold].test] = spread_outputs(one, classes)
    return outputs
