"""How good a head is: folds that share no image, and metrics."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from stages.errors import InputError
from stages.heads import fit_head

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


class Scores(TypedDict):
    """What `score` measures."""

    accuracy: float
    log_loss: float


class CrossValidation(TypedDict):
    """What `cross_validate` measures."""

    cv_accuracy_mean: float
    cv_accuracy_std: float
    fold_accuracies: list[float]
    probabilities: NDArray[np.float64]


def make_folds(
    labels: NDArray[np.str_], digests: NDArray[Any], *, n_folds: int, seed: int
) -> list[Fold]:
    """Split rows into stratified folds; equal images always share a fold.

    Parameters
    ----------
    labels : ndarray of str, shape (n_rows,)
    digests : ndarray of uint8, shape (n_rows, 32), or of str, shape (n_rows,)
        Rows with equal digests are the same image.
    n_folds : int
        From 2 on.
    seed : int

    Returns
    -------
    list of (train_rows, test_rows)
        Ascending int64 arrays; every row is in exactly one fold's `test_rows`.

    Raises
    ------
    InputError
        Fewer than two folds, or a class with fewer distinct images than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    # One row stands for each image. StratifiedGroupKFold would do it too, but weighs every
    # image against every fold in Python: 7 s for 50,000 rows, this takes 0.1 s.
    _, firsts, image_of_row = np.unique(_as_keys(digests), return_index=True, return_inverse=True)
    labels = np.asarray(labels, dtype=np.str_)
    _check_folds(labels[firsts], n_folds=n_folds)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    fold_of_image = np.empty(len(firsts), np.int64)
    for fold, (_, images) in enumerate(splitter.split(firsts, labels[firsts])):
        fold_of_image[images] = fold
    fold_of_row = fold_of_image[image_of_row]
    return [
        (np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold))
        for fold in range(n_folds)
    ]


def _as_keys(digests: NDArray[Any]) -> NDArray[Any]:
    """Return one comparable value a row."""
    if digests.ndim == 1:
        return np.asarray(digests, dtype=np.str_)
    return np.ascontiguousarray(digests).view(f"V{digests.shape[1]}").ravel()


def _check_folds(labels: NDArray[np.str_], *, n_folds: int) -> None:
    if n_folds < 2:
        raise InputError(f"cannot cross-validate with {n_folds} folds: give --cv 2 or more")
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes):
        raise InputError("there are no rows to cross-validate: give some that are not for testing")
    rarest = counts.argmin()
    if counts[rarest] < n_folds:
        raise InputError(
            f"class {str(classes[rarest])!r} has {counts[rarest]} distinct images, fewer than"
            f" {n_folds} folds: lower --cv or add images"
        )


def score(
    labels: NDArray[np.str_], probabilities: NDArray[np.float64], classes: NDArray[np.str_]
) -> Scores:
    """Compare predictions with the truth.

    Parameters
    ----------
    labels : ndarray of str, shape (n_rows,)
        A label that is not among `classes` counts as wrong, with probability 0.
    probabilities : ndarray of float64, shape (n_rows, n_classes)
    classes : ndarray of str, shape (n_classes,)
        Sorted.

    Returns
    -------
    dict
        ``accuracy``, and ``log_loss``: the mean natural logarithm, negated, of the probability
        given to the right class, clipped to [eps, 1 - eps] with float64's eps (2.2e-16).
    """
    labels = np.asarray(labels, dtype=np.str_)
    if not len(labels):
        raise InputError("there are no rows to score: give the test split some")
    columns = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    known = classes[columns] == labels
    right = np.where(known, probabilities[np.arange(len(labels)), columns], 0.0)
    eps = np.finfo(np.float64).eps
    return {
        "accuracy": float(np.mean(known & (probabilities.argmax(axis=1) == columns))),
        "log_loss": float(-np.log(right.clip(eps, 1 - eps)).mean()),
    }


def cross_validate(  # noqa: PLR0913
    kind: str,
    settings: Any,
    features: NDArray[Any],
    labels: NDArray[np.str_],
    digests: NDArray[Any],
    *,
    n_folds: int,
    seed: int,
) -> CrossValidation:
    """Fit a head on all folds but one, measure it on that one, and so on in turn.

    Parameters
    ----------
    kind, settings, features, labels, seed
        As in `stages.heads.fit_head`.
    digests, n_folds
        As in `make_folds`.

    Returns
    -------
    dict
        ``cv_accuracy_mean``, ``cv_accuracy_std`` (over the folds as a population: numpy's
        default, ``ddof=0``), ``fold_accuracies``, and ``probabilities``: of each row, as given by
        the head that was not fitted on it, float64 (n_rows, n_classes).
    """
    labels = np.asarray(labels, dtype=np.str_)
    accuracies = []
    out_of_fold = np.zeros((len(labels), len(np.unique(labels))))
    for train, test in make_folds(labels, digests, n_folds=n_folds, seed=seed):
        head = fit_head(kind, settings, features[train], labels[train], seed=seed)
        # Every class has an image in every fold, so every head knows all of them.
        out_of_fold[test] = head.predict_proba(features[test])
        accuracies.append(score(labels[test], out_of_fold[test], head.classes)["accuracy"])
    return {
        "cv_accuracy_mean": float(np.mean(accuracies)),
        "cv_accuracy_std": float(np.std(accuracies)),
        "fold_accuracies": accuracies,
        "probabilities": out_of_fold,
    }
