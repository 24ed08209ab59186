from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix

DIGITS = load_digits()
ORDER = np.random.default_rng(0).permutation(1797)
TRAIN, TEST = ORDER[:1200], ORDER[1200:]
X = DIGITS.data.astype(np.float32)
NAMES = np.array([f"digit {n}" for n in DIGITS.target])
CLASSES = Targets(task="classification", values=NAMES, classes=np.unique(NAMES))
TAGS = Targets(
    task="multilabel",
    values=np.column_stack(
        [np.isin(DIGITS.target, s) for s in ([0, 2, 4, 6, 8], [2, 3, 5, 7], [0, 6, 8, 9])]
    ),
    classes=np.array(["even", "prime", "round"]),
)
SCALERS = {"standard": StandardScaler(), "l2": Normalizer(), "none": FunctionTransformer()}


def name_values(values):
    return Targets(task="regression", values=values, classes=np.empty(0, np.str_))


DIABETES = load_diabetes()
PATIENTS, PROGRESS = DIABETES.data.astype(np.float32), name_values(DIABETES.target)
SOME, OTHERS = np.split(np.random.default_rng(1).permutation(442), [300])


def fit(targets, *, x=X, train=TRAIN, seed=0, memory_bytes=10**9, **settings):
    parsed = parse_settings("sgd", settings)
    return fit_head(
        "sgd", parsed, ArrayMatrix(x), targets, train=train, seed=seed, memory_bytes=memory_bytes
    )


def score(head, x=X):
    outputs = head.predict(x[TEST])
    predicted = head.classes[outputs.argmax(axis=1)]
    return log_loss(NAMES[TEST], outputs), np.mean(predicted == NAMES[TEST])


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("C", [0.01, 1])
def test_sgd_comes_near_logistic_regression(scale, C):
    plain = make_pipeline(SCALERS[scale], LogisticRegression(C=C, max_iter=500, tol=1e-3))
    plain.fit(X[TRAIN], NAMES[TRAIN])
    loss, accuracy = score(fit(CLASSES, scale=scale, C=C))
    assert loss < log_loss(NAMES[TEST], plain.predict_proba(X[TEST])) + 0.03
    assert accuracy > plain.score(X[TEST], NAMES[TEST]) - 0.02


def test_two_classes_have_the_weights_of_logistic_regression():
    two = np.flatnonzero(DIGITS.target < 2)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(X[two], NAMES[two])
    head = fit(CLASSES, train=two, C=0.01)
    assert head.classes.tolist() == ["digit 0", "digit 1"]
    np.testing.assert_allclose(head.predict(X[two]), plain.predict_proba(X[two]), atol=0.05)
    np.testing.assert_allclose(head.pipeline[-1].coef_, plain[-1].coef_, atol=0.01)


@pytest.mark.parametrize("scale", ["standard", "none"])
def test_a_regression_is_near_ridge_and_far_from_the_mean(scale):
    truth = PROGRESS.values
    plain = make_pipeline(SCALERS[scale], Ridge(alpha=1)).fit(PATIENTS[SOME], truth[SOME])
    head = fit(PROGRESS, x=PATIENTS, train=SOME, scale=scale)
    predicted = head.predict(PATIENTS[OTHERS])
    assert predicted.shape == (len(OTHERS), 1)
    expected = r2_score(truth[OTHERS], plain.predict(PATIENTS[OTHERS]))
    assert expected > 0.3
    assert r2_score(truth[OTHERS], predicted[:, 0]) > expected - 0.02


def test_a_row_far_longer_than_the_others_does_not_make_a_regression_diverge():
    x = PATIENTS.copy()
    x[SOME[0]] *= 1000
    predicted = fit(PROGRESS, x=x, train=SOME, scale="none").predict(x)
    assert np.isfinite(predicted).all()


def test_tags_are_near_one_logistic_regression_each():
    plain = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression()))
    expected = plain.fit(X[TRAIN], TAGS.values[TRAIN]).predict_proba(X[TEST])
    outputs = fit(TAGS).predict(X[TEST])
    truth = TAGS.values[TEST]
    assert average_precision_score(truth, outputs) > average_precision_score(truth, expected) - 0.01
    assert np.mean((outputs > 0.5) == truth) > np.mean((expected > 0.5) == truth) - 0.01


