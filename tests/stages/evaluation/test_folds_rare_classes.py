"""Classes of few images in cross-validation: what goes on, what is said, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.folds import (
    check_folds,
    count_possible_folds,
    describe_untrained,
    make_folds,
)


def make_classes(counts):
    labels = np.repeat(list(counts), list(counts.values()))
    return Targets(task=CLASSIFICATION, values=labels, classes=np.unique(labels))


def test_a_class_of_fewer_images_than_folds_is_trained_on_in_every_fold() -> None:
    targets = make_classes({"cat": 20, "dog": 20, "owl": 3})
    folds = make_folds(targets, np.arange(43), n_folds=5, seed=0)
    for train, test in folds:
        assert np.sum(targets.values[train] == "owl") >= 2
        assert np.sum(targets.values[test] == "owl") <= 1
    check_folds(targets, folds)
    assert describe_untrained(targets, folds) is None


def test_a_class_of_one_image_costs_one_row_and_is_named_with_what_helps() -> None:
    targets = make_classes({"cat": 20, "dog": 20, "owl": 1})
    folds = make_folds(targets, np.arange(41), n_folds=5, seed=0)
    check_folds(targets, folds)
    text = describe_untrained(targets, folds)
    assert text is not None
    assert "1 of 41 rows" in text
    assert "'owl'" in text
    assert "add images" in text
    assert "--labels csv:FILE" in text


def test_a_tag_of_one_image_is_named_too() -> None:
    values = np.zeros((40, 2), np.bool_)
    values[::2, 0] = True
    values[7, 1] = True
    targets = Targets(task=MULTILABEL, values=values, classes=np.array(["sea", "yeti"]))
    folds = make_folds(targets, np.arange(40), n_folds=4, seed=0)
    assert "'yeti'" in str(describe_untrained(targets, folds))


def test_folds_that_leave_one_class_to_learn_from_are_refused() -> None:
    targets = make_classes({"cat": 20, "owl": 1})
    folds = make_folds(targets, np.arange(21), n_folds=5, seed=0)
    with pytest.raises(InputError, match=r"tests 'owl' leaves only 'cat' .* add images of 'owl'"):
        check_folds(targets, folds)
    values = Targets(task=REGRESSION, values=np.ones(20), classes=np.empty(0, np.str_))
    with pytest.raises(InputError, match="all alike"):
        check_folds(values, make_folds(values, np.arange(20), n_folds=5, seed=0))


def test_the_remedy_named_helps() -> None:
    targets = make_classes({"cat": 4, "dog": 3})
    assert count_possible_folds(targets, np.arange(7)) == 4
    assert count_possible_folds(targets, np.array([0, 0, 0, 1, 2, 3, 4])) == 3
    with pytest.raises(InputError, match="give --cv 4 or add images"):
        make_folds(targets, np.arange(7), n_folds=5, seed=0)
    check_folds(targets, make_folds(targets, np.arange(7), n_folds=4, seed=0))
    with pytest.raises(InputError, match=r"fewer than 2 folds .*: add images that are not of one"):
        make_folds(make_classes(dict.fromkeys("abcd", 1)), np.arange(4), n_folds=2, seed=0)
    with pytest.raises(InputError, match=r"only 1 groups .* folds: add images that are not of one"):
        make_folds(targets, np.zeros(7, np.int64), n_folds=2, seed=0)
