"""Cross-validation: many heads are fitted on all folds but one, and predict that one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets, spread_columns
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.fold_task import (
    Candidate,
    Fit,
    FoldOutputs,
    FoldTask,
    explain_failure,
)
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.processes import Workers, run_tasks
from permafrost.stages.heads import HEADS, Checkpoint, FitRows, is_reduced
from permafrost.stages.matrices.budget import Budget
from permafrost.stages.matrices.joined import stack_rows
from permafrost.stages.matrices.matrix import ArrayMatrix, Matrix, Rows, Store, read_rows
from permafrost.stages.matrices.reduction import scale_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried on which rows.

    Attributes
    ----------
    targets : Targets
        Of all rows of the matrix.
    groups : ndarray, shape (n_rows,)
        Of all rows of the matrix, as in `stages.heads.fit_head`.
    rows : ndarray of int64, shape (n,)
        Rows of the matrix that the folds speak of.
    folds : sequence of Fold
        Positions into `rows`.
    n_views : int
        `rows` are as many of each of so many views, view by view; a fold learns from all of them,
        and its test rows are of the first.
    averages : bool
        Whether what is said of a test row is the mean over its views.
    store : Store, optional
        Keeps reduced rows for the next time.
    n_jobs : int
        Processes, fewer where memory has no room for as many.
    workers : Workers, optional
        Needed for more than one.
    find_checkpoint : callable, optional
        Returns where the training of a candidate on a fold, both by number, keeps its state.
    """

    matrix: Matrix
    targets: Targets
    groups: NDArray[Any]
    rows: Rows
    folds: Sequence[Fold]
    seed: int
    memory_bytes: int
    n_views: int = 1
    averages: bool = False
    store: Store | None = None
    n_jobs: int = 1
    workers: Workers | None = None
    find_checkpoint: Callable[[Fit], Checkpoint] | None = None

    @property
    def n_averaged(self) -> int:
        """Over how many views predictions are averaged."""
        return self.n_views if self.averages else 1

    def find_fold(self, number: int) -> Fold:
        """Return a fold with all test rows that are predicted."""
        train, test = self.folds[number]
        n_rows = len(self.rows) // self.n_views
        return Fold(train, stack_rows(test, n_rows=n_rows, times=self.n_averaged))


def cross_fit(
    candidates: Sequence[Candidate],
    trial: Trial,
    *,
    wanted: Sequence[Fit] | None = None,
) -> Generator[FoldOutputs, None, None]:
    """Fit candidates on folds, each layer read once and each scaling done once for all of them.

    Parameters
    ----------
    candidates : sequence of Candidate
    wanted : sequence of (candidate, fold), optional
        What is to be fitted; everything by default.

    Yields
    ------
    FoldOutputs
        In no particular order, each as soon as it is there.
    """
    if wanted is None:
        wanted = [(c, f) for c in range(len(candidates)) for f in range(len(trial.folds))]
    trained: list[Fit] = []
    dense: list[Fit] = []
    reduced: list[Fit] = []
    for one in wanted:
        kind = candidates[one[0]].kind
        if not HEADS[kind].is_estimator:
            trained.append(one)
            continue
        try:
            shape = len(trial.rows), trial.matrix.shape[1]
            way = is_reduced(kind, shape, is_kept=False, memory_bytes=trial.memory_bytes)
        except InputError as error:
            yield FoldOutputs(candidate=one[0], fold=one[1], error=str(error))
        else:
            (reduced if way else dense).append(one)
    if trained or dense:
        yield from _fit_held(candidates, trial, trained, dense)
    if reduced:
        yield from _fit_reduced(candidates, trial, reduced)


def _make_budget(trial: Trial, kinds: Iterable[str]) -> Budget:
    """Return what fits of these kinds take."""
    return Budget(
        n_rows=len(trial.rows),
        n_features=trial.matrix.shape[1],
        memory_bytes=trial.memory_bytes,
        fit_bytes=max((HEADS[kind].fit_bytes for kind in kinds), default=0),
    )


def _fit_held(
    candidates: Sequence[Candidate], trial: Trial, trained: Sequence[Fit], dense: Sequence[Fit]
) -> Iterator[FoldOutputs]:
    """Fit on rows that all processes share as they are, or, if they do not fit, stream them.

    Who runs a task does the scaling.
    """
    single = [(fold, {number: candidates[number]}) for number, fold in trained]
    budget = _make_budget(trial, [candidates[number].kind for number, _ in dense])
    if not dense and (budget.is_wide or not budget.fits_dense(n_sets=2)):
        # One after the other in this process: others could not read its open file.
        tasks = (_make_task(trial, *one, memory_bytes=trial.memory_bytes) for one in single)
        yield from run_tasks(tasks, n_jobs=1, workers=None)
        return
    values = read_rows(trial.matrix, trial.rows, dtype=trial.matrix.dtype)
    held = _hold(trial, ArrayMatrix(values, trial.matrix.origin, trial.matrix.widths))
    n_jobs = min(trial.n_jobs, budget.count_jobs(is_reduced=False))
    each = (trial.memory_bytes - budget.rows_bytes) // n_jobs
    # The longest first, so that no process is left with one of them at the end.
    longest = (_make_task(held, *one, memory_bytes=each) for one in single)
    others = (
        _make_task(held, fold, chosen, memory_bytes=trial.memory_bytes)
        for _, fold, chosen in _group(candidates, dense)
    )
    yield from run_tasks(chain(longest, others), n_jobs=n_jobs, workers=trial.workers)


