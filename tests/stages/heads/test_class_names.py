"""Classes may be called by numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix

PIXELS, DIGITS = load_digits(return_X_y=True)
X = PIXELS.astype(np.float32)
TRAIN, TEST = np.arange(900), np.arange(900, len(X))


def name_classes(names: list[str]) -> Targets:
    values = np.array(names)
    return Targets(task="classification", values=values, classes=np.unique(values))


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        ("logreg", LogisticRegression(max_iter=1000)),
        ("linear_svm", LinearSVC(dual=False)),
        ("ridge", RidgeClassifier()),
    ],
)
def test_weights_of_classes_called_by_numbers_are_those_of_scikit_learn(
    kind: str, plain: Any, n_classes: int, tmp_path: Any
) -> None:
    taken = np.flatnonzero(n_classes > DIGITS)
    train = taken[taken < len(TRAIN)]
    weights = dict.fromkeys(range(n_classes), 1.0) | {0: 0.2, 1: 5.0}
    expected = make_pipeline(StandardScaler(), plain.set_params(class_weight=weights))
    expected.fit(X[train], DIGITS[train])
    targets = name_classes([str(digit) for digit in DIGITS])
    settings = parse_settings(kind, {"class_weight": "0:0.2,1:5"})
    head = fit_head(kind, settings, ArrayMatrix(X), targets, train=train, seed=0)
    assert head.classes.tolist() == [str(digit) for digit in range(n_classes)]
    predicted = head.classes[head.predict(X[TEST]).argmax(axis=1)]
    assert predicted.tolist() == [str(digit) for digit in expected.predict(X[TEST])]
    head.save(tmp_path)
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict(X[TEST]), head.predict(X[TEST]))
    assert loaded.pipeline.predict(X[TEST]).tolist() == predicted.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["logreg", "linear_svm", "ridge", "sgd", "mlp"])
def test_names_that_are_one_number_are_two_classes(kind: str) -> None:
    # To scikit-learn "1", "01" and "1_0" are numbers, two of them the same.
    names = np.array(["1", "01", "1_0"])[DIGITS[DIGITS < 3]]
    x = X[DIGITS < 3]
    settings = parse_settings(kind, {"class_weight": {"1": 2, "01": 3, "1_0": 4}})
    head = fit_head(
        kind, settings, ArrayMatrix(x), name_classes(list(names)), train=np.arange(len(x)), seed=0
    )
    assert head.classes.tolist() == ["01", "1", "1_0"]
    assert (head.classes[head.predict(x).argmax(axis=1)] == names).mean() > 0.98
