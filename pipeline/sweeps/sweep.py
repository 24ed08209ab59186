"""``sweep``: layers × poolings × heads × settings × folds, doing only what is missing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from permafrost.cache.disk.locks import locked_folder
from permafrost.cache.disk.publish import make_folder, remove_durably
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.checkpoint import find_checkpoint
from permafrost.pipeline.models.fit import FitResult, describe_score, find_fit, fit, open_bench
from permafrost.pipeline.models.measure import plan_trial
from permafrost.pipeline.models.record import FitOptions
from permafrost.pipeline.outputs import read_json
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.sweeps.grid import Configuration
from permafrost.pipeline.sweeps.journal import FoldRecord, Journal
from permafrost.pipeline.sweeps.leaderboard import (
    FOLDS_NAME,
    SUMMARY_NAME,
    Leaderboard,
    rank,
    write_folds,
    write_tables,
)
from permafrost.pipeline.sweeps.plan import (
    Fit,
    RowsPlan,
    SweepOptions,
    find_missing,
    plan_configurations,
    plan_rows,
)
from permafrost.pipeline.sweeps.workers import open_workers
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.task import TaskOptions, digest_rows
from permafrost.pipeline.units import describe_seconds
from permafrost.stages.evaluation.comparison import Resamples, collect_evidence
from permafrost.stages.evaluation.crossfit import Trial, cross_fit
from permafrost.stages.evaluation.fold_task import FoldOutputs, explain_failure
from permafrost.stages.evaluation.metrics import PRIMARY, Scores, score

BEST_NAME = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep found.

    `best` is the winner, fitted on all training rows and measured on the test split; `n_fitted`
    counts the fits of this run, all others were there.
    """

    board: Leaderboard
    best: FitResult
    n_fitted: int
    seconds: float
    out: Path

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            **self.board.to_dict(),
            "fitted": self.n_fitted,
            "seconds": round(self.seconds, 3),
            "out": str(self.out),
            "best": str(self.best.out),
            "best_metrics": self.best.metrics,
        }

    def describe(self) -> str:
        """Return the leaderboard and the winner's figures, as a person wants them."""
        name = PRIMARY[self.board.task]
        lines = [
            self.board.describe(),
            f"{self.n_fitted or 'no'} new fits in {describe_seconds(self.seconds)}; every figure:"
            f" {self.out / 'leaderboard.csv'}, results.csv, sweep.json",
            f"the first, fitted on all {self.best.metrics['n_train']} training rows:"
            f" {self.best.out}",
        ]
        if self.best.metrics.get(name) is not None:
            lines.append(
                f"  on the {self.best.metrics['n_test']} test rows, never used for choosing:"
                f" {describe_score(name, self.best.metrics)}"
            )
        return "\n".join(lines)


def sweep(options: SweepOptions) -> SweepResult:
    """Try every combination on the same folds, rank them, and fit the best.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each.
    """
    started_s = time.monotonic()
    with options.data.open_files() as files:
        rows = plan_rows(options, files)
        configurations = plan_configurations(options, files, rows)
        make_folder(options.out)
        journal = Journal(options.out)
        missing = find_missing(configurations, journal, n_folds=rows.n_folds)
        if missing:
            rows.make_folds(files)  # before anything is fitted, as there may be no such folds
            _fit_missing(missing, rows.data, files, journal, options)
        board = rank(configurations, journal, n_folds=rows.n_folds, task=rows.data.task)
        with locked_folder(options.out):
            _write_tables(options.out, board, rows, files)
    _check_fitted(board, options.out)
    return SweepResult(
        board=board,
        best=_fit_best(board, rows.data, options),
        n_fitted=len(missing),
        seconds=time.monotonic() - started_s,
        out=options.out,
    )


def _write_tables(out: Path, board: Leaderboard, rows: RowsPlan, files: FeatureFiles) -> None:
    """Write all tables; that of the folds only if the one that is there is of others."""
    key = digest_rows(rows.data, files)
    known = read_json(out / SUMMARY_NAME) or {}
    if known.get("rows") != key or not (out / FOLDS_NAME).exists():
        # Until all tables are written, none vouches for the folds.
        remove_durably(out / SUMMARY_NAME)
        write_folds(out, [files.paths[row] for row in rows.labelled.folds], rows.make_folds(files))
    write_tables(out, board, rows_key=key, data=rows.data.to_dict(out))


