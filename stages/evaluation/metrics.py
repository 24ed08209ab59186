"""How right a head is: the figures, the table of classes, the confusion matrix.

All are scikit-learn's figures, computed with numpy: a sweep asks for them hundreds of times. A
class or tag that the truth has and the head does not know counts as output 0 for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    Targets,
    spread_columns,
)
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.certainty import measure_brier, measure_ece

Scores = dict[str, float | None]

# Bumped when folds, figures or losses change, so that no figures of before stand beside new ones.
NUMERICS = 2

# What heads are chosen by: more is better.
PRIMARY = {CLASSIFICATION: "accuracy", MULTILABEL: "mean_average_precision", REGRESSION: "r2"}

# From this output on a tag is predicted.
TAG_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Truth and outputs side by side, with the same classes.

    Attributes
    ----------
    truth : ndarray
        classification: int64 (n,), columns of `outputs`; multilabel: bool (n, n_classes);
        regression: float64 (n,).
    outputs : ndarray of float64, shape (n, n_classes), or (n,) for a regression
    classes : ndarray of str, shape (n_classes,)
        Those of the head and those of the truth, sorted.
    """

    truth: NDArray[Any]
    outputs: NDArray[np.float64]
    classes: NDArray[np.str_]


def judge(targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]) -> Judged:
    """Put truth and outputs side by side.

    Parameters
    ----------
    targets : Targets
        Of n rows.
    outputs : ndarray of float64, shape (n, n_outputs)
        Of a head: a column a class, or one for a regression.
    classes : ndarray of str, shape (n_classes,)
        The head's, sorted.

    Raises
    ------
    InputError
        There are no rows.
    """
    if not len(targets):
        raise InputError("there are no rows to score: give the test split some")
    if targets.task == REGRESSION:
        return Judged(truth=targets.values, outputs=outputs[:, 0], classes=classes)
    if targets.task == MULTILABEL:
        names = np.union1d(classes, targets.classes)
        truth = spread_columns(targets.values, targets.classes, names)
    else:
        known = np.isin(targets.values, classes)
        names = classes if known.all() else np.union1d(classes, targets.values[~known])
        truth = np.searchsorted(names, targets.values)
    return Judged(truth=truth, outputs=spread_columns(outputs, classes, names), classes=names)


def score(targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]) -> Scores:
    """Compare outputs with the truth.

    Parameters
    ----------
    targets, outputs, classes
        As in `judge`.

    Returns
    -------
    dict of str to float or None
        None where a figure is undefined. Means over classes or tags leave out those for which it
        is: AUC where all rows are of one kind, average precision of a tag no row has, F1 of what
        is neither true nor predicted.

        classification
            ``accuracy``, ``balanced_accuracy``, ``macro_f1``; ``log_loss``: the mean natural
            logarithm, negated, of the probability given to the right class, clipped to
            [eps, 1 - eps] with float64's eps (2.2e-16); ``roc_auc``: of the second class where
            there are two, else the mean over classes of one against the rest; ``ece`` and
            ``brier`` as `measure_ece` and `measure_brier` say.
        multilabel
            ``mean_average_precision``; ``macro_f1`` and ``micro_f1`` of what is at least
            `TAG_THRESHOLD`; ``roc_auc`` and ``log_loss``: the means over tags.
        regression
            ``r2``, ``mae`` and ``rmse``, the two in the target's unit.

    Raises
    ------
    InputError
        There are no rows.
    """
    judged = judge(targets, outputs, classes)
    return _SCORERS[targets.task](judged)


def _score_classes(judged: Judged) -> Scores:
    table = _describe_classes(judged)
    given = judged.outputs[np.arange(len(judged.truth)), judged.truth]
    return {
        "accuracy": float((judged.outputs.argmax(axis=1) == judged.truth).mean()),
        "balanced_accuracy": float(np.mean([one for one in table["recall"] if one is not None])),
        "macro_f1": _average(table["f1"]),
        "log_loss": float(_log_loss(given).mean()),
        "roc_auc": _measure_class_auc(judged),
        "ece": measure_ece(judged.outputs, judged.truth),
        "brier": measure_brier(judged.outputs, judged.truth),
    }


def _score_tags(judged: Judged) -> Scores:
    table = _describe_tags(judged)
    predicted = judged.outputs >= TAG_THRESHOLD
    n_right, n_claimed = (judged.truth & predicted).sum(), judged.truth.sum() + predicted.sum()
    right = np.where(judged.truth, judged.outputs, 1 - judged.outputs)
    columns = zip(judged.outputs.T, judged.truth.T, strict=True)
    return {
        "mean_average_precision": _average(table["average_precision"]),
        "macro_f1": _average(table["f1"]),
        "micro_f1": float(2 * n_right / n_claimed) if n_claimed else None,
        "roc_auc": _average(roc_auc(*column) for column in columns),
        "log_loss": float(_log_loss(right).mean(axis=1).mean()),
    }


