"""The group lasso against scikit-learn's, and against what holds at its minimum."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso, MultiTaskLasso

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.fit_rows import encode_targets, standardise
from permafrost.stages.heads.head2toe import relevance
from permafrost.stages.heads.head2toe.relevance import measure_relevance, solve_group_lasso
from permafrost.stages.heads.loss import pose_problem
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.stream import open_stream

N_ROWS, N_FEATURES = 90, 300
PIXELS, DIGITS = load_digits(n_class=3, return_X_y=True)
DIGITS = DIGITS[:N_ROWS]
VALUES = (
    np.maximum(PIXELS[:N_ROWS] @ np.random.default_rng(0).standard_normal((64, N_FEATURES)), 0)
    + np.random.default_rng(1).standard_normal((N_ROWS, N_FEATURES)) * 20
).astype(np.float32)
TARGETS = {
    "classification": Targets(
        task="classification", values=DIGITS.astype(str), classes=np.unique(DIGITS.astype(str))
    ),
    "multilabel": Targets(
        task="multilabel",
        values=np.stack([DIGITS > 0, DIGITS == 1], axis=1),
        classes=np.array(["s", "t"]),
    ),
    "regression": Targets(
        task="regression", values=DIGITS.astype(np.float64), classes=np.empty(0, np.str_)
    ),
}


def pose(task, *, values=VALUES, n_bytes=10**8, weighting="none", scale="standard"):
    truth = standardise(encode_targets(TARGETS[task], weighting))
    stream = open_stream(ArrayMatrix(values), np.arange(len(values)), n_bytes=n_bytes)
    return pose_problem(stream, truth, scale=scale)[0]


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(relevance, "TOLERANCE", 1e-5)


SCALED = (VALUES.astype(np.float64) - VALUES.mean(0)) / VALUES.std(0)


def test_weights_of_a_value_are_those_of_scikit_learns_lasso(exact):
    weights, penalty, _ = solve_group_lasso(pose("regression"), strength=0.2, n_bytes=10**8)
    truth = (DIGITS - DIGITS.mean()) / DIGITS.std()
    assert penalty == pytest.approx(0.2 * np.abs(SCALED.T @ truth / N_ROWS).max(), rel=1e-5)
    plain = Lasso(alpha=penalty, tol=1e-10, max_iter=100_000).fit(SCALED, truth)
    np.testing.assert_array_equal(weights[:-1, 0] != 0, plain.coef_ != 0)
    np.testing.assert_allclose(weights[:-1, 0], plain.coef_, atol=1e-4)


def test_weights_of_several_outputs_are_those_of_scikit_learns_multi_task_lasso(exact):
    problem = dataclasses.replace(pose("multilabel"), link="identity")
    weights, penalty, _ = solve_group_lasso(problem, strength=0.2, n_bytes=10**8)
    truth = TARGETS["multilabel"].values.astype(np.float64)
    plain = MultiTaskLasso(alpha=penalty, tol=1e-10, max_iter=100_000).fit(SCALED, truth)
    np.testing.assert_array_equal(weights[:-1].any(axis=1), plain.coef_.any(axis=0))
    np.testing.assert_allclose(weights[:-1], plain.coef_.T, atol=1e-4)
    np.testing.assert_allclose(weights[-1], plain.intercept_, atol=1e-4)


@pytest.mark.parametrize("weighting", ["none", "balanced"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_slopes_are_those_of_a_minimum(exact, task, weighting):
    problem = pose(task, weighting=weighting)
    weights, penalty, slopes = solve_group_lasso(problem, strength=0.3, n_bytes=10**8)
    scores = SCALED @ weights[:-1] + weights[-1]
    truth = TARGETS[task].values
    if task == "classification":
        errors = softmax(scores, axis=1) - (truth[:, np.newaxis] == TARGETS[task].classes)
    else:
        errors = expit(scores) - truth
    counted = encode_targets(TARGETS[task], weighting).weights
    gradient = SCALED.T @ (errors * counted / counted.sum(axis=0))
    norms = np.linalg.norm(weights[:-1], axis=1)
    has = norms > 0
    assert 3 < has.sum() < 100
    wanted = -penalty * weights[:-1][has] / norms[has, np.newaxis]
    np.testing.assert_allclose(gradient[has], wanted, atol=1e-3 * penalty)
    assert np.linalg.norm(gradient[~has], axis=1).max() < penalty * (1 + 1e-3)
    np.testing.assert_allclose(slopes, np.linalg.norm(gradient, axis=1), atol=1e-4 * penalty)


def test_features_without_weights_are_ranked_by_how_soon_they_would_get_some():
    weaker, stronger = (
        measure_relevance(pose("classification"), strength=strength, n_bytes=10**8)
        for strength in (0.8, 0.7)
    )
    new = (stronger > 0) & (weaker <= 0)
    assert weaker[weaker > 0].size and new.any()
    best = np.sort(weaker[weaker <= 0])[::-1]
    assert weaker[new].min() >= best[3 * new.sum()]
    assert best.max() <= 0 and best.min() >= -1


def test_streamed_rows_give_what_rows_in_memory_do():
    scores = [
        measure_relevance(pose("classification", n_bytes=n_bytes), strength=0.3, n_bytes=10**8)
        for n_bytes in (10**8, 60_000)
    ]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_features_that_are_all_constant_are_one_line():
    with pytest.raises(InputError, match="all of them are constant"):
        measure_relevance(
            pose("regression", values=np.ones((N_ROWS, 5), np.float32)), strength=0.5, n_bytes=10**8
        )


def test_too_little_memory_for_the_features_with_weights_is_one_line():
    with pytest.raises(InputError, match=r"relevance=0.01 .* give a larger relevance, or more"):
        measure_relevance(pose("regression"), strength=0.01, n_bytes=20_000)
