from __future__ import annotations

import itertools
import json
from functools import cache

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from permafrost.stages.datasets.targets import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    TASKS,
    Targets,
)
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.intervals import bootstrap_interval
from permafrost.stages.evaluation.metrics import (
    PRIMARY,
    count_confusions,
    describe_classes,
    score,
)

DIGITS = load_digits()
TRAIN, TEST = np.arange(0, 1797, 6), np.setdiff1d(np.arange(1797), np.arange(0, 1797, 6))
NO_CLASSES = np.empty(0, np.str_)


def make_classes(labels):
    return Targets(task=CLASSIFICATION, values=labels, classes=np.unique(labels))


@cache
def fit_classes(names, **settings):
    """Return targets, outputs and classes of a plain logistic regression on a part of the image."""
    features, labels = DIGITS.data[:, 18:46] / 16, np.array(names)[DIGITS.target]
    plain = LogisticRegression(**settings).fit(features[TRAIN], labels[TRAIN])
    return make_classes(labels[TEST]), plain.predict_proba(features[TEST]), plain.classes_


@cache
def fit_tags():
    """Return targets, outputs and classes of four tags; outputs have ties, as trees would give."""
    digit, features = DIGITS.target, DIGITS.data[:, 18:46] / 16
    truth = np.column_stack([digit % 2 == 0, digit > 5, digit == 0, np.isin(digit, [2, 3, 5, 7])])
    plain = OneVsRestClassifier(LogisticRegression()).fit(features[TRAIN], truth[TRAIN])
    names = np.array(["even", "high", "nought", "prime"])
    targets = Targets(task=MULTILABEL, values=truth[TEST], classes=names)
    return targets, plain.predict_proba(features[TEST]).round(2), names


@cache
def fit_values(**settings):
    features, target = load_diabetes(return_X_y=True)
    plain = Ridge(**settings).fit(features[:200], target[:200])
    targets = Targets(task=REGRESSION, values=target[200:], classes=NO_CLASSES)
    return targets, plain.predict(features[200:])[:, None], NO_CLASSES


def bin_by_hand(outputs, right, n_bins=15):
    """Return the expected calibration error, bin by bin."""
    sure = outputs.max(axis=1)
    edges = [-1.0, *np.quantile(sure, np.arange(1, n_bins) / n_bins), 1.0]
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            error += abs(sure[inside].mean() - right[inside].mean()) * inside.mean()
    return error


# The name of each digit.
TEN = tuple(f"digit {n}" for n in range(10))
TWO = ("even", "odd") * 5


@pytest.mark.parametrize("names", [TEN, TWO], ids=["ten classes", "two classes"])
def test_scores_of_classes_are_scikit_learns(names):
    targets, outputs, classes = fit_classes(names)
    outputs = outputs.copy()
    outputs[:3] = np.eye(len(classes))[[0, 1, 1]]  # certain, and wrong for some: the clip counts
    truth, predicted = targets.values, classes[outputs.argmax(axis=1)]
    chances = outputs[:, 1] if len(classes) == 2 else outputs
    assert score(targets, outputs, classes) == pytest.approx(
        {
            "accuracy": reference.accuracy_score(truth, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
            "macro_f1": reference.f1_score(truth, predicted, average="macro"),
            "log_loss": reference.log_loss(truth, outputs),
            "roc_auc": reference.roc_auc_score(truth, chances, multi_class="ovr"),
            "brier": reference.brier_score_loss(truth, outputs, scale_by_half=False),
            "ece": bin_by_hand(outputs, predicted == truth),
        },
        rel=1e-9,
    )


def test_scores_of_tags_are_scikit_learns():
    targets, outputs, classes = fit_tags()
    truth, predicted = targets.values, outputs >= 0.5
    losses = [reference.log_loss(*column) for column in zip(truth.T, outputs.T, strict=True)]
    assert score(targets, outputs, classes) == pytest.approx(
        {
            "mean_average_precision": reference.average_precision_score(truth, outputs),
            "macro_f1": reference.f1_score(truth, predicted, average="macro"),
            "micro_f1": reference.f1_score(truth, predicted, average="micro"),
            "roc_auc": reference.roc_auc_score(truth, outputs),
            "log_loss": np.mean(losses),
        },
        rel=1e-9,
    )


def test_scores_of_values_are_scikit_learns():
    targets, outputs, classes = fit_values()
    assert score(targets, outputs, classes) == pytest.approx(
        {
            "r2": reference.r2_score(targets.values, outputs),
            "mae": reference.mean_absolute_error(targets.values, outputs),
            "rmse": reference.root_mean_squared_error(targets.values, outputs),
        },
        rel=1e-9,
    )


def test_tasks_are_chosen_by_a_score_that_they_have():
    for fitted in (fit_classes(TWO), fit_tags(), fit_values()):
        assert 0 < score(*fitted)[PRIMARY[fitted[0].task]] < 1
    assert set(PRIMARY) == set(TASKS)


def test_a_class_that_the_head_never_saw_counts_as_wrong():
    classes = np.array(["b", "d"])
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    truth = np.array(["b", "a", "c", "e"])
    found = score(make_classes(truth), certain, classes)
    predicted = np.array(["b", "d", "d", "d"])
    assert found["accuracy"] == 0.25
    assert found["balanced_accuracy"] == 0.25
    assert found["macro_f1"] == reference.f1_score(truth, predicted, average="macro")
    assert found["log_loss"] == pytest.approx(-0.75 * np.log(np.finfo(float).eps))
    assert found["roc_auc"] == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)