def test_a_tag_that_all_or_none_of_the_rows_have_is_said_of_all_or_none():
    n_rows = len(X)
    values = np.column_stack([TAGS.values[:, 0], np.ones(n_rows, bool), np.zeros(n_rows, bool)])
    classes = np.array(["even", "everywhere", "nowhere"])
    targets = Targets(task="multilabel", values=values, classes=classes)
    for weighting in ("none", "balanced"):
        outputs = fit(targets, class_weight=weighting).predict(X[TEST])
        assert outputs[:, 1].min() > 0.9
        assert outputs[:, 2].max() < 0.1


@pytest.mark.parametrize("weighting", ["balanced", {"digit 8": 20, "digit 9": 0.2}])
def test_class_weights_are_those_of_logistic_regression(weighting):
    # Uneven classes of overlapping digits, so that weights matter.
    rows = np.concatenate([TRAIN[DIGITS.target[TRAIN] != 8], TRAIN[DIGITS.target[TRAIN] == 8][:9]])
    plain_weights = weighting
    if weighting != "balanced":
        plain_weights = dict.fromkeys(np.unique(NAMES), 1.0) | weighting
    plain = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight=plain_weights, max_iter=1000)
    ).fit(X[rows], NAMES[rows])
    head = fit(CLASSES, train=rows, C=0.01, class_weight=weighting)
    unweighted = fit(CLASSES, train=rows, C=0.01).predict(X[TEST])
    expected = plain.predict_proba(X[TEST])
    error = np.abs(head.predict(X[TEST]) - expected).mean()
    assert error < 0.25 * np.abs(unweighted - expected).mean()


def test_weights_of_no_class_and_of_values_are_refused():
    with pytest.raises(UnknownNameError, match="'digit 11'"):
        fit(CLASSES, class_weight="digit 11:2")
    with pytest.raises(InputError, match="drop class_weight"):
        fit(PROGRESS, x=PATIENTS, train=SOME, class_weight="balanced")


def test_memory_stays_within_what_was_given_and_changes_nothing(tmp_path):
    order = np.argsort(NAMES, kind="stable")
    x = np.tile(X[order], (1, 50)) / np.float32(50**0.5)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    targets = CLASSES.select(order)
    rng = np.random.default_rng(0)
    train = np.sort(rng.choice(len(x), 1200, replace=False))
    # Weights take two thirds of it, and rows twice as much.
    memory_bytes = x[train].nbytes
    tracemalloc.start()
    try:
        small = fit(targets, x=mapped, train=train, memory_bytes=memory_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory_bytes
    large = fit(targets, x=x, train=train)
    np.testing.assert_array_equal(small.predict(x), large.predict(x))


def test_neither_seed_nor_the_order_of_the_training_rows_matters():
    first = fit(CLASSES, epochs=2).predict(X)
    np.testing.assert_array_equal(fit(CLASSES, epochs=2, train=np.sort(TRAIN)).predict(X), first)
    np.testing.assert_array_equal(fit(CLASSES, epochs=2, seed=1).predict(X), first)


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("targets", [CLASSES, TAGS, name_values(DIGITS.target.astype(float))])
def test_a_saved_head_is_a_plain_scikit_learn_pipeline(tmp_path, scale, targets):
    head = fit(targets, scale=scale, epochs=5)
    head.save(tmp_path)
    expected = head.predict(X[TEST])
    np.testing.assert_array_equal(load_head(tmp_path).predict(X[TEST]), expected)
    plain = skops.io.load(tmp_path / "head.skops")
    if targets.task == "regression":
        outputs = plain.predict(X[TEST])[:, np.newaxis]
    else:
        outputs = plain.predict_proba(X[TEST])
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_columns_that_are_all_constant_give_the_shares_of_the_classes():
    outputs = fit(CLASSES, x=np.ones_like(X)).predict(X[:1])[0]
    shares = np.unique(NAMES[TRAIN], return_counts=True)[1] / len(TRAIN)
    np.testing.assert_allclose(outputs, shares, atol=0.02)


def test_broken_rows_and_little_memory_are_one_clear_error():
    broken = X.copy()
    broken[TRAIN[3], 3] = np.nan
    with pytest.raises(InputError, match=r"1 of 1200 rows .* NaN or infinity"):
        fit(CLASSES, x=broken)
    with pytest.raises(InputError, match=r"--memory 492KB, or pool the layer"):
        fit(CLASSES, memory_bytes=1000)
