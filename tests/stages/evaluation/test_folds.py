from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import StratifiedGroupKFold

from permafrost.stages.datasets.groups import join_groups
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.folds import make_folds

DIGITS = load_digits()
LABELS = np.array([f"digit {n}" for n in DIGITS.target])
DIGESTS = np.array(
    [sha256(row.tobytes()).digest() for row in DIGITS.data.astype(np.float32)], "V32"
)
# A third of the rows twice more, far from their first.
REPEATED = np.concatenate([np.arange(1797), np.arange(0, 1797, 3), np.arange(0, 1797, 3)])
ROWS = np.arange(1797)


def make_classes(labels):
    return Targets(task=CLASSIFICATION, values=labels, classes=np.unique(labels))


def make_tags(values):
    names = np.array([f"tag {n:02}" for n in range(values.shape[1])])
    return Targets(task=MULTILABEL, values=values, classes=names)


def make_values(values):
    return Targets(task=REGRESSION, values=values, classes=np.empty(0, np.str_))


def number_folds(folds, n_rows):
    numbers = np.full(n_rows, -1, np.int8)
    for number, fold in enumerate(folds):
        numbers[fold.test] = number
    return numbers


def read_tags():
    """Which of the quantities below are the case for a digit: from common to very rare."""
    ink = DIGITS.data.sum(axis=1)
    tests = [ink > np.quantile(ink, share) for share in (0.3, 0.6, 0.9, 0.99, 0.995)]
    return np.column_stack([*tests, *(DIGITS.target == n for n in range(3)), DIGITS.target > 7])


def draw_mixed_groups(*, seed):
    """Groups of 1 to about 100 rows, each with a few classes that it prefers."""
    rng = np.random.default_rng(seed)
    sizes = (rng.pareto(1.2, 200) * 5 + 1).astype(int).clip(max=100)
    preferred = rng.dirichlet([0.4, 0.3, 0.1, 0.05], 200)
    groups = np.repeat(np.arange(200), sizes)
    labels = np.array([rng.choice(["a", "b", "c", "d"], p=preferred[group]) for group in groups])
    return labels, groups


def measure_imbalance(labels, tests):
    """How far folds are from their fair part of a class: its share on the mean."""
    counts = np.array([[np.sum(labels[t] == name) for name in np.unique(labels)] for t in tests])
    return float(np.abs(counts / counts.mean(axis=0) - 1).mean())


@pytest.mark.parametrize(
    "targets",
    [make_classes(LABELS), make_tags(read_tags()), make_values(DIGITS.data.mean(axis=1))],
    ids=lambda targets: targets.task,
)
def test_every_row_is_in_exactly_one_test_fold(targets):
    folds = make_folds(targets, ROWS // 2, n_folds=7, seed=0)
    assert len(folds) == 7
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.test for fold in folds])), ROWS)
    for train, test in folds:
        assert train.dtype == test.dtype == np.int64
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
        np.testing.assert_array_equal(np.union1d(train, test), ROWS)
        assert not np.intersect1d(ROWS[train] // 2, ROWS[test] // 2).size


def test_folds_of_images_have_not_changed():
    # Pinned: other folds are other scores, for everybody who compares with what was published.
    folds = number_folds(make_folds(make_classes(LABELS), DIGESTS, n_folds=5, seed=3), 1797)
    digest = "faac0f0da12e9bbcfb022f0c5367bb7750b43148c29859f18a3c90b3adb8be2b"
    assert sha256(folds.tobytes()).hexdigest() == digest
    repeated = make_folds(make_classes(LABELS[REPEATED]), DIGESTS[REPEATED], n_folds=5, seed=3)
    digest = "91f19da50161a057b888dc18ec4c7311b82e558ad1a13306dbfc7059e7085e48"
    assert sha256(number_folds(repeated, len(REPEATED)).tobytes()).hexdigest() == digest


def test_a_seed_decides_the_folds_however_keys_are_written():
    as_text = np.array([key.tobytes().hex() for key in DIGESTS])
    targets = make_classes(LABELS)
    folds = number_folds(make_folds(targets, DIGESTS, n_folds=5, seed=3), 1797)
    for keys in (as_text, as_text.astype(object), np.unique(DIGESTS, return_inverse=True)[1]):
        same = number_folds(make_folds(targets, keys, n_folds=5, seed=3), 1797)
        np.testing.assert_array_equal(folds, same)
    other = number_folds(make_folds(targets, DIGESTS, n_folds=5, seed=4), 1797)
    assert not np.array_equal(folds, other)


def test_identical_images_and_a_column_keep_rows_together():
    column = [f"patient {row % 100}" if row < 600 else "" for row in range(len(REPEATED))]
    digests = [key.tobytes() for key in DIGESTS[REPEATED]]
    groups = join_groups(digests, column)
    folds = make_folds(make_classes(LABELS[REPEATED]), groups, n_folds=5, seed=0)
    for train, test in folds:
        assert not {digests[row] for row in train} & {digests[row] for row in test}
        assert not {column[row] for row in train} & {column[row] for row in test} - {""}


def test_every_class_is_spread_evenly_over_the_folds():
    folds = make_folds(make_classes(LABELS), ROWS, n_folds=5, seed=0)
    counts = np.array([[np.sum(LABELS[t] == name) for name in np.unique(LABELS)] for _, t in folds])
    assert np.ptp(counts, axis=0).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_mixed_classes_are_spread_as_evenly_as_scikit_learn_does(seed):
    labels, groups = draw_mixed_groups(seed=seed)
    folds = make_folds(make_classes(labels), groups, n_folds=4, seed=seed)
    plain = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
    found = measure_imbalance(labels, [test for _, test in folds])
    expected = measure_imbalance(labels, [test for _, test in plain.split(labels, labels, groups)])
    assert found < 1.1 * expected + 0.01
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])


