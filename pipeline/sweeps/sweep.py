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
from permafrost.cache.disk.publish import make_folder
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.fit import (
    FitOptions,
    FitResult,
    describe_score,
    find_fit,
    fit,
    open_bench,
)
from permafrost.pipeline.models.measure import plan_folds, plan_trial
from permafrost.pipeline.models.rows import FeatureFiles, LabelledRows, read_labels
from permafrost.pipeline.models.task import TaskOptions, check_classes, choose_folds
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.sweeps.grid import (
    Configuration,
    HeadGrid,
    choose_layers,
    list_configurations,
)
from permafrost.pipeline.sweeps.journal import FoldRecord, Journal
from permafrost.pipeline.sweeps.leaderboard import Leaderboard, rank, write_folds, write_tables
from permafrost.pipeline.sweeps.workers import open_workers
from permafrost.stages.evaluation.comparison import Resamples, collect_evidence
from permafrost.stages.evaluation.crossfit import Trial, cross_fit
from permafrost.stages.evaluation.fold_task import Candidate, FoldOutputs, explain_failure
from permafrost.stages.evaluation.metrics import PRIMARY, Scores, score
from permafrost.stages.heads import check_training

BEST_NAME = "best"

# A configuration, and the number of a fold.
Fit = tuple[Configuration, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What ``sweep`` is asked for.

    Attributes
    ----------
    data : TaskOptions
        Without ``cv``: the val split if there is one, else five folds.
    layers : tuple of str, optional
        All of the files by default.
    poolings : tuple of str, optional
        Tried on each layer that has height and width.
    heads : HeadGrid
    jobs : int
        Processes.
    out : Path
    """

    data: TaskOptions
    layers: tuple[str, ...] | None = None
    poolings: tuple[str, ...] | None = None
    heads: HeadGrid
    jobs: int = 1
    out: Path

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise PipelineError(f"--jobs {self.jobs}: at least 1 is needed")


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
            f"{self.n_fitted or 'no'} new fits in {self.seconds:.1f} s; every figure:"
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
    candidates = options.heads.expand(options.data.task)
    with options.data.open_files() as files:
        layers = choose_layers(files, options.layers, options.poolings)
        data = choose_folds(options.data, files)
        labelled = read_labels(files, task=data.task, column=data.target)
        configurations = list_configurations(
            files, layers, candidates, data=data, n_rows=len(labelled.folds)
        )
        make_folder(options.out)
        journal = Journal(options.out)
        n_folds = data.cv or 1
        missing = [
            (one, fold)
            for one in configurations
            for fold in range(n_folds)
            if journal.find(one.key, fold) is None
        ]
        if missing:
            _check_training(data, labelled, candidates)
            _fit_missing(missing, data, files, journal, options)
        board = rank(configurations, journal, n_folds=n_folds, task=data.task)
        folds = plan_folds(labelled, files.groups, n_folds=data.cv, seed=data.seed)
        with locked_folder(options.out):
            write_tables(options.out, board)
            write_folds(options.out, [files.paths[row] for row in labelled.folds], folds)
    _check_fitted(board, options.out)
    return SweepResult(
        board=board,
        best=_fit_best(board, data, options.out / BEST_NAME),
        n_fitted=len(missing),
        seconds=time.monotonic() - started_s,
        out=options.out,
    )


def _check_training(
    data: TaskOptions, labelled: LabelledRows, candidates: Sequence[Candidate]
) -> None:
    """Raise before anything is fitted what every single fit would raise."""
    check_classes(labelled, data)
    for kind in dict.fromkeys(one.kind for one in candidates):
        check_training(kind, labelled.targets.select(labelled.train))


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
            resamples = Resamples(trial.folds, files.groups[trial.rows], seed=data.seed)
            with closing(_run(fits, trial, resamples)) as found:
                for record, configuration in found:
                    journal.add(record)
                    best.note(record, configuration)
                    advance(1)


def _run(
    fits: Sequence[Fit], trial: Trial, resamples: Resamples
) -> Generator[tuple[FoldRecord, Configuration], None, None]:
    """Fit configurations of one layer and measure each on its fold."""
    configurations = list(dict.fromkeys(configuration for configuration, _ in fits))
    numbers = {configuration: number for number, configuration in enumerate(configurations)}
    outputs = cross_fit(
        [one.candidate for one in configurations],
        trial,
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
        n_train=len(train),
        n_test=0 if found.error else len(test),
        seconds=round(found.seconds, 4),
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


def _fit_best(board: Leaderboard, data: TaskOptions, out: Path) -> FitResult:
    """Fit the winner on all training rows; the test split is looked at here, and only here."""
    best = board.entries[0].configuration
    options = FitOptions(
        data=dataclasses.replace(data, cv=None),
        layer=best.layer,
        head=best.candidate.kind,
        settings=dataclasses.asdict(best.candidate.settings),
        out=out,
    )
    try:
        return find_fit(options) or fit(options)
    except Exception as error:
        raise PipelineError(
            f"the tables are written, but {best.name}, the first of them, cannot be fitted on all"
            f" training rows: {explain_failure(error)}"
        ) from error