def test_classes_that_the_truth_lacks_change_nothing_but_confusions():
    targets, outputs, classes = fit_classes(TWO)
    wider = np.column_stack([np.zeros(len(outputs)), outputs, np.zeros(len(outputs))])
    more = np.array(["aleph", *classes, "zero"])
    assert score(targets, wider, more) == pytest.approx(score(targets, outputs, classes))
    assert [row["support"] for row in describe_classes(targets, wider, more)][::3] == [0, 0]


def test_tags_are_matched_by_name():
    targets, outputs, classes = fit_tags()
    fewer = score(targets, outputs[:, [0, 3]], classes[[0, 3]])
    zeroed = outputs * [1, 0, 0, 1]
    assert fewer == pytest.approx(score(targets, zeroed, classes))
    assert fewer["mean_average_precision"] == pytest.approx(
        reference.average_precision_score(targets.values, zeroed)
    )


def test_what_is_undefined_is_none_and_left_out_of_means():
    one_class = make_classes(np.array(["a", "a"]))
    halves = np.full((2, 2), 0.5)
    assert score(one_class, halves, np.array(["a", "b"]))["roc_auc"] is None
    nothing = Targets(
        task=MULTILABEL, values=np.zeros((2, 2), np.bool_), classes=np.array(["a", "b"])
    )
    found = score(nothing, halves - 0.1, nothing.classes)
    assert {name for name, value in found.items() if value is None} == set(found) - {"log_loss"}
    truth = np.array([[True, False], [False, False]])
    partly = Targets(task=MULTILABEL, values=truth, classes=nothing.classes)
    found = score(partly, np.array([[0.9, 0.1], [0.2, 0.1]]), partly.classes)
    assert found["mean_average_precision"] == found["macro_f1"] == found["roc_auc"] == 1
    constant = Targets(task=REGRESSION, values=np.full(3, 0.1), classes=NO_CLASSES)
    found = score(constant, np.zeros((3, 1)), NO_CLASSES)
    assert found == {"r2": None, "mae": pytest.approx(0.1), "rmse": pytest.approx(0.1)}


@pytest.mark.parametrize(
    ("task", "values"),
    [
        (CLASSIFICATION, np.empty(0, np.str_)),
        (MULTILABEL, np.empty((0, 2), np.bool_)),
        (REGRESSION, np.empty(0)),
    ],
)
def test_nothing_to_score_is_an_error(task, values):
    targets = Targets(task=task, values=values, classes=np.array(["a", "b"]))
    with pytest.raises(InputError, match="no rows to score"):
        score(targets, np.empty((0, 2)), targets.classes)


def test_the_table_of_classes_and_confusions_are_scikit_learns():
    targets, outputs, classes = fit_classes(TEN)
    predicted = classes[outputs.argmax(axis=1)]
    report = reference.classification_report(targets.values, predicted, output_dict=True)
    table = json.loads(json.dumps(describe_classes(targets, outputs, classes)))
    assert [row["class"] for row in table] == classes.tolist()
    for row in table:
        expected = report[row["class"]]
        assert row["precision"] == expected["precision"]
        assert row["recall"] == expected["recall"]
        assert row["f1"] == expected["f1-score"]
        assert row["support"] == expected["support"]
    confusions = json.loads(json.dumps(count_confusions(targets, outputs, classes)))
    assert confusions["classes"] == classes.tolist()
    assert confusions["counts"] == reference.confusion_matrix(targets.values, predicted).tolist()


