"""What ``sgd`` finds is the minimum that scikit-learn finds, whatever the classes weigh."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logsumexp
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import Head, fit_head, load_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix

DIGITS = load_digits()
PIXELS = DIGITS.data.astype(np.float32)
# No more than a gradient of this is left, which is what float32 rows of float64 scalers allow.
TIGHT = {"tol": 1e-7, "epochs": 5000}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: with two, L-BFGS on rows this few takes many times as long."""
    with threadpool_limits(1):
        yield


def make_uneven() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """3,000 rows of 64 features in four classes, 97 to 1 to 1 to 1."""
    rng = np.random.default_rng(0)
    codes = rng.choice(4, 3000, p=[0.97, 0.01, 0.01, 0.01])
    return (rng.normal(size=(3000, 64)) + 2 * np.eye(64)[codes]).astype(np.float32), codes


def name_classes(codes: NDArray[Any]) -> Targets:
    names = np.array([f"class {code}" for code in codes])
    return Targets(task="classification", values=names, classes=np.unique(names))


def fit(x: NDArray[np.float32], targets: Targets, **settings: object) -> Head:
    parsed = parse_settings("sgd", settings)
    return fit_head("sgd", parsed, ArrayMatrix(x), targets, train=np.arange(len(x)), seed=0)


def read_plain(head: Any, x: NDArray[np.float32]) -> tuple[Any, NDArray[np.float64]]:
    """Return scikit-learn's estimator in a head, and the rows as it gets them, in float64."""
    scaler, estimator = head.pipeline[0], head.pipeline[-1]
    wide = x.astype(np.float64)
    return estimator, wide if scaler == "passthrough" else scaler.transform(wide)


def measure(
    estimator: Any, x: NDArray[np.float64], codes: NDArray[Any], weights: NDArray[np.float64]
) -> float:
    """Return what LogisticRegression minimises."""
    scores = x @ estimator.coef_.T + estimator.intercept_
    if scores.shape[1] == 1:
        scores = np.hstack([0 * scores, scores])
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(x)), codes]
    return float(estimator.C * weights @ losses + np.square(estimator.coef_).sum() / 2)


def weigh_evenly(codes: NDArray[Any]) -> NDArray[np.float64]:
    counts = np.bincount(codes)
    return (len(codes) / (len(counts) * counts))[codes]


@pytest.mark.parametrize("scale", ["standard", "none", "l2"])
def test_uneven_classes_that_count_alike_reach_the_minimum(scale: str) -> None:
    x, codes = make_uneven()
    settings = {"C": 0.1, "scale": scale, "class_weight": "balanced"}
    head = fit(x, name_classes(codes), **settings, **TIGHT)
    found, rows = read_plain(head, x)
    weights = weigh_evenly(codes)
    # Centred, where L-BFGS gets all the way; the bias is not penalised, so it is the same minimum.
    centred = rows - rows.mean(axis=0)
    plain = LogisticRegression(C=0.1, tol=1e-8, max_iter=9999)
    plain.fit(centred, codes, sample_weight=weights)
    expected = measure(plain, centred, codes, weights)
    assert measure(found, rows, codes, weights) == pytest.approx(expected, rel=1e-6)
    default, _ = read_plain(fit(x, name_classes(codes), **settings), x)
    assert measure(default, rows, codes, weights) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_digits_reach_the_minimum(n_classes: int, strength: float) -> None:
    taken = DIGITS.target < n_classes
    x, codes = PIXELS[taken], DIGITS.target[taken]
    found, rows = read_plain(fit(x, name_classes(codes), C=strength, **TIGHT), x)
    plain = LogisticRegression(C=strength, tol=1e-8, max_iter=9999).fit(rows, codes)
    alike = np.ones(len(rows))
    expected = measure(plain, rows, codes, alike)
    assert measure(found, rows, codes, alike) == pytest.approx(expected, rel=1e-6)


def test_each_tag_reaches_the_minimum_of_its_own() -> None:
    tags = np.column_stack([DIGITS.target % 2 == 0, DIGITS.target == 7])
    targets = Targets(task="multilabel", values=tags, classes=np.array(["even", "seven"]))
    head = fit(PIXELS, targets, C=0.05, class_weight="seven:9", **TIGHT)
    joined, rows = read_plain(head, PIXELS)
    for number, (tag, weight) in enumerate(zip(tags.T, (1.0, 9.0), strict=True)):
        weights = np.where(tag, weight, 1.0)
        plain = LogisticRegression(C=0.05, tol=1e-8, max_iter=9999)
        plain.fit(rows, tag, sample_weight=weights)
        expected = measure(plain, rows, tag.astype(int), weights)
        found = joined.estimators_[number]
        assert measure(found, rows, tag.astype(int), weights) == pytest.approx(expected, rel=1e-6)
        outputs = head.predict(PIXELS)[:, number]
        np.testing.assert_allclose(outputs, expit(plain.decision_function(rows)), atol=1e-4)


@pytest.mark.parametrize("scale", ["standard", "none", "l2"])
def test_a_regression_reaches_the_minimum_of_ridge(scale: str) -> None:
    x, truth = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    targets = Targets(task="regression", values=truth, classes=np.empty(0, np.str_))
    found, rows = read_plain(fit(x, targets, C=0.5, scale=scale, **TIGHT), x)
    plain = Ridge(alpha=2).fit(rows, truth)

    def measure_squares(estimator: Any) -> float:
        errors = rows @ estimator.coef_ + estimator.intercept_ - truth
        return float(np.square(errors).sum() + 2 * np.square(estimator.coef_).sum())

    assert measure_squares(found) == pytest.approx(measure_squares(plain), rel=1e-6)


def test_too_few_passes_are_told_with_their_remedy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    targets = name_classes(DIGITS.target)
    fit(PIXELS, targets)
    assert not caplog.messages
    fit(PIXELS, targets, epochs=5)
    (line,) = caplog.messages
    assert "has not converged" in line
    assert "--set epochs=20" in line


def test_a_setting_that_is_gone_is_refused_but_heads_that_have_it_are_loaded(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="sgd has no setting batch_size any more"):
        parse_settings("sgd", {"batch_size": "16"})
    head = fit(PIXELS, name_classes(DIGITS.target), epochs=50)
    head.save(tmp_path)
    # As heads were saved when sgd stepped through small batches.
    record = json.loads((tmp_path / "head.json").read_text())
    record["settings"] |= {"batch_size": 16}
    del record["settings"]["tol"]
    (tmp_path / "head.json").write_text(json.dumps(record))
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict(PIXELS), head.predict(PIXELS))
