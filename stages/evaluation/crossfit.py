"""Cross-validation: many heads are fitted on all folds but one, and predict that one."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets, spread_columns
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.fold_task import (
    Candidate,
    Fit,
    FoldOutputs,
    FoldTask,
    run_task,
)
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.heads import HEADS
from permafrost.stages.matrices.budget import Budget
from permafrost.stages.matrices.matrix import ArrayMatrix, Matrix, Rows
from permafrost.stages.matrices.reduction import Store, scale_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried on which rows.

    Attributes
    ----------
    targets : Targets
        Of all rows of the matrix.
    rows : ndarray of int64, shape (n,)
        Rows of the matrix that the folds speak of.
    folds : sequence of Fold
        Positions into `rows`.
    store : Store, optional
        Keeps reduced rows for the next time.
    n_jobs : int
        Processes, fewer where memory has no room for as many.
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
    trained: list[Fit] = []
    dense: list[Fit] = []
    reduced: list[Fit] = []
    for one in wanted:
        kind = candidates[one[0]].kind
        if not HEADS[kind].is_estimator:
            trained.append(one)
            continue
        try:
            is_reduced = _make_budget(trial, [kind]).should_reduce(n_sets=2, may_reduce=True)
        except InputError as error:
            yield FoldOutputs(candidate=one[0], fold=one[1], error=str(error))
        else:
            (reduced if is_reduced else dense).append(one)
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
        alone = dataclasses.replace(trial, n_jobs=1)
        yield from _run_all(_list_tasks(alone, single, memory_bytes=alone.memory_bytes), alone)
        return
    held = dataclasses.replace(
        trial,
        matrix=ArrayMatrix(trial.matrix.read(trial.rows)),
        targets=trial.targets.select(trial.rows),
        rows=np.arange(len(trial.rows)),
        n_jobs=min(trial.n_jobs, budget.count_jobs(is_reduced=False)),
        memory_bytes=trial.memory_bytes - budget.rows_bytes,
    )
    together = [(fold, chosen) for _, fold, chosen in _group(candidates, dense)]
    # The longest first, so that no process is left with one of them at the end.
    longest = _list_tasks(held, single, memory_bytes=held.memory_bytes // held.n_jobs)
    others = _list_tasks(held, together, memory_bytes=trial.memory_bytes)
    yield from _run_all(chain(longest, others), held)


def _list_tasks(
    trial: Trial, groups: Iterable[tuple[int, Mapping[int, Candidate]]], *, memory_bytes: int
) -> Iterator[FoldTask]:
    """List fits on unscaled rows: for each task a fold, and the candidates by number."""
    for fold, chosen in groups:
        train, test = trial.folds[fold]
        yield FoldTask(
            matrix=trial.matrix,
            targets=trial.targets,
            fold=Fold(trial.rows[train], trial.rows[test]),
            number=fold,
            candidates=chosen,
            seed=trial.seed,
            memory_bytes=memory_bytes,
        )


def _fit_reduced(
    candidates: Sequence[Candidate], trial: Trial, wanted: Sequence[Fit]
) -> Iterator[FoldOutputs]:
    """Fit on reduced rows, which are made here, for all processes."""
    budget = _make_budget(trial, [candidates[number].kind for number, _ in wanted])
    n_jobs = min(trial.n_jobs, budget.count_jobs(is_reduced=True))
    left = trial.memory_bytes - (n_jobs - 1) * budget.job_bytes(is_reduced=True)
    alone = dataclasses.replace(budget, memory_bytes=left)
    tasks = _list_reduced(candidates, trial, wanted, alone)
    yield from _run_all(tasks, dataclasses.replace(trial, n_jobs=n_jobs))


def _list_reduced(
    candidates: Sequence[Candidate], trial: Trial, wanted: Sequence[Fit], budget: Budget
) -> Iterator[FoldTask]:
    """Reduce the rows for each fold, and list what is to be fitted on them."""
    targets = trial.targets.select(trial.rows)
    for scale, same in groupby(_group(candidates, wanted), key=lambda one: one[0]):
        groups = list(same)
        scaled_rows = scale_rows(
            trial.matrix,
            trial.rows,
            scale=scale,
            trains=[trial.folds[fold].train for _, fold, _ in groups],
            memory_bytes=budget.memory_bytes,
            fit_bytes=budget.fit_bytes,
            store=trial.store,
        )
        for (_, fold, chosen), scaled in zip(groups, scaled_rows, strict=True):
            yield FoldTask(
                matrix=ArrayMatrix(scaled.values),
                values=scaled.values,
                targets=targets,
                fold=trial.folds[fold],
                number=fold,
                candidates=chosen,
                seed=trial.seed,
                memory_bytes=trial.memory_bytes,
            )


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


def _run_all(tasks: Iterator[FoldTask], trial: Trial) -> Iterator[FoldOutputs]:
    if trial.n_jobs == 1:
        for task in tasks:
            yield from run_task(task)
        return
    from multiprocessing.resource_tracker import ensure_running

    from joblib import Parallel, delayed

    # Arrays go to the processes as maps of one file, which is dropped at the end. No task is
    # made before a process can take it.
    parallel = Parallel(
        n_jobs=trial.n_jobs,
        return_as="generator_unordered",
        temp_folder=str(trial.scratch),
        max_nbytes="256K",
        mmap_mode="r",
        pre_dispatch=trial.n_jobs,
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    # Ctrl-C reaches all processes of a terminal. Those that start now leave it to this one;
    # Python's resource tracker, when it starts, would unblock it again.
    ensure_running()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        outputs = parallel(delayed(run_task)(task) for task in tasks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    for found in outputs:
        yield from found


def _end_with(parent: int) -> None:
    """Let this process end with its parent, whose death would leave it waiting for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
        test = trial.folds[one.fold].test
        outputs[test] = spread_columns(one.outputs, one.classes, classes)
    return outputs
