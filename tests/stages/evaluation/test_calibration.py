"""How far probabilities mean what they say, against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, Targets
from permafrost.stages.evaluation.calibration import N_BINS, measure_calibration

DIGITS = load_digits()
TRAIN, TEST = np.arange(0, 400), np.arange(400, 1797)


def fit(labels):
    head = LogisticRegression(C=0.001, max_iter=500).fit(DIGITS.data[TRAIN], labels[TRAIN])
    return head.predict_proba(DIGITS.data[TEST]), head.classes_


def measure(labels, outputs, classes, *, task=CLASSIFICATION):
    targets = Targets(task=task, values=labels[TEST], classes=classes)
    return measure_calibration(targets, outputs, classes)


def test_the_expected_error_is_that_of_its_definition():
    labels = DIGITS.target.astype(str)
    outputs, classes = fit(labels)
    confidence, right = outputs.max(axis=1), classes[outputs.argmax(axis=1)] == labels[TEST]
    expected = 0.0
    for number in range(N_BINS):
        low, high = number / N_BINS, (number + 1) / N_BINS
        inside = (confidence >= low) & ((confidence < high) | (number == N_BINS - 1))
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            expected += inside.mean() * gap
    found = measure(labels, outputs, classes)
    assert found.expected_error == pytest.approx(expected, abs=1e-12)
    assert sum(one.n for one in found.bins) == len(TEST)


def test_of_two_classes_the_brier_score_is_twice_scikit_learns():
    labels = np.where(DIGITS.target < 5, "low", "high")
    outputs, classes = fit(labels)
    expected = 2 * brier_score_loss(labels[TEST] == classes[1], outputs[:, 1])
    assert measure(labels, outputs, classes).brier == pytest.approx(expected, abs=1e-12)


def test_of_tags_each_tag_of_each_row_is_a_claim():
    truth = np.stack([DIGITS.target % 2 == 1, DIGITS.target < 5], axis=1)
    outputs = np.stack([fit(column)[0][:, 1] for column in truth.T], axis=1)
    classes = np.array(["odd", "small"])
    found = measure(truth, outputs, classes, task=MULTILABEL)
    scores = [brier_score_loss(truth[TEST, n], outputs[:, n]) for n in range(2)]
    assert found.brier == pytest.approx(np.mean(scores), abs=1e-12)
    assert sum(one.n for one in found.bins) == 2 * len(TEST)


def test_certain_and_right_is_no_error():
    labels = np.array(["a", "b"] * 898 + ["a"])
    outputs = np.stack([labels[TEST] == "a", labels[TEST] == "b"], axis=1).astype(float)
    found = measure(labels, outputs, np.array(["a", "b"]))
    assert (found.expected_error, found.brier, len(found.bins)) == (0.0, 0.0, 1)
