"""Heads are compared by what they are ranked by, on the same groups of rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, kstest, wilcoxon
from sklearn.metrics import average_precision_score, r2_score

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.evaluation.comparison import (
    Resamples,
    collect_evidence,
    compare_counts,
    compare_draws,
)
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.metrics import PRIMARY, score

NO_CLASSES = np.empty(0, np.str_)
TAGS = np.array(["red", "round"])


def make_values(values):
    return Targets(task=REGRESSION, values=values, classes=NO_CLASSES)


def make_tags(values):
    return Targets(task=MULTILABEL, values=values, classes=TAGS)


def cut_folds(groups, n_folds):
    fold_of_row = groups % n_folds
    return [
        Fold(np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold))
        for fold in range(n_folds)
    ]


def compare(targets, a, b, *, groups=None, n_folds=4, seed=0, n_draws=1000):
    """Return the p value of two heads' outputs, and by how much the first is better."""
    groups = np.arange(len(targets)) if groups is None else groups
    folds = cut_folds(groups, n_folds)
    resamples = Resamples(folds, groups, seed=seed, n_draws=n_draws)
    sums, means = [], []
    for outputs in (a, b):
        parts, scores = [], []
        for number, (_, test) in enumerate(folds):
            said = (targets.select(test), outputs[test], targets.classes)
            parts.append(collect_evidence(*said, resamples=resamples, fold=number))
            scores.append(score(*said)[PRIMARY[targets.task]])
        sums.append(np.concatenate(parts) if targets.task == CLASSIFICATION else sum(parts))
        means.append(np.mean(scores))
    if targets.task == CLASSIFICATION:
        return compare_counts(*sums), means[0] - means[1]
    return compare_draws(*sums, difference=means[0] - means[1]), means[0] - means[1]


def draw_tags(seed, *, n_rows=400):
    """Two tags, and what a head says of them, which is right more often than not."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n_rows, 2))
    return hidden > 0.8, 1 / (1 + np.exp(-hidden - rng.normal(size=hidden.shape)))


def measure_tag_losses(truth, outputs):
    return -np.log(np.where(truth, outputs, 1 - outputs)).mean(axis=1)


def measure_precision(truth, outputs):
    """Scikit-learn's mean average precision, over the tags that there are."""
    return average_precision_score(truth[:, truth.any(axis=0)], outputs[:, truth.any(axis=0)])


# What is tested is what is ranked


def test_tags_that_are_ranked_alike_are_no_worse_for_their_log_loss():
    truth, outputs = draw_tags(0)
    bold = 0.8 + outputs / 10
    losses = measure_tag_losses(truth, outputs), measure_tag_losses(truth, bold)
    assert wilcoxon(losses[0] - losses[1]).pvalue < 1e-6
    assert compare(make_tags(truth), outputs, bold) == (1.0, 0.0)
    # Nor do a few rows in another order make a difference that the losses would call certain.
    rng = np.random.default_rng(1)
    shaken = bold + rng.normal(size=bold.shape) * 0.005
    p_value, difference = compare(make_tags(truth), outputs, shaken)
    assert 0 < abs(difference) < 0.05
    assert p_value > 0.05


def test_values_with_smaller_errors_on_most_rows_are_not_better_for_that():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    even = rng.normal(size=400)
    # Almost right, but for one row in ten.
    rough = np.where(rng.random(400) < 0.1, rng.normal(size=400) * 3.1, even / 20)
    targets, outputs = make_values(truth), ((truth + error)[:, None] for error in (rough, even))
    assert wilcoxon(np.abs(rough) - np.abs(even)).pvalue < 1e-20
    p_value, difference = compare(targets, *outputs)
    assert abs(difference) < 0.2
    assert p_value > 0.05


def test_a_head_that_is_better_by_much_is_called_better():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    good, bad = ((truth + rng.normal(size=300) * noise)[:, None] for noise in (0.5, 1))
    assert compare(make_values(truth), good, bad)[0] < 0.01
    tags, outputs = draw_tags(0)
    luck = np.random.default_rng(1).random(tags.shape)
    assert compare(make_tags(tags), outputs, luck)[0] == pytest.approx(1 / 1001)


