"""Which rows to label next, against plain NumPy, SciPy and exact distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.datasets import load_digits

from permafrost.stages.audit.choosing import (
    choose_centres,
    measure_entropy,
    measure_margins,
    read_directions,
)
from permafrost.stages.matrices.matrix import ArrayMatrix

DIGITS = load_digits().data.astype(np.float32)


def direct(values):
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def choose_plainly(directions, pool, known, n):
    """K-centre greedy in float64, every distance anew each time."""
    taken, chosen, distances = list(known), [], []
    for _ in range(n):
        away = np.linalg.norm(directions[pool][:, None] - directions[taken][None], axis=2)
        nearest = away.min(axis=1)
        chosen.append(pool[nearest.argmax()])
        distances.append(nearest.max())
        taken.append(chosen[-1])
    return chosen, distances


def test_centres_are_those_of_plain_numpy():
    directions = read_directions(ArrayMatrix(DIGITS), np.arange(300), memory_bytes=2**30)
    np.testing.assert_allclose(directions, direct(DIGITS[:300]), atol=1e-5)
    pool, known = np.arange(100, 300), np.arange(0, 100, 5)
    chosen, distances = choose_centres(directions, pool, known, n=40)
    expected, away = choose_plainly(direct(DIGITS[:300]), pool, known, 40)
    assert chosen.tolist() == expected
    np.testing.assert_allclose(distances, away, atol=1e-4)
    assert (np.diff(distances) <= 1e-6).all()


def test_the_first_of_nothing_is_like_the_mean_and_no_row_comes_twice():
    directions = direct(DIGITS[:50]).astype(np.float32)
    chosen, distances = choose_centres(directions, np.arange(50), n=50)
    assert sorted(chosen) == list(range(50))
    assert chosen[0] == (directions @ directions.mean(axis=0)).argmax()
    assert distances[0] == 2


def test_rows_that_memory_does_not_hold_keep_their_distances_nearly():
    wide = np.tile(DIGITS[:200], 100)
    projected = read_directions(ArrayMatrix(wide), np.arange(200), memory_bytes=2**20)
    assert projected.nbytes <= 2**19
    exact = direct(wide)
    error = projected @ projected.T - exact @ exact.T
    assert np.abs(error).mean() < 0.05


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_margin_and_entropy_are_those_of_the_books(task):
    outputs = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    best = np.sort(outputs, axis=1)
    if task == "classification":
        np.testing.assert_allclose(
            measure_margins(outputs, task=task), best[:, -1] - best[:, -2], atol=1e-12
        )
        expected = entropy(outputs, base=2, axis=1)
    else:
        both = np.stack([outputs, 1 - outputs])
        np.testing.assert_allclose(
            measure_margins(outputs, task=task), np.ptp(both, axis=0).mean(axis=1)
        )
        expected = entropy(both, base=2, axis=0).mean(axis=1)
    np.testing.assert_allclose(measure_entropy(outputs, task=task), expected, atol=1e-12)


def test_what_is_certain_has_no_entropy():
    assert measure_entropy(np.array([[1.0, 0.0]]), task="classification").tolist() == [0.0]
