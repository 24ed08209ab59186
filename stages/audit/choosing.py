"""Which rows to label next: those that a head is unsure of, and those unlike all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import MULTILABEL
from permafrost.stages.evaluation.neighbours import measure_lengths
from permafrost.stages.matrices.matrix import BLOCK_BYTES, Matrix, Rows, iterate_rows

_MOST_PROJECTED = 1024


def measure_margins(outputs: NDArray[np.float64], *, task: str) -> NDArray[np.float64]:
    """Return how sure a head is of each row, from 0 to 1: shape (n,).

    The probability of the most probable class less that of the next (Scheffer, Decomain and Wrobel,
    "Active Hidden Markov Models for Information Extraction", 2001); of tags, the mean over them of
    the probability that a tag is there less the one that it is not, whichever is larger.
    """
    if task == MULTILABEL:
        sure: NDArray[np.float64] = np.abs(2 * outputs - 1).mean(axis=1)
        return sure
    best = np.partition(outputs, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def measure_entropy(outputs: NDArray[np.float64], *, task: str) -> NDArray[np.float64]:
    """Return Shannon's entropy of what is said of each row, in bits; of tags, the mean over them.

    Parameters
    ----------
    outputs : ndarray of float64, shape (n, n_classes)
    """
    sides = (outputs, 1 - outputs) if task == MULTILABEL else (outputs,)
    bits = sum(-side * np.log2(np.maximum(side, np.finfo(float).tiny)) for side in sides)
    told: NDArray[np.float64] = np.asarray(bits).sum(axis=1)
    return told / outputs.shape[1] if task == MULTILABEL else told


def read_directions(matrix: Matrix, rows: Rows, *, memory_bytes: int) -> NDArray[np.float32]:
    """Read rows less their mean, each scaled to length 1: shape (n, d).

    Rows that half of the memory does not hold are projected on random directions first, as few as
    there is room for, which keeps distances nearly (Johnson and Lindenstrauss, 1984).
    """
    n_columns = matrix.shape[1]
    room = max(1, memory_bytes // (8 * max(1, len(rows))))
    if n_columns <= room:
        values = np.empty((len(rows), n_columns), np.float32)
        for places, block in iterate_rows(matrix, rows):
            values[places] = block
    else:
        values = _project(matrix, rows, min(room, _MOST_PROJECTED), memory_bytes)
    step = max(1, BLOCK_BYTES // (4 * values.shape[1]))
    values -= values.mean(axis=0, dtype=np.float64).astype(np.float32)
    for start in range(0, len(values), step):
        block = values[start : start + step]
        block /= measure_lengths(block)[:, None]
    return values


def _project(
    matrix: Matrix, rows: Rows, n_directions: int, memory_bytes: int
) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    values = np.zeros((len(rows), n_directions), np.float32)
    for block in matrix.iterate_columns(rows, n_bytes=min(BLOCK_BYTES, memory_bytes // 8)):
        random = rng.standard_normal((block.shape[1], n_directions), dtype=np.float32)
        values += block.astype(np.float32, copy=False) @ random
    return values


def choose_centres(
    directions: NDArray[np.float32],
    pool: Sequence[int] | Rows,
    known: Sequence[int] | Rows = (),
    *,
    n: int,
) -> tuple[Rows, NDArray[np.float64]]:
    """Choose rows that leave no row of the pool far from a labelled or chosen one.

    K-centre greedy: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A
    Core-Set Approach" (ICLR 2018). Each is the one furthest from all that are labelled or chosen;
    the very first, where nothing is labelled, the one most like the mean of the pool.

    Parameters
    ----------
    directions : ndarray of float32, shape (m, d)
        Rows of length 1.
    pool, known : sequence of int
        Rows to choose from, and rows with a label.
    n : int
        At most as many as the pool has.

    Returns
    -------
    chosen : ndarray of int64, shape (n,)
        In the order chosen.
    distances : ndarray of float64, shape (n,)
        To the nearest row that was labelled or chosen before: from 0 to 2; 2 of the very first.
    """
    candidates = np.asarray(pool, np.int64)
    mine = directions[candidates]
    nearest = _find_nearest(mine, directions, np.asarray(known, np.int64))
    chosen, cosines = np.empty(n, np.int64), np.empty(n)
    for place in range(n):
        if place == 0 and not len(known):
            first = int((mine @ mine.mean(axis=0)).argmax())
            cosines[place] = -1
        else:
            first = int(nearest.argmin())
            cosines[place] = nearest[first]
        chosen[place] = first
        np.maximum(nearest, mine @ mine[first], out=nearest)
        nearest[first] = np.inf
    return candidates[chosen], np.sqrt(np.maximum(2 - 2 * cosines, 0))


def _find_nearest(
    mine: NDArray[np.float32], directions: NDArray[np.float32], known: Rows
) -> NDArray[np.float32]:
    """Return the largest cosine of each row with a known one; -inf where there is none."""
    nearest = np.full(len(mine), -np.inf, np.float32)
    step = max(1, BLOCK_BYTES // (4 * max(1, len(mine))))
    for start in range(0, len(known), step):
        cosines = mine @ directions[known[start : start + step]].T
        np.maximum(nearest, cosines.max(axis=1), out=nearest)
    return nearest
