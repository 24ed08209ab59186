"""How good a head is: on the test split, and on folds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from permafrost.pipeline.models.checkpoint import Epochs
from permafrost.pipeline.models.unseen import TEST, UnseenRows, join_rows, join_unseen
from permafrost.pipeline.tasks.rows import FeatureFiles, LabelledRows
from permafrost.stages.datasets.groups import describe_parted, find_parted, is_group
from permafrost.stages.datasets.targets import CLASSIFICATION, Targets, spread_columns
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.crossfit import Trial, collect_outputs, cross_fit
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.folds import Fold, check_folds, describe_untrained, make_folds
from permafrost.stages.evaluation.intervals import bootstrap_interval
from permafrost.stages.evaluation.metrics import count_confusions, describe_classes, score
from permafrost.stages.evaluation.near_duplicates import (
    describe_near_duplicates,
    find_near_duplicates,
)
from permafrost.stages.heads import Head
from permafrost.stages.heads.head import predict_images
from permafrost.stages.matrices.joined import stack_rows
from permafrost.stages.matrices.matrix import Matrix, Rows, Store
from permafrost.warn import warn_once

_log = logging.getLogger(__name__)

Scores = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """All that measuring takes: the features and the truth, and how to go about it.

    Attributes
    ----------
    matrix : Matrix
        The rows of all images in the first view, below them those in the next, and so on.
    labelled : LabelledRows
        Of the images, which are rows of the first view.
    averages : bool
        Whether what is said of an image is the mean over its views.
    """

    files: FeatureFiles
    matrix: Matrix
    labelled: LabelledRows
    views: tuple[str, ...]
    averages: bool
    seed: int
    memory_bytes: int
    store: Store | None

    @property
    def targets(self) -> Targets:
        """The truth about all rows of the matrix."""
        return self.labelled.targets.select(np.tile(np.arange(len(self.files)), len(self.views)))

    @property
    def groups(self) -> np.ndarray:
        """Which rows of the matrix must stay on one side: all views of an image, for a start."""
        return np.tile(self.files.groups, len(self.views))

    def stack(self, images: Rows, *, of: int | None = None) -> Rows:
        """Return the rows of images in all views; of so many images, those of the files."""
        n_images = len(self.files) if of is None else of
        return stack_rows(images, n_rows=n_images, times=len(self.views))

    def predict(self, head: Head, images: Rows) -> np.ndarray:
        """Return what a head says of images: ndarray of float64, shape (m, n_outputs)."""
        matrix = self.matrix
        if not self.averages:
            return predict_images(head, matrix, images)
        return predict_images(head, matrix, images, n_views=len(self.views))


def _measure_test(head: Head, bench: Bench) -> tuple[dict[str, Any], np.ndarray]:
    """Measure a head on the test split.

    Returns
    -------
    metrics : dict
        Ready for JSON: the scores, the interval of the first of them, figures per class.
    outputs : ndarray of float64, shape (n_test, n_outputs)
    """
    rows = bench.labelled.test
    outputs = bench.predict(head, rows)
    truth = bench.labelled.targets.select(rows)
    metrics: dict[str, Any] = dict(score(truth, outputs, head.classes))
    interval = bootstrap_interval(
        truth, outputs, head.classes, groups=bench.files.groups[rows], seed=bench.seed
    )
    metrics["interval"] = interval and list(interval)
    if len(head.classes):
        metrics["per_class"] = describe_classes(truth, outputs, head.classes)
    if truth.task == CLASSIFICATION:
        metrics["confusion"] = count_confusions(truth, outputs, head.classes)
    return metrics, outputs


def _warn_of_near_duplicates(bench: Bench) -> tuple[dict[str, Any], str | None]:
    """Look for test rows that are all but equal to a training row; return figures and a line."""
    found = find_near_duplicates(
        bench.matrix, bench.labelled.test, bench.labelled.train, memory_bytes=bench.memory_bytes
    )
    figures = {
        "near_duplicates": found.n_found if found.is_telling else None,
        "near_duplicate_pairs": [
            [bench.files.paths[pair.test], bench.files.paths[pair.train], round(pair.cosine, 6)]
            for pair in found.pairs
        ],
    }
    # That a layer cannot tell stands in the figures; as a warning it would come with every fit.
    return figures, describe_near_duplicates(found, bench.files.paths)


def _warn_of_new_classes(labelled: LabelledRows) -> str | None:
    """Return a line on test rows of classes that no training row has, if there are any."""
    targets = labelled.targets
    if targets.task != CLASSIFICATION:
        return None
    tested = targets.values[labelled.test]
    is_new = ~np.isin(tested, targets.values[labelled.train])
    if not is_new.any():
        return None
    first = str(tested[is_new][0])
    return f"{is_new.sum()} test rows count as wrong: no training row has their label, as {first!r}"


def _measure_val(head: Head, bench: Bench) -> Scores:
    """Measure a head on the val split, by which heads are chosen: ``val_accuracy``, …."""
    rows = bench.labelled.val
    truth = bench.labelled.targets.select(rows)
    scores = score(truth, bench.predict(head, rows), head.classes)
    return {f"val_{name}": value for name, value in scores.items()}


def cross_validate(candidate: Candidate, trial: Trial) -> tuple[dict[str, Any], np.ndarray, Epochs]:
    """Measure a head on the folds that `plan_trial` made.

    Returns
    -------
    metrics : dict
        Ready for JSON: mean and standard deviation of each score, and the scores of each fold.
    outputs : ndarray of float64, shape (n_folds_rows, n_outputs)
        Out of fold, a column for each class of the targets.
    epochs : dict of int to tuple of Epoch
        Of the training on each fold.
    """
    found = list(cross_fit([candidate], trial))
    truth = trial.targets.select(trial.rows)  # of the first view first
    scores: list[Scores] = [{}] * len(trial.folds)
    for one in found:
        if one.error:
            raise InputError(one.error)
        test = trial.folds[one.fold].test
        scores[one.fold] = score(truth.select(test), one.outputs, one.classes)
    metrics: dict[str, Any] = {
        f"cv_{name}": value for name, value in summarize_scores(scores).items()
    }
    metrics |= {"cv_folds": len(trial.folds), "folds": scores}
    epochs: Epochs = {one.fold: one.epochs for one in sorted(found, key=lambda one: one.fold)}
    return metrics, collect_outputs(found, trial), epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found.

    Attributes
    ----------
    unseen : UnseenRows
        What is said of the test split, without one of the folds, and of rows without a label.
    everything : UnseenRows or None
        What is said of every labelled row, where there were folds.
    """

    metrics: dict[str, Any]
    unseen: UnseenRows
    epochs: Epochs
    everything: UnseenRows | None