def test_one_huge_group_does_not_crowd_the_others():
    groups = np.concatenate([np.zeros(300, np.int64), 1 + np.arange(900) // 3])
    folds = make_folds(make_classes(np.full(1200, "a")), groups, n_folds=4, seed=0)
    assert [len(fold.test) for fold in folds] == [300] * 4


def test_values_are_spread_evenly_over_the_folds():
    values = load_diabetes().target
    folds = make_folds(make_values(values), np.arange(len(values)), n_folds=5, seed=0)
    tenth = np.searchsorted(np.quantile(values, np.linspace(0, 1, 11)[1:-1]), values, "right")
    counts = np.array([np.bincount(tenth[fold.test], minlength=10) for fold in folds])
    # Many values come twice, so tenths are not cut by everybody at the same place.
    assert np.ptp(counts, axis=0).max() <= 2


@pytest.mark.parametrize("sign", [1, -1], ids=["zeros", "cap"])
def test_a_value_that_most_rows_share_is_spread_evenly_too(sign):
    values = np.where(np.arange(200) < 150, 0.0, np.arange(200)) * sign
    folds = make_folds(make_values(values), np.arange(200), n_folds=4, seed=0)
    others = [int(np.sum(values[fold.test] != 0)) for fold in folds]
    assert min(others) >= 12
    assert max(others) <= 13


def test_tags_are_spread_evenly_over_the_folds():
    tags = read_tags()
    folds = make_folds(make_tags(tags), ROWS, n_folds=5, seed=0)
    counts = np.array([tags[fold.test].sum(axis=0) for fold in folds])
    assert counts.sum(axis=0).min() == 9
    assert np.abs(counts - counts.mean(axis=0)).max() < 2
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 2


def test_rows_without_any_tag_are_folded_too():
    folds = make_folds(make_tags(np.zeros((20, 2), np.bool_)), np.arange(20), n_folds=4, seed=0)
    assert [len(fold.test) for fold in folds] == [5] * 4


def test_groups_that_show_each_class_first_only_once_are_folded():
    labels = np.array(["a", "b", "c", "d"] * 4)
    labels = np.concatenate([np.roll(labels[:4], shift) for shift in range(4)])
    folds = make_folds(make_classes(labels), np.arange(16) // 4, n_folds=4, seed=0)
    assert [sorted(labels[fold.test]) for fold in folds] == [["a", "b", "c", "d"]] * 4


def test_distinct_images_are_counted_and_not_rows():
    rare = np.flatnonzero(LABELS == "digit 3")[:4]
    rows = np.concatenate(
        [np.repeat(np.flatnonzero(LABELS == "digit 2")[:3], 4), np.repeat(rare, 4)]
    )
    targets = make_classes(LABELS[rows])
    with pytest.raises(InputError, match=r"class 'digit 3' has 4 distinct images, .* fewer than 5"):
        make_folds(targets, DIGESTS[rows], n_folds=5, seed=0)
    assert len(make_folds(targets, DIGESTS[rows], n_folds=4, seed=0)) == 4


@pytest.mark.parametrize("n_folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(n_folds):
    with pytest.raises(InputError, match=f"{n_folds} folds: give --cv 2 or more"):
        make_folds(make_classes(LABELS), ROWS, n_folds=n_folds, seed=0)


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(InputError, match=r"1797 rows are only 4 groups .* fewer than 5 folds"):
        make_folds(make_values(DIGITS.data[:, 20]), ROWS % 4, n_folds=5, seed=0)


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows to cross-validate"):
        make_folds(make_classes(LABELS[:0]), ROWS[:0], n_folds=5, seed=0)