def _fit_missing(
    missing: Sequence[Fit],
    data: TaskOptions,
    files: FeatureFiles,
    journal: Journal,
    options: SweepOptions,
) -> None:
    """Fit what is missing, layer by layer, and keep each fold as soon as it is there."""
    best = _BestSoFar(PRIMARY[data.task])
    with (
        show_progress(len(missing), unit="fits", note=best.describe) as advance,
        open_workers(options.out) as workers,
    ):
        for layer, group in groupby(missing, key=lambda one: one[0].layer):
            fits = list(group)
            bench = open_bench(data, files, files.find_layers(layer))
            trial = dataclasses.replace(
                plan_trial(bench, n_folds=data.cv),
                n_jobs=min(options.jobs, len(fits)),
                workers=workers,
            )
            resamples = Resamples(trial.folds, trial.groups[trial.rows], seed=data.seed)
            with closing(_run(fits, trial, resamples, out=options.out)) as found:
                for record, configuration in found:
                    journal.add(record)
                    find_checkpoint(options.out, record.key, record.fold).forget()
                    best.note(record, configuration)
                    advance(1)


def _run(
    fits: Sequence[Fit], trial: Trial, resamples: Resamples, *, out: Path
) -> Generator[tuple[FoldRecord, Configuration], None, None]:
    """Fit configurations of one layer and measure each on its fold."""
    configurations = list(dict.fromkeys(configuration for configuration, _ in fits))
    numbers = {configuration: number for number, configuration in enumerate(configurations)}
    outputs = cross_fit(
        [one.candidate for one in configurations],
        dataclasses.replace(
            trial,
            find_checkpoint=lambda fit: find_checkpoint(out, configurations[fit[0]].key, fit[1]),
        ),
        wanted=[(numbers[configuration], fold) for configuration, fold in fits],
    )
    with closing(outputs) as found:
        for one in found:
            configuration = configurations[one.candidate]
            yield _measure(configuration.key, one, trial, resamples), configuration


def _check_fitted(board: Leaderboard, out: Path) -> None:
    """Raise PipelineError where there is nothing to choose from."""
    first = board.entries[0]
    if first.error:
        raise PipelineError(
            f"none of {len(board.entries)} heads could be fitted, {out / 'results.csv'} says why;"
            f" the first, {first.configuration.name}, {first.error}"
        )


def _measure(key: str, found: FoldOutputs, trial: Trial, resamples: Resamples) -> FoldRecord:
    train, test = trial.folds[found.fold]
    scores: Scores = {}
    evidence = np.empty(0)
    if not found.error:
        said = (trial.targets.select(trial.rows[test]), found.outputs, found.classes)
        scores = score(*said)
        evidence = collect_evidence(*said, resamples=resamples, fold=found.fold)
    return FoldRecord(
        key=key,
        fold=found.fold,
        scores=scores,
        evidence=evidence,
        n_train=len(train) // trial.n_views,
        n_test=0 if found.error else len(test),
        seconds=round(found.seconds, 4),
        epochs=found.epochs,
        error=found.error,
    )


class _BestSoFar:
    """What the progress line says: the best score of a fold up to now."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._score = float("-inf")
        self._name = ""

    def note(self, record: FoldRecord, configuration: Configuration) -> None:
        value = record.scores.get(self._metric)
        if value is not None and value > self._score:
            self._score, self._name = value, configuration.name

    def describe(self) -> str:
        return f"best fold: {self._score:.4f} {self._name}" if self._name else "starting"


def _fit_best(board: Leaderboard, data: TaskOptions, asked: SweepOptions) -> FitResult:
    """Fit the winner on all training rows; the test split is looked at here, and only here."""
    best = board.entries[0].configuration
    options = FitOptions(
        data=dataclasses.replace(data, cv=None),
        layer=best.layer,
        head=best.candidate.kind,
        settings=dataclasses.asdict(best.candidate.settings),
        out=asked.out / BEST_NAME,
        answer=asked.answer,
    )
    try:
        return find_fit(options) or fit(options)
    except Exception as error:
        raise PipelineError(
            f"the tables are written, but {best.name}, the first of them, cannot be fitted on all"
            f" training rows: {explain_failure(error)}"
        ) from error