def measure_head(candidate: Candidate, bench: Bench, head: Head, trial: Trial | None) -> Measured:
    """Measure a head on the test split, on the val split, and on folds, as far as there are any."""
    labelled = bench.labelled
    epochs: Epochs = {None: head.history}
    metrics: dict[str, Any] = {"n_train": len(labelled.train), "n_test": len(labelled.test)}
    classes, measured = head.classes, labelled.test
    outputs = np.empty((0, max(1, len(classes))))
    if len(labelled.test):
        found, outputs = _measure_test(head, bench)
        figures, warning = _warn_of_near_duplicates(bench)
        metrics |= found | figures
        for line in filter(None, (warning, _warn_of_new_classes(labelled))):
            _log.warning("%s", line)
    if len(labelled.val):
        metrics |= _measure_val(head, bench)
    everything = None
    if trial is not None:
        found, out_of_fold, trainings = cross_validate(candidate, trial)
        metrics |= found
        epochs |= trainings
        everything = join_unseen(labelled, trial.folds, out_of_fold, (outputs, classes))
        if not len(labelled.test):
            classes, measured, outputs = labelled.targets.classes, labelled.folds, out_of_fold
    unlabelled = labelled.unlabelled
    # A class that only val rows have is in the folds, but not in the head.
    said = spread_columns(bench.predict(head, unlabelled), head.classes, classes)
    return Measured(
        metrics=metrics,
        unseen=join_rows((measured, outputs, TEST), (unlabelled, said, TEST), classes=classes),
        epochs=epochs,
        everything=everything,
    )


