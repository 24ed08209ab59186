"""How far probabilities mean what they say, against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from permafrost.stages.evaluation.certainty import (
    N_BINS,
    fill_bins,
    list_claims,
    measure_brier,
    measure_ece,
)

DIGITS = load_digits()
TRAIN, TEST = np.arange(0, 400), np.arange(400, 1797)


def fit(labels):
    head = LogisticRegression(C=0.001, max_iter=500).fit(DIGITS.data[TRAIN], labels[TRAIN])
    return head.predict_proba(DIGITS.data[TEST]), head.classes_


def test_the_expected_error_is_that_of_its_definition():
    labels = DIGITS.target.astype(str)
    outputs, classes = fit(labels)
    confidence, right = outputs.max(axis=1), classes[outputs.argmax(axis=1)] == labels[TEST]
    # No two rows are equally sure, so that the bins are runs of the sorted rows.
    assert len(np.unique(confidence)) == len(TEST)
    edges = np.quantile(confidence, np.arange(N_BINS + 1) / N_BINS)
    expected = 0.0
    for number in range(N_BINS):
        inside = (confidence > edges[number]) & (confidence <= edges[number + 1])
        inside |= (number == 0) & (confidence == edges[0])
        expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = measure_ece(outputs, np.searchsorted(classes, labels[TEST]))
    assert found == pytest.approx(expected, abs=1e-12)
    bins = fill_bins(confidence, right)
    assert sum(one.n for one in bins) == len(TEST)
    assert max(one.n for one in bins) - min(one.n for one in bins) <= 2


def test_of_two_classes_the_brier_score_is_twice_scikit_learns():
    labels = np.where(DIGITS.target < 5, "low", "high")
    outputs, classes = fit(labels)
    expected = 2 * brier_score_loss(labels[TEST] == classes[1], outputs[:, 1])
    found = measure_brier(outputs, np.searchsorted(classes, labels[TEST]))
    assert found == pytest.approx(expected, abs=1e-12)


def test_of_tags_each_tag_of_each_row_is_a_claim():
    truth = np.stack([DIGITS.target % 2 == 1, DIGITS.target < 5], axis=1)
    outputs = np.stack([fit(column)[0][:, 1] for column in truth.T], axis=1)
    scores = [brier_score_loss(truth[TEST, n], outputs[:, n]) for n in range(2)]
    assert measure_brier(outputs, truth[TEST]) == pytest.approx(np.mean(scores), abs=1e-12)
    bins = fill_bins(*list_claims(outputs, truth[TEST]))
    assert sum(one.n for one in bins) == 2 * len(TEST)


def test_certain_and_right_is_no_error():
    truth = np.arange(len(TEST)) % 2
    outputs = np.eye(2)[truth]
    assert (measure_ece(outputs, truth), measure_brier(outputs, truth)) == (0.0, 0.0)
    assert len(fill_bins(*list_claims(outputs, truth))) == 1
