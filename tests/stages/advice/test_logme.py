"""LogME against the evidence itself: a normal density, maximised by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

from permafrost.stages.advice.logme import decompose, encode_targets, maximise_evidence
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import ArrayMatrix


def maximise_directly(features, y):
    """Maximise log N(y; 0, F Fᵀ / α + 1 / β) over both."""
    n_rows = len(y)

    def loss(logs):
        alpha, beta = np.exp(logs)
        covariance = features @ features.T / alpha + np.eye(n_rows) / beta
        factor = np.linalg.cholesky(covariance)
        misfit = (np.linalg.solve(factor, y) ** 2).sum() + n_rows * np.log(2 * np.pi)
        return misfit / 2 / n_rows + np.log(factor.diagonal()).sum() / n_rows

    starts = [(-2.0, 2.0), (4.0, 2.0), (4.0, 8.0)]
    exactly = {"xatol": 1e-6, "fatol": 1e-12}
    found = [minimize(loss, one, method="Nelder-Mead", options=exactly) for one in starts]
    return -min(one.fun for one in found)


def measure(features, outputs):
    matrix = ArrayMatrix(features)
    rows = np.arange(len(features))
    return maximise_evidence(decompose(matrix, rows, outputs, n_bytes=4000))


@pytest.mark.parametrize("shape", [(40, 9), (25, 70), (30, 30)])
def test_the_evidence_is_the_largest_that_a_direct_search_finds(shape):
    rng = np.random.default_rng(0)
    features = rng.normal(size=shape) * rng.uniform(0.1, 4, shape[1])
    outputs = (features @ rng.normal(size=(shape[1], 2)) + 2 * rng.normal(size=(shape[0], 2))) > 0
    outputs = outputs.astype(np.float64)
    expected = [maximise_directly(features, y) for y in outputs.T]
    np.testing.assert_allclose(measure(features, outputs), expected, atol=2e-6)


def test_both_ways_to_the_spectrum_agree():
    """Columns of zeros make rows of more features than rows, and change nothing."""
    digits = load_digits()
    features, classes = digits.data[:60, :40], digits.target[:60].astype(str)
    outputs = encode_targets(Targets(task="classification", values=classes, classes=np.empty(0)))
    wide = np.concatenate([features, np.zeros((60, 100))], axis=1)
    np.testing.assert_allclose(measure(wide, outputs), measure(features, outputs), rtol=1e-9)


def test_features_that_tell_more_have_more_evidence():
    digits = load_digits()
    rows = np.arange(150)
    targets = Targets(
        task="classification", values=digits.target[rows].astype(str), classes=np.empty(0)
    )
    outputs = encode_targets(targets)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(150, 64))
    evidences = [measure(one, outputs).mean() for one in (digits.data[rows], noise)]
    assert evidences[0] > evidences[1] + 0.1


def test_features_of_zeros_leave_the_evidence_of_noise():
    y = np.array([1.0, -2.0, 3.0])
    variance = (y**2).mean()
    expected = multivariate_normal.logpdf(y, np.zeros(3), variance * np.eye(3)) / 3
    assert measure(np.zeros((3, 2)), y[:, None])[0] == pytest.approx(expected)


@pytest.mark.parametrize("width", [3, 30])
def test_a_row_with_nan_is_named(width):
    features = np.ones((10, width))
    features[4, 1] = np.nan
    with pytest.raises(InputError, match="row 4"):
        measure(features, np.ones((10, 1)))


def test_tags_and_values_are_encoded_as_they_are():
    tags = Targets(
        task="multilabel",
        values=np.array([[True, False], [True, True]]),
        classes=np.array(["a", "b"]),
    )
    values = Targets(task="regression", values=np.array([1.5, 2.5]), classes=np.empty(0, np.str_))
    assert encode_targets(tags).tolist() == [[1, 0], [1, 1]]
    assert encode_targets(values).tolist() == [[1.5], [2.5]]
