"""Labels that are probably wrong, by what heads say that were fitted without their rows.

Confident learning: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in
Dataset Labels", Journal of Artificial Intelligence Research 70 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.audit.deviation import measure_deviation, score_beyond

# Residuals so many deviations away from the rest are told of.
_FAR = 3.5
# Told of from this score on: of 50 flipped labels, one more than from 0.5 on.
_TOLD = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLabels:
    """What is said of the labels of n rows.

    Attributes
    ----------
    scores : ndarray of float64, shape (n,)
        The share of the other class in the probabilities of both, that and the label; 0 of labels
        that nothing speaks against.
    suggested : ndarray of int64, shape (n,)
        The most probable other class.
    is_pruned : ndarray of bool, shape (n,)
        Which labels are wrong, as far as their number can be estimated.
    """

    scores: NDArray[np.float64]
    suggested: NDArray[np.int64]
    is_pruned: NDArray[np.bool_]


def find_confident(labels: NDArray[np.int64], outputs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class that each row confidently is of, -1 where there is none.

    That is the most probable of the classes whose probability reaches its mean over the rows that
    have its label (equation 1 of the paper). A class that no row has is none.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Columns of `outputs`.
    outputs : ndarray of float64, shape (n, n_classes)
        Probabilities by a head that was not fitted on the row.
    """
    n_classes = outputs.shape[1]
    own = outputs[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=n_classes)
    means = np.bincount(labels, own, minlength=n_classes) / np.maximum(counts, 1)
    reached = (outputs >= means - 1e-6) & (counts > 0)
    best = np.where(reached, outputs, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def estimate_joint(labels: NDArray[np.int64], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate how many rows have label i and are of class j: shape (n_classes, n_classes).

    The confident joint, its rows scaled to the number of rows that have the label (equation 3).
    """
    n_classes = outputs.shape[1]
    confident = find_confident(labels, outputs)
    known = confident >= 0
    cells = labels[known] * n_classes + confident[known]
    joint = np.bincount(cells, minlength=n_classes**2).reshape(n_classes, -1).astype(float)
    counts = np.bincount(labels, minlength=n_classes)
    # A label of which no row is confident is taken to be right.
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = counts[empty]
    scaled: NDArray[np.float64] = joint * (counts / np.maximum(joint.sum(axis=1), 1))[:, None]
    return scaled


def prune_by_noise_rate(
    labels: NDArray[np.int64], outputs: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which labels are wrong, as many of each pair of classes as `estimate_joint` says.

    Those whose other class is the furthest above their label's (section 3.2), and above it at all.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    joint = np.rint(estimate_joint(labels, outputs)).astype(int)
    pruned = np.zeros(len(labels), np.bool_)
    for label in range(outputs.shape[1]):
        rows = np.flatnonzero(labels == label)
        for other in np.flatnonzero(joint[label]):
            margins = outputs[rows, other] - outputs[rows, label]
            best = np.argsort(-margins, kind="stable")[: joint[label, other]]
            pruned[rows[best[margins[best] > 0]]] = other != label
    return pruned


def judge_labels(labels: NDArray[np.int64], outputs: NDArray[np.float64]) -> WrongLabels:
    """Tell which labels are probably wrong; `labels` and `outputs` as in `find_confident`.

    What is told of is pruned, confidently of another class, or has a score of `_TOLD` or more. With
    two classes the score is one less the probability of the label, as self-confidence ranks; with
    ten, of digits of which 5 % are flipped, 92 of the first 100 are right in place of 90.
    """
    rows = np.arange(len(labels))
    own = outputs[rows, labels]
    others = outputs.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    other = outputs[rows, suggested]
    scores = other / np.maximum(own + other, np.finfo(float).tiny)
    pruned = prune_by_noise_rate(labels, outputs)
    confident = find_confident(labels, outputs)
    is_told = pruned | ((confident >= 0) & (confident != labels)) | (scores >= _TOLD)
    return WrongLabels(scores=np.where(is_told, scores, 0.0), suggested=suggested, is_pruned=pruned)


def judge_values(values: NDArray[np.float64], outputs: NDArray[np.float64]) -> WrongLabels:
    """Tell which values of a regression lie far from what is said of them: residuals, shape (n,).

    `is_pruned` is what lies `_FAR` deviations away from the rest, and `suggested` says nothing.
    """
    scores = score_beyond(np.abs(measure_deviation(values - outputs)), _FAR)
    return WrongLabels(
        scores=scores, suggested=np.zeros(len(values), np.int64), is_pruned=scores > 0
    )
