"""Labels that are probably wrong: digits with some labels flipped, against cleanlab."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from permafrost.stages.audit.labels import (
    estimate_joint,
    find_confident,
    judge_labels,
    judge_values,
    prune_by_noise_rate,
)


@pytest.fixture(scope="module")
def flipped():
    """Return flipped labels, out-of-fold probabilities, and which labels were flipped."""
    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    is_flipped = np.zeros(len(digits), bool)
    is_flipped[rng.choice(len(digits), 90, replace=False)] = True
    labels = np.where(is_flipped, (digits + rng.integers(1, 10, len(digits))) % 10, digits)
    model = LogisticRegression(max_iter=500)
    outputs = cross_val_predict(model, pixels / 16, labels, cv=5, method="predict_proba")
    return labels, outputs, is_flipped


def test_flipped_labels_come_first(flipped):
    labels, outputs, is_flipped = flipped
    found = judge_labels(labels, outputs)
    first = np.argsort(-found.scores, kind="stable")[:90]
    assert is_flipped[first].mean() > 0.87
    digits = load_digits().target
    right = found.suggested[is_flipped] == digits[is_flipped]
    assert right.mean() > 0.85


def test_the_joint_and_what_is_pruned_are_cleanlabs(flipped):
    count = pytest.importorskip("cleanlab.count")
    filter_ = pytest.importorskip("cleanlab.filter")
    labels, outputs, _ = flipped
    joint = estimate_joint(labels, outputs)
    expected = count.compute_confident_joint(labels, outputs, calibrate=True)
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(labels))
    np.testing.assert_allclose(joint, expected, atol=1)
    theirs = filter_.find_label_issues(
        labels, outputs, filter_by="prune_by_noise_rate", min_examples_per_class=0, n_jobs=1
    )
    ours = prune_by_noise_rate(labels, outputs)
    assert (ours == theirs).mean() > 0.99
    assert (ours & theirs).sum() > 0.9 * theirs.sum()


def test_clean_labels_are_hardly_pruned():
    pixels, digits = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=500)
    outputs = cross_val_predict(model, pixels / 16, digits, cv=5, method="predict_proba")
    assert prune_by_noise_rate(digits, outputs).mean() < 0.04


def test_a_class_that_no_row_has_is_never_confident():
    outputs = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])
    labels = np.array([0, 1, 0])
    assert (find_confident(labels, outputs) != 2).all()
    np.testing.assert_allclose(estimate_joint(labels, outputs).sum(axis=1), [2, 1, 0])


def test_values_far_from_what_is_said_of_them_are_told_of():
    rng = np.random.default_rng(0)
    said = load_digits().data.sum(axis=1)
    values = said + rng.normal(size=len(said))
    values[[7, 70]] += [9, -12]
    found = judge_values(values, said)
    assert set(np.argsort(-found.scores)[:2]) == {7, 70}
    assert found.is_pruned.sum() < 10