def _make_task(
    trial: Trial,
    fold: int,
    chosen: Mapping[int, Candidate],
    *,
    memory_bytes: int,
    values: NDArray[Any] | None = None,
) -> FoldTask:
    """Put together what is to be fitted on a fold: the candidates by number."""
    train, test = trial.find_fold(fold)
    first = next(iter(chosen))
    find = None if HEADS[chosen[first].kind].is_estimator else trial.find_checkpoint
    return FoldTask(
        rows=FitRows(
            matrix=trial.matrix,
            targets=trial.targets,
            train=trial.rows[train],
            groups=trial.groups,
            seed=trial.seed,
            memory_bytes=memory_bytes,
            checkpoint=find((first, fold)) if find else None,
        ),
        test=trial.rows[test],
        values=values,
        number=fold,
        candidates=chosen,
        n_averaged=trial.n_averaged,
    )


def _hold(trial: Trial, matrix: Matrix) -> Trial:
    """Return the same trial of a matrix that has its rows alone, in their order."""
    return dataclasses.replace(
        trial,
        matrix=matrix,
        targets=trial.targets.select(trial.rows),
        groups=trial.groups[trial.rows],
        rows=np.arange(len(trial.rows)),
    )


def _fit_reduced(
    candidates: Sequence[Candidate], trial: Trial, wanted: Sequence[Fit]
) -> Iterator[FoldOutputs]:
    """Fit on reduced rows, which are made here, for all processes."""
    budget = _make_budget(trial, [candidates[number].kind for number, _ in wanted])
    n_jobs = min(trial.n_jobs, budget.count_jobs(is_reduced=True))
    left = trial.memory_bytes - (n_jobs - 1) * budget.job_bytes(is_reduced=True)
    alone = dataclasses.replace(budget, memory_bytes=left)
    failed: list[FoldOutputs] = []
    tasks = _list_reduced(candidates, trial, wanted, alone, failed)
    yield from run_tasks(tasks, n_jobs=n_jobs, workers=trial.workers)
    yield from failed


def _list_reduced(
    candidates: Sequence[Candidate],
    trial: Trial,
    wanted: Sequence[Fit],
    budget: Budget,
    failed: list[FoldOutputs],
) -> Iterator[FoldTask]:
    """Reduce the rows for each fold, and list what is to be fitted; add to `failed` what cannot."""
    held = _hold(trial, trial.matrix)
    for scale, same in groupby(_group(candidates, wanted), key=lambda one: one[0]):
        left = list(same)
        scaled_rows = scale_rows(
            trial.matrix,
            trial.rows,
            scale=scale,
            trains=[trial.folds[fold].train for _, fold, _ in left],
            memory_bytes=budget.memory_bytes,
            fit_bytes=budget.fit_bytes,
            store=trial.store,
        )
        try:
            for scaled in scaled_rows:
                _, fold, chosen = left.pop(0)
                values = scaled.values
                own = dataclasses.replace(held, matrix=ArrayMatrix(values))
                yield _make_task(own, fold, chosen, memory_bytes=trial.memory_bytes, values=values)
        except Exception as error:  # noqa: BLE001
            reason = explain_failure(error)
            failed += [
                FoldOutputs(candidate=number, fold=fold, error=reason)
                for _, fold, chosen in left
                for number in chosen
            ]


def _group(
    candidates: Sequence[Candidate], wanted: Sequence[Fit]
) -> list[tuple[str, int, dict[int, Candidate]]]:
    """Collect (scale, fold, candidates by number), so that what is scaled alike is scaled once."""

    def place(one: Fit) -> tuple[str, int]:
        return candidates[one[0]].settings.scale, one[1]

    return [
        (scale, fold, {number: candidates[number] for number, _ in same})
        for (scale, fold), same in groupby(sorted(wanted, key=place), key=place)
    ]


def collect_outputs(found: Sequence[FoldOutputs], trial: Trial) -> NDArray[np.float64]:
    """Put one candidate's outputs of all folds together.

    Returns
    -------
    ndarray of float64, shape (len(trial.rows) // trial.n_views, n_outputs)
        A column for each of the targets' classes; NaN where a row is in no fold's test rows.
    """
    classes = trial.targets.classes
    n_rows = len(trial.rows) // trial.n_views
    outputs = np.full((n_rows, max(1, len(classes))), np.nan)
    for one in found:
        test = trial.folds[one.fold].test
        outputs[test] = spread_columns(one.outputs, one.classes, classes)
    return outputs