def test_the_table_of_tags_is_scikit_learns():
    targets, outputs, classes = fit_tags()
    table = describe_classes(targets, outputs, classes)
    truth, predicted = targets.values, outputs >= 0.5
    precisions = reference.average_precision_score(truth, outputs, average=None)
    assert [row["class"] for row in table] == classes.tolist()
    assert [row["average_precision"] for row in table] == pytest.approx(precisions.tolist())
    assert [row["f1"] for row in table] == reference.f1_score(
        truth, predicted, average=None
    ).tolist()
    assert [row["support"] for row in table] == truth.sum(axis=0).tolist()
    assert count_confusions(targets, outputs, classes) is None


def test_a_regression_has_no_table_of_classes():
    assert describe_classes(*fit_values()) == []
    assert count_confusions(*fit_values()) is None


def resample(fitted, groups, measure, *, n_draws):
    """Bootstrap the slow way: take rows, and ask scikit-learn each time."""
    targets, outputs, classes = fitted
    rng = np.random.default_rng(99)
    rows_of = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = []
    for _ in range(n_draws):
        chosen = rng.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[group] for group in chosen])
        drawn.append(measure(targets.values[rows], outputs[rows], classes))
    return np.quantile(drawn, [0.025, 0.975])


def measure_errors(targets, outputs, classes):
    truth = targets.values
    if targets.task == CLASSIFICATION:
        return classes[outputs.argmax(axis=1)] != truth
    return np.abs(outputs - truth.reshape(len(truth), -1)).mean(axis=1)


def measure_accuracy(truth, outputs, classes):
    return reference.accuracy_score(truth, classes[outputs.argmax(axis=1)])


def measure_precision(truth, outputs, _):
    return reference.average_precision_score(truth, outputs)


def measure_r2(truth, outputs, _):
    return reference.r2_score(truth, outputs)


@pytest.mark.parametrize("rows_per_group", [1, 5])
@pytest.mark.parametrize(
    ("fit", "measure"),
    [
        (lambda: fit_classes(TEN), measure_accuracy),
        (fit_tags, measure_precision),
        (fit_values, measure_r2),
    ],
    ids=TASKS,
)
def test_intervals_are_those_of_resampling_the_slow_way(fit, measure, rows_per_group):
    fitted = fit()
    # Rows with like losses together, so that groups matter.
    groups = np.empty(len(fitted[0]), np.int64)
    order = np.argsort(measure_errors(*fitted), kind="stable")
    groups[order] = np.arange(len(order)) // rows_per_group
    drawn_together = groups if rows_per_group > 1 else None
    low, high = bootstrap_interval(*fitted, groups=drawn_together, seed=0, n_draws=2000)
    expected_low, expected_high = resample(fitted, groups, measure, n_draws=250)
    width = expected_high - expected_low
    assert low == pytest.approx(expected_low, abs=0.15 * width)
    assert high == pytest.approx(expected_high, abs=0.15 * width)


def test_a_seed_decides_the_interval():
    fitted = fit_tags()
    first = bootstrap_interval(*fitted, seed=1, n_draws=50)
    assert first == bootstrap_interval(*fitted, seed=1, n_draws=50)
    assert first != bootstrap_interval(*fitted, seed=2, n_draws=50)


def test_draws_without_the_metric_are_left_out():
    # One of three rows has the tag, and two of three values are equal: many draws lack either.
    truth = np.array([[True], [False], [False]])
    tags = Targets(task=MULTILABEL, values=truth, classes=np.array(["a"]))
    outputs = np.array([[0.5], [0.9], [0.1]])
    low, high = bootstrap_interval(tags, outputs, tags.classes, seed=0)
    assert 1 / 3 <= low < high == 1
    values = Targets(task=REGRESSION, values=np.array([0.1, 0.1, 0.7]), classes=NO_CLASSES)
    low, high = bootstrap_interval(values, values.values[:, None] + 0.1, NO_CLASSES, seed=0)
    assert low == high == pytest.approx(reference.r2_score([0.1, 0.1, 0.7], [0.2, 0.2, 0.8]))


def test_an_interval_that_is_nowhere_defined_is_none():
    none = Targets(task=MULTILABEL, values=np.zeros((3, 1), np.bool_), classes=np.array(["a"]))
    assert bootstrap_interval(none, np.ones((3, 1)), none.classes, seed=0) is None
    flat = Targets(task=REGRESSION, values=np.full(3, 0.1), classes=NO_CLASSES)
    assert bootstrap_interval(flat, np.ones((3, 1)), NO_CLASSES, seed=0) is None