def _score_values(judged: Judged) -> Scores:
    errors = judged.outputs - judged.truth
    spread = np.square(judged.truth - judged.truth.mean()).sum()
    return {
        "r2": float(1 - np.square(errors).sum() / spread) if np.ptp(judged.truth) else None,
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(np.square(errors).mean())),
    }


_SCORERS: dict[str, Callable[[Judged], Scores]] = {
    CLASSIFICATION: _score_classes,
    MULTILABEL: _score_tags,
    REGRESSION: _score_values,
}


def _log_loss(right: NDArray[np.float64]) -> NDArray[np.float64]:
    eps = np.finfo(np.float64).eps
    losses: NDArray[np.float64] = -np.log(right.clip(eps, 1 - eps))
    return losses


def roc_auc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float | None:
    """Return how often a row with `truth` has the higher score of two, ties counting half.

    That is the area under the ROC curve (Hanley and McNeil, "The meaning and use of the area
    under a receiver operating characteristic curve", 1982); None without rows of both kinds.
    """
    positives, negatives = np.sort(scores[truth]), np.sort(scores[~truth])
    if not (len(positives) and len(negatives)):
        return None
    below = np.searchsorted(negatives, positives, "left").sum()
    not_above = np.searchsorted(negatives, positives, "right").sum()
    return float((below + not_above) / (2 * len(positives) * len(negatives)))


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float | None:
    """Return the mean, over rows with `truth`, of the precision among rows that score no less.

    None without such rows.
    """
    positives = np.sort(scores[truth])
    if not len(positives):
        return None
    found = len(positives) - np.searchsorted(positives, positives, "left")
    listed = len(scores) - np.searchsorted(np.sort(scores), positives, "left")
    return float((found / listed).mean())


def _measure_class_auc(judged: Judged) -> float | None:
    if len(judged.classes) == 2:
        return roc_auc(judged.outputs[:, 1], judged.truth == 1)
    return _average(
        roc_auc(scores, judged.truth == column) for column, scores in enumerate(judged.outputs.T)
    )


def describe_classes(
    targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]
) -> list[dict[str, str | int | float | None]]:
    """Measure each class.

    Parameters
    ----------
    targets, outputs, classes
        As in `judge`.

    Returns
    -------
    list of dict
        For each class ``class``, ``precision``, ``recall``, ``f1`` and ``support``, its number of
        rows; for each tag ``class``, ``average_precision``, ``f1`` and ``support``; nothing for a
        regression. None where a figure is undefined.
    """
    if targets.task == REGRESSION:
        return []
    judged = judge(targets, outputs, classes)
    describe = _describe_tags if targets.task == MULTILABEL else _describe_classes
    columns = {"class": judged.classes.tolist(), **describe(judged)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _describe_classes(judged: Judged) -> dict[str, list[Any]]:
    counts = _count_pairs(judged)
    right, predicted, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    return {
        "precision": _divide(right, predicted),
        "recall": _divide(right, support),
        "f1": _divide(2 * right, predicted + support),
        "support": support.tolist(),
    }


def _describe_tags(judged: Judged) -> dict[str, list[Any]]:
    predicted, support = judged.outputs >= TAG_THRESHOLD, judged.truth.sum(axis=0)
    columns = zip(judged.outputs.T, judged.truth.T, strict=True)
    return {
        "average_precision": [average_precision(*column) for column in columns],
        "f1": _divide(2 * (judged.truth & predicted).sum(axis=0), predicted.sum(axis=0) + support),
        "support": support.tolist(),
    }


def count_confusions(
    targets: Targets, outputs: NDArray[np.float64], classes: NDArray[np.str_]
) -> dict[str, list[Any]] | None:
    """Count which class was taken for which; None where there is no one class a row.

    Each true class has a row in ``counts``, each predicted one a column, both as in ``classes``.

    Parameters
    ----------
    targets, outputs, classes
        As in `judge`.
    """
    if targets.task != CLASSIFICATION:
        return None
    judged = judge(targets, outputs, classes)
    return {"classes": judged.classes.tolist(), "counts": _count_pairs(judged).tolist()}


def _count_pairs(judged: Judged) -> NDArray[np.int64]:
    """Count (true, predicted) classes: ndarray of shape (n_classes, n_classes)."""
    n_classes = len(judged.classes)
    pairs = judged.truth * n_classes + judged.outputs.argmax(axis=1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def _divide(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> list[float | None]:
    return [
        part / whole if whole else None
        for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)
    ]


def _average(figures: Iterable[float | None]) -> float | None:
    defined = [figure for figure in figures if figure is not None]
    return sum(defined) / len(defined) if defined else None
