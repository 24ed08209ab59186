"""How good a head is on fewer training rows: whether more labels would help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.pipeline.models.measure import Scores, plan_trial, summarize_scores
from permafrost.pipeline.models.reopened import ReopenedFit, keeping
from permafrost.pipeline.models.unseen import name_unseen
from permafrost.pipeline.outputs import read_json, write_json
from permafrost.pipeline.tasks.task import count_folds
from permafrost.stages.evaluation.crossfit import Trial, cross_fit
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.metrics import score
from permafrost.stages.matrices.matrix import Rows

LEARNING_NAME = "learning.json"
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPoint:
    """A head fitted on a part of the training rows of each fold.

    Attributes
    ----------
    n_train : int
        Images that it was fitted on, the mean over the folds.
    scores : dict of str to float or None
        Mean and standard deviation over the folds, as ``accuracy_mean``.
    """

    share: float
    n_train: int
    scores: Scores


def measure_learning(
    fit: ReopenedFit, *, n_folds: int | None = None, shares: Sequence[float] = SHARES
) -> list[LearningPoint] | None:
    """Fit a head on growing parts of each fold's training rows, and measure it on its test rows.

    The parts are nested, and drawn image by image at random. What was measured is kept beside the
    head, and found there the next time.

    Parameters
    ----------
    shares : sequence of float
        Ascending, from 0 to 1.

    Returns
    -------
    list of LearningPoint or None
        Without parts too small to be fitted on. None of a network that was not measured before,
        since training it takes hours.
    """
    bench = fit.bench
    n_folds = n_folds or fit.options.cv or count_folds(bench.labelled, bench.files)
    key = f"{name_unseen(fit.key, n_folds)} {list(shares)}"
    known = _recall(fit.folder / LEARNING_NAME, key)
    if known is not None or fit.is_network:
        return known
    trial = plan_trial(bench, n_folds=n_folds)
    points = _measure(fit, trial, shares)
    kept = {"key": key, "points": [dataclasses.asdict(point) for point in points]}
    with keeping(fit.folder):
        write_json(fit.folder / LEARNING_NAME, kept)
    return points


def _measure(fit: ReopenedFit, trial: Trial, shares: Sequence[float]) -> list[LearningPoint]:
    n_images = len(trial.rows) // trial.n_views
    order = np.random.default_rng(trial.seed).permutation(n_images)
    folds = [
        Fold(_thin(fold.train, order, share, n_images=n_images), fold.test)
        for share in shares
        for fold in trial.folds
    ]
    scores: dict[int, Scores] = {}
    truth = trial.targets.select(trial.rows)
    for one in cross_fit([fit.candidate], dataclasses.replace(trial, folds=folds)):
        if not one.error:
            test = folds[one.fold].test
            scores[one.fold] = score(truth.select(test), one.outputs, one.classes)
    points = []
    for number, share in enumerate(shares):
        own = range(number * len(trial.folds), (number + 1) * len(trial.folds))
        if all(fold in scores for fold in own):
            n_train = np.mean([len(folds[fold].train) // trial.n_views for fold in own])
            summary = summarize_scores(scores[fold] for fold in own)
            points.append(LearningPoint(share=share, n_train=int(n_train), scores=summary))
    return points


def _thin(train: Rows, order: Rows, share: float, *, n_images: int) -> Rows:
    """Return a part of the training rows: all views of the first images in an order."""
    images = np.unique(train % n_images)
    chosen = order[np.isin(order, images)][: max(1, round(share * len(images)))]
    return train[np.isin(train % n_images, chosen)]


def _recall(file: Path, key: str) -> list[LearningPoint] | None:
    known: dict[str, Any] = read_json(file) or {}
    try:
        return [LearningPoint(**p) for p in known["points"]] if known["key"] == key else None
    except (KeyError, TypeError):
        return None