# How it is computed


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION])
@pytest.mark.parametrize("rows_per_group", [1, 3])
def test_draws_are_the_metric_of_the_repeated_rows(task, rows_per_group):
    truth, outputs = draw_tags(2, n_rows=90)
    outputs = outputs.round(1)  # with ties
    targets = make_tags(truth)
    if task == REGRESSION:
        targets, outputs = make_values(outputs[:, 0] + 1.5), outputs[:, 1:]
    groups = np.arange(90) // rows_per_group
    folds = cut_folds(groups, 3)
    resamples = Resamples(folds, groups, seed=5, n_draws=40)
    means = np.zeros(40)
    for number, (_, test) in enumerate(folds):
        weights = np.concatenate(list(resamples.weights(number))).astype(int)
        units = np.unique(groups[test], return_inverse=True)[1]
        for draw, times in enumerate(weights):
            rows = np.repeat(test, times[units])
            measure = measure_precision if task == MULTILABEL else r2_score
            value = measure(targets.values[rows], outputs[rows])
            means[draw] += value * times.sum() / (90 // rows_per_group - 1)
    found = sum(
        collect_evidence(
            *(targets.select(test), outputs[test], targets.classes),
            resamples=resamples,
            fold=number,
        )
        for number, (_, test) in enumerate(folds)
    )
    np.testing.assert_allclose(found, means, rtol=1e-5)


def test_groups_of_copies_are_worth_one_row_each():
    truth, outputs = draw_tags(3, n_rows=120)
    other = np.clip(outputs + np.random.default_rng(4).normal(size=outputs.shape) * 0.3, 0, 1)
    alone = compare(make_tags(truth), outputs, other)
    rows = np.repeat(np.arange(120), 7)
    copied = compare(make_tags(truth[rows]), outputs[rows], other[rows], groups=rows)
    assert copied == pytest.approx(alone)
    labels = np.where(truth[:, 0], "yes", "no")
    classes = Targets(task=CLASSIFICATION, values=labels, classes=np.array(["no", "yes"]))
    chances, others = (np.column_stack([1 - x[:, 0], x[:, 0]]) for x in (outputs, other))
    alone = compare(classes, chances, others)
    copied = compare(classes.select(rows), chances[rows], others[rows], groups=rows)
    assert 0.01 < alone[0] < 1
    assert copied == pytest.approx(alone)


def test_a_seed_decides_the_draws_and_folds_have_draws_of_their_own():
    truth, outputs = draw_tags(5, n_rows=200)
    heads = (make_tags(truth), outputs, outputs + np.random.default_rng(6).normal(size=(200, 2)))
    first, again, other = (compare(*heads, seed=seed, n_draws=50) for seed in (1, 1, 2))
    assert first == again
    folds = cut_folds(np.arange(200), 4)
    weights = [
        [
            np.concatenate(list(Resamples(folds, np.arange(200), seed=seed).weights(f)))
            for f in (0, 1)
        ]
        for seed in (1, 2)
    ]
    assert not np.array_equal(weights[0][0], weights[0][1])
    assert not np.array_equal(weights[0][0], weights[1][0])
    assert other[1] == first[1]


def test_many_groups_are_drawn_anew_for_each_head_and_alike(monkeypatch):
    truth, outputs = draw_tags(7)
    heads = (make_tags(truth), outputs, np.sqrt(outputs) + 0.1 * truth)
    kept = compare(*heads, n_draws=100)
    monkeypatch.setattr("permafrost.stages.evaluation.comparison._KEPT_BYTES", 0)
    assert compare(*heads, n_draws=100) == kept


# Luck


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION])
def test_under_the_null_p_values_are_about_uniform(task):
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(100), 2)
        noise = [rng.normal(size=(100, 2))[groups] + rng.normal(size=(200, 2)) for _ in "ab"]
        hidden = rng.normal(size=(200, 2)) * 2
        targets = make_tags(hidden > 1) if task == MULTILABEL else make_values(hidden[:, 0])
        a, b = (hidden + one for one in noise)
        if task == REGRESSION:
            a, b = a[:, :1], b[:, :1]
        found.append(compare(targets, a, b, groups=groups, n_folds=2, n_draws=200)[0])
    p_values = np.array(found)
    assert np.mean(p_values <= 0.05) <= 0.09
    assert 0.15 <= np.mean(p_values <= 0.25) <= 0.35
    assert 0.4 <= np.mean(p_values <= 0.5) <= 0.6
    assert kstest(p_values, "uniform").statistic < 0.1


# Classes


def test_classifiers_are_compared_by_mcnemars_test_where_each_row_is_a_group():
    for n_first, n_second in itertools.product(range(6), range(5)):
        a = (np.arange(30) < n_first).astype(np.int64)
        b = (np.arange(30) >= 30 - n_second).astype(np.int64)
        expected = binomtest(n_first, n_first + n_second).pvalue if n_first + n_second else 1.0
        assert compare_counts(a, b) == pytest.approx(expected)
        assert compare_counts(b, a) == pytest.approx(expected)


def test_groups_of_mistakes_are_exchanged_whole():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 4, (2, 9))
        signs = np.array(list(itertools.product((-1, 1), repeat=9)))
        sums = np.abs((signs * (a - b)).sum(axis=1))
        assert compare_counts(a, b) == pytest.approx(np.mean(sums >= abs((a - b).sum())))


# Nothing to go by


def test_heads_that_differ_by_rounding_alone_do_not_differ():
    truth, outputs = draw_tags(8)
    values = make_values(truth[:, 0] + outputs[:, 0])
    assert compare(values, outputs[:, :1], outputs[:, :1] * (1 + 1e-13))[0] == 1.0
    assert compare_counts(np.array([1, 0, 3]), np.array([1, 0, 3])) == 1.0


def test_a_single_group_is_nothing_to_judge_by():
    truth, outputs = draw_tags(9)
    one = np.zeros(400, np.int64)
    better = outputs + truth
    assert compare(make_tags(truth), outputs, better, groups=one, n_folds=1)[0] == 1.0
    # A group a fold is something: the folds themselves are drawn.
    ten = np.arange(400) % 10
    assert compare(make_tags(truth), outputs, better, groups=ten, n_folds=10)[0] < 0.05


def test_draws_without_the_metric_are_left_out():
    truth = np.zeros((60, 2), np.bool_)
    truth[[7, 8], [0, 1]] = True  # in one fold of four
    outputs = np.random.default_rng(0).random((60, 2))
    folds = cut_folds(np.arange(60), 1)
    resamples = Resamples(folds, np.arange(60), seed=0)
    said = (make_tags(truth), outputs, TAGS)
    drawn = collect_evidence(*said, resamples=resamples, fold=0)
    assert 0 < np.isnan(drawn).mean() < 0.3
    assert 0 < compare_draws(drawn, drawn + 0.5, difference=-0.5) < 0.01
    undefined = np.full(10, np.nan)
    assert compare_draws(undefined, undefined, difference=0.5) == 1.0
