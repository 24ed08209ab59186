from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.errors import InputError
from stages.evaluate import cross_validate, make_folds, score
from stages.heads import parse_settings

DIGITS = load_digits()
X = DIGITS.data.astype(np.float32)
Y = np.array([f"digit {n}" for n in DIGITS.target])
DIGESTS = np.array([list(sha256(row.tobytes()).digest()) for row in X], dtype=np.uint8)
# A third of the rows twice more, far from their first.
REPEATED = np.concatenate([np.arange(len(X)), np.arange(0, len(X), 3), np.arange(0, len(X), 3)])


def assert_same_folds(first, second):
    for one, other in zip(first, second, strict=True):
        for rows, other_rows in zip(one, other, strict=True):
            np.testing.assert_array_equal(rows, other_rows)


def test_every_row_is_in_exactly_one_test_fold():
    folds = make_folds(Y, DIGESTS, n_folds=7, seed=0)
    assert len(folds) == 7
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in folds])), np.arange(1797))
    for train, test in folds:
        assert train.dtype == test.dtype == np.int64
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(1797))


def test_identical_images_never_cross_folds():
    digests = DIGESTS[REPEATED]
    for train, test in make_folds(Y[REPEATED], digests, n_folds=5, seed=0):
        assert not {d.tobytes() for d in digests[train]} & {d.tobytes() for d in digests[test]}


def test_every_class_is_spread_evenly_over_the_folds():
    folds = make_folds(Y, DIGESTS, n_folds=5, seed=0)
    counts = np.array([[np.sum(Y[test] == name) for name in np.unique(Y)] for _, test in folds])
    assert np.ptp(counts, axis=0).max() <= 1
    repeated = make_folds(Y[REPEATED], DIGESTS[REPEATED], n_folds=5, seed=0)
    sizes = np.array([len(test) for _, test in repeated])
    assert np.all(np.abs(sizes / sizes.mean() - 1) < 0.1)


def test_a_seed_decides_the_folds_however_digests_are_written():
    as_text = np.array([row.tobytes().hex() for row in DIGESTS])
    folds = make_folds(Y, DIGESTS, n_folds=5, seed=3)
    assert_same_folds(folds, make_folds(Y, as_text, n_folds=5, seed=3))
    assert_same_folds(folds, make_folds(Y, as_text.astype(object), n_folds=5, seed=3))
    with pytest.raises(AssertionError):
        assert_same_folds(folds, make_folds(Y, DIGESTS, n_folds=5, seed=4))


def test_a_class_with_fewer_distinct_images_than_folds_is_named():
    rare = np.flatnonzero(Y == "digit 3")[:4]
    rows = np.concatenate([np.flatnonzero(Y != "digit 3"), np.repeat(rare, 4)])
    with pytest.raises(InputError, match="class 'digit 3' has 4 distinct images, fewer than 5"):
        make_folds(Y[rows], DIGESTS[rows], n_folds=5, seed=0)
    assert len(make_folds(Y[rows], DIGESTS[rows], n_folds=4, seed=0)) == 4


@pytest.mark.parametrize("n_folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(n_folds):
    with pytest.raises(InputError, match=f"{n_folds} folds: give --cv 2 or more"):
        make_folds(Y, DIGESTS, n_folds=n_folds, seed=0)


def test_scores_are_scikit_learns():
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:900], Y[:900])
    probabilities = plain.predict_proba(X[900:]).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[:3] = np.eye(10)[[0, 5, 7]]  # certain, and wrong for some: the clip counts
    found = score(Y[900:], probabilities, plain.classes_)
    predicted = plain.classes_[probabilities.argmax(axis=1)]
    assert found["accuracy"] == accuracy_score(Y[900:], predicted)
    assert found["log_loss"] == pytest.approx(log_loss(Y[900:], probabilities), rel=1e-6)


def test_a_label_that_the_head_never_saw_counts_as_wrong():
    classes = np.array(["b", "d"])
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = score(np.array(["b", "a", "c", "e"]), certain, classes)
    assert found["accuracy"] == 0.25
    assert found["log_loss"] == pytest.approx(-0.75 * np.log(np.finfo(float).eps))


def test_nothing_to_score_is_an_error():
    with pytest.raises(InputError, match="no rows to score"):
        score(Y[:0], np.empty((0, 2)), np.array(["a", "b"]))


def test_cross_validation_is_scikit_learns_on_the_same_folds():
    # A few huge rows: a scaler that had seen a test fold's ones would change its accuracy.
    features = X.copy()
    features[::300] *= 1000
    folds = make_folds(Y, DIGESTS, n_folds=5, seed=1)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    expected = cross_val_score(plain, features, Y, cv=folds)
    leaking = cross_val_score(plain[-1], plain[0].fit_transform(features), Y, cv=folds)
    assert not np.array_equal(expected, leaking)
    settings = parse_settings("logreg", {"C": 0.01})
    found = cross_validate("logreg", settings, features, Y, DIGESTS, n_folds=5, seed=1)
    assert found["fold_accuracies"] == expected.tolist()
    assert found["cv_accuracy_mean"] == pytest.approx(expected.mean())
    assert found["cv_accuracy_std"] == pytest.approx(expected.std(ddof=0))
