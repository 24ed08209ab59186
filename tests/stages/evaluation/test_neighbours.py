"""The k nearest rows by cosine, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from permafrost.stages.evaluation import neighbours
from permafrost.stages.evaluation.neighbours import find_nearest
from permafrost.stages.matrices.matrix import ArrayMatrix

DIGITS = load_digits().data.astype(np.float32)


def find_plainly(values, rows, others, *, n_best):
    """Find them with scikit-learn: cosines, best first."""
    found = NearestNeighbors(n_neighbors=n_best, metric="cosine").fit(values[others])
    distances, _ = found.kneighbors(values[rows])
    return 1 - distances


def assert_are(found, values, rows, others):
    """The positions are those of rows with just these cosines."""
    left = values[rows] / np.linalg.norm(values[rows], axis=1, keepdims=True)
    right = values[others] / np.linalg.norm(values[others], axis=1, keepdims=True)
    cosines = np.take_along_axis(left @ right.T, found.positions, axis=1)
    np.testing.assert_allclose(found.cosines, cosines, atol=2e-5)


# In one block; in many, each read again; all cosines at once of rows that are read by columns.
@pytest.mark.parametrize(("n_rows", "memory_bytes"), [(600, 2**30), (600, 2**17), (60, 2**16)])
def test_the_nearest_of_all_rows_are_scikit_learns(n_rows, memory_bytes):
    rows = np.random.default_rng(0).permutation(len(DIGITS))[:n_rows]
    values = DIGITS if n_rows > 100 else np.tile(DIGITS, 20)
    found = find_nearest(ArrayMatrix(values), rows, n_best=7, memory_bytes=memory_bytes)
    expected = find_plainly(values, rows, rows, n_best=8)[:, 1:]
    np.testing.assert_allclose(found.cosines, expected, atol=2e-5)
    assert not (found.positions == np.arange(n_rows)[:, None]).any()
    assert_are(found, values, rows, rows)


@pytest.mark.parametrize("memory_bytes", [2**30, 2**16])
@pytest.mark.parametrize("n_best", [1, 5])
def test_the_nearest_of_other_rows_are_scikit_learns(memory_bytes, n_best):
    rows, others = np.arange(0, 1797, 3), np.arange(1, 1797, 3)
    found = find_nearest(
        ArrayMatrix(DIGITS), rows, others, n_best=n_best, memory_bytes=memory_bytes
    )
    expected = find_plainly(DIGITS, rows, others, n_best=n_best)
    np.testing.assert_allclose(found.cosines, expected, atol=2e-5)
    assert_are(found, DIGITS, rows, others)


def test_rows_are_centred_on_all_that_they_are_compared_with():
    rows = np.arange(300)
    centred = DIGITS[:300] - DIGITS[:300].mean(axis=0)
    found = find_nearest(ArrayMatrix(DIGITS), rows, n_best=3, memory_bytes=2**20, is_centred=True)
    expected = find_plainly(centred, rows, rows, n_best=4)[:, 1:]
    np.testing.assert_allclose(found.cosines, expected, atol=2e-5)


def test_fewer_others_than_asked_for_leave_places_empty():
    found = find_nearest(ArrayMatrix(DIGITS), np.arange(3), n_best=5, memory_bytes=2**20)
    assert np.isneginf(found.cosines[:, 2:]).all()
    assert (found.positions[:, 2:] == -1).all()
    assert sorted(found.positions[0, :2]) == [1, 2]


def test_rows_that_are_all_the_same_are_found_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_SQUARE", 50)
    matrix = ArrayMatrix(np.ones((400, 4), np.float32))
    found = find_nearest(matrix, np.arange(400), n_best=4, memory_bytes=2**20)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-6)
    assert not (found.positions == np.arange(400)[:, None]).any()