def plan_folds(
    labelled: LabelledRows, groups: np.ndarray, *, n_folds: int | None, seed: int
) -> list[Fold]:
    """Make folds over all rows outside the test split, or, without `n_folds`, train against val.

    Raises
    ------
    InputError
        There are no such folds, or one of them leaves nothing to learn from.
    """
    rows = labelled.folds
    if n_folds is None:
        return [Fold(np.searchsorted(rows, labelled.train), np.searchsorted(rows, labelled.val))]
    targets = labelled.targets.select(rows)
    folds = make_folds(targets, groups[rows], n_folds=n_folds, seed=seed)
    check_folds(targets, folds)
    return folds


def plan_trial(bench: Bench, *, n_folds: int | None) -> Trial:
    """Put together what is fitted on which folds, see `plan_folds`, and warn of the folds."""
    labelled, n_images = bench.labelled, len(bench.labelled.folds)
    folds = plan_folds(labelled, bench.files.groups, n_folds=n_folds, seed=bench.seed)
    if n_folds is None:
        warn_of_parted_groups(bench.files)
    else:
        _warn_of_folds(bench, folds)
    return Trial(
        matrix=bench.matrix,
        targets=bench.targets,
        groups=bench.groups,
        rows=bench.stack(labelled.folds),
        folds=[Fold(bench.stack(train, of=n_images), test) for train, test in folds],
        n_views=len(bench.views),
        averages=bench.averages,
        seed=bench.seed,
        memory_bytes=bench.memory_bytes,
        store=bench.store,
    )


def _warn_of_folds(bench: Bench, folds: Sequence[Fold]) -> None:
    """Warn of rows that no head can get right, and of columns that look like groups."""
    rows = bench.labelled.folds
    untrained = describe_untrained(bench.labelled.targets.select(rows), folds)
    if untrained is not None:
        warn_once(f"of {bench.files.name}, {untrained}")
    warn_of_parted_groups(
        bench.files, {number: rows[fold.test] for number, fold in enumerate(folds)}
    )


def warn_of_parted_groups(files: FeatureFiles, folds: Mapping[int, Rows] | None = None) -> None:
    """Warn of columns that look like groups where splits, or folds within them, part a value."""
    parts = files.splits.astype(object)
    for number, rows in (folds or {}).items():
        parts[rows] = str(number)
    names = [name for name in files.columns if not is_group(name, files.group)]
    parted = find_parted({name: files.column(name) for name in names}, parts.tolist())
    if parted:
        what = "the folds" if folds else "the splits"
        warn_once(f"{files.name}: {describe_parted(parted, what=what)}")


def summarize_scores(scores: Iterable[Mapping[str, float | None]]) -> Scores:
    """Return ``<name>_mean`` and ``<name>_std`` over folds, as a population (``ddof=0``).

    A single fold, a val split, has no spread.
    """
    every = list(scores)
    summary: Scores = {}
    for name in every[0]:
        values = [found[name] for found in every]
        known = [value for value in values if value is not None]
        # A figure of some of the folds would not compare with one of all.
        is_known = len(known) == len(values)
        summary[f"{name}_mean"] = float(np.mean(known)) if is_known else None
        summary[f"{name}_std"] = float(np.std(known)) if is_known and len(known) > 1 else None
    return summary


def name_metric(metric: str) -> str:
    """Return what people call a metric."""
    return {"r2": "R²"}.get(metric, metric.replace("_", " "))
