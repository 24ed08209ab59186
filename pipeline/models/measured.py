"""All that is measured of a head that was fitted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from permafrost.pipeline.models.checkpoint import Epochs
from permafrost.pipeline.models.measure import (
    Bench,
    Unseen,
    cross_validate,
    measure_test,
    measure_val,
    warn_of_near_duplicates,
    warn_of_new_classes,
)
from permafrost.pipeline.models.unseen import UnseenRows, join_unseen
from permafrost.stages.evaluation.crossfit import Trial
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.heads import Head

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found.

    Attributes
    ----------
    metrics : dict
        Ready for JSON.
    unseen : Unseen
        What is said of the test split, without one of the folds, and of rows without a label.
    epochs : Epochs
        Of the trainings.
    everything : UnseenRows or None
        What is said of every labelled row, where there were folds.
    """

    metrics: dict[str, Any]
    unseen: Unseen
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
        found, outputs = measure_test(head, bench)
        figures, warning = warn_of_near_duplicates(bench)
        metrics |= found | figures
        for line in filter(None, (warning, warn_of_new_classes(labelled))):
            _log.warning("%s", line)
    if len(labelled.val):
        metrics |= measure_val(head, bench)
    everything = None
    if trial is not None:
        found, out_of_fold, trainings = cross_validate(candidate, trial)
        metrics |= found
        epochs |= trainings
        everything = join_unseen(labelled, trial.folds, out_of_fold, (outputs, classes))
        if not len(labelled.test):
            classes, measured, outputs = labelled.targets.classes, labelled.folds, out_of_fold
    unseen = Unseen(rows=measured, outputs=outputs, classes=classes)
    return Measured(
        metrics=metrics,
        unseen=_join_unlabelled(unseen, bench, head),
        epochs=epochs,
        everything=everything,
    )


def _join_unlabelled(measured: Unseen, bench: Bench, head: Head) -> Unseen:
    rows = bench.labelled.unlabelled
    said = bench.predict(head, rows)
    outputs = np.zeros((len(rows), measured.outputs.shape[1]))
    # A class that only val rows have is in the folds, but not in the head.
    known = np.searchsorted(measured.classes, head.classes) if len(head.classes) else [0]
    outputs[:, known] = said
    numbers = np.concatenate([measured.rows, rows])
    order = np.argsort(numbers)
    return Unseen(
        rows=numbers[order],
        outputs=np.concatenate([measured.outputs, outputs])[order],
        classes=measured.classes,
    )
