"""Calibrated heads against scikit-learn's CalibratedClassifierCV on the same folds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.svm import LinearSVC

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.evaluation.certainty import measure_ece
from permafrost.stages.evaluation.folds import plan_calibration
from permafrost.stages.heads import check_calibration, fit_head, parse_settings
from permafrost.stages.heads import load_head as load
from permafrost.stages.matrices.matrix import ArrayMatrix

PIXELS, DIGITS = load_digits(return_X_y=True)
# A part of each image, so that a head has something to be unsure about.
FEATURES = (PIXELS[:, 18:46] / 16).astype(np.float32)
TRAIN, TEST = np.arange(0, 1797, 3), np.setdiff1d(np.arange(1797), np.arange(0, 1797, 3))
TEN = np.array([f"digit {digit}" for digit in DIGITS])
TWO = np.where(DIGITS % 2, "odd", "even")
GROUPS = np.arange(len(DIGITS))
PLAIN = {
    "logreg": LogisticRegression(max_iter=10_000, tol=1e-8),
    "linear_svm": LinearSVC(max_iter=100_000, tol=1e-8, dual=False, random_state=0),
    "ridge": RidgeClassifier(),
}
TIGHT = {
    "logreg": {"max_iter": 10_000, "tol": 1e-8},
    "linear_svm": {"max_iter": 100_000, "tol": 1e-8},
}


class Odds(ClassifierMixin, BaseEstimator):
    """A classifier that decides by the odds of each class against all others."""

    def fit(self, values, truth):
        self.inner_ = LogisticRegression(max_iter=1000).fit(values, truth)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, values):
        return self.inner_.predict(values)

    def decision_function(self, values):
        chances = self.inner_.predict_proba(values)
        return np.log(chances / (1 - chances))


def make_targets(names):
    return Targets(task="classification", values=names, classes=np.unique(names))


def plan(names, method, train=TRAIN, groups=GROUPS):
    return plan_calibration(method, make_targets(names).select(train), groups[train], seed=0)


def fit(names, kind, method, *, train=TRAIN, groups=GROUPS, features=FEATURES, **settings):
    """Fit a head; plain ones do not scale, so this one does not either."""
    return fit_head(
        kind,
        parse_settings(kind, {"scale": "none"} | TIGHT.get(kind, {}) | settings),
        ArrayMatrix(features),
        make_targets(names),
        train=train,
        groups=groups,
        seed=0,
        calibration=plan(names, method, train, groups),
    )


def calibrate_plainly(names, estimator, method):
    folds = plan(names, method).folds
    calibrated = CalibratedClassifierCV(estimator, method=method, cv=folds, ensemble=False)
    return calibrated.fit(FEATURES[TRAIN], names[TRAIN])


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("kind", PLAIN)
def test_two_classes_are_calibrated_as_scikit_learn_does(kind, method):
    head, plain = fit(TWO, kind, method), calibrate_plainly(TWO, PLAIN[kind], method)
    found, expected = head.predict(FEATURES[TEST]), plain.predict_proba(FEATURES[TEST])
    if method == "temperature":  # It takes the decision for half of the logarithm of the odds.
        expected = np.sort(expected), expected.argmax(axis=1)
        assert (found.argmax(axis=1) == expected[1]).all()
        found, expected = np.sort(found), expected[0]
    # A step of an isotonic curve is where a row lies, so that few rows may fall to its other side.
    far = np.abs(found - expected).max(axis=1) > 5e-4
    assert far.mean() <= (0.01 if method == "isotonic" else 0)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_ten_classes_are_calibrated_by_scikit_learns_temperature():
    head = fit(TEN, "logreg", "temperature")
    expected = calibrate_plainly(TEN, PLAIN["logreg"], "temperature").predict_proba(FEATURES[TEST])
    np.testing.assert_allclose(head.predict(FEATURES[TEST]), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_ten_classes_are_calibrated_one_by_one_on_their_odds(method):
    found = fit(TEN, "logreg", method, max_iter=1000, tol=1e-4).predict(FEATURES[TEST])
    expected = calibrate_plainly(TEN, Odds(), method).predict_proba(FEATURES[TEST])
    assert (np.abs(found - expected).max(axis=1) > 1e-3).mean() <= 0.02


@pytest.mark.parametrize("kind", ["linear_svm", "ridge", "knn", "nearest_mean", "sgd"])
def test_a_calibrated_head_loses_less_on_rows_that_it_has_never_seen(kind):
    plain, calibrated = (fit(TEN, kind, method) for method in ("none", "auto"))
    assert calibrated.calibration is not None
    codes = np.searchsorted(plain.classes, TEN[TEST])
    before, after = (one.predict(FEATURES[TEST]) for one in (plain, calibrated))
    # One temperature for all classes changes no answer.
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert log_loss(codes, after) <= log_loss(codes, before) + 0.01
    if kind in ("linear_svm", "ridge"):
        assert measure_ece(after, codes) < 0.3 * measure_ece(before, codes)


def test_nothing_but_training_rows_is_calibrated_on():
    moved, names = FEATURES.copy(), TEN.copy()
    moved[TEST], names[TEST] = 1e3, "digit 0"
    one, other = fit(TEN, "logreg", "sigmoid"), fit(names, "logreg", "sigmoid", features=moved)
    for ours, theirs in zip(one.calibration.curves, other.calibration.curves, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_groups_are_never_on_both_sides():
    groups = GROUPS // 50
    for train, test in plan(TEN, "sigmoid", groups=groups).folds:
        assert not set(groups[TRAIN][train]) & set(groups[TRAIN][test])


def test_a_class_that_a_fold_lacks_leaves_the_others_calibrated():
    names = TEN.copy()
    names[TRAIN[0]] = "rare"  # The fold that has it has a head that does not know it.
    for method in ("sigmoid", "isotonic", "temperature"):
        outputs = fit(names, "logreg", method).predict(FEATURES[TEST])
        assert outputs.shape == (len(TEST), 11)
        assert np.isfinite(outputs).all()
        assert (np.array(sorted({*TEN, "rare"}))[outputs.argmax(axis=1)] == TEN[TEST]).mean() > 0.8


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("names", [TWO, TEN], ids=["two", "ten"])
def test_a_saved_head_says_the_very_same(tmp_path, names, method):
    head = fit(names, "linear_svm", method)
    head.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.calibration is not None
    assert loaded.n_features == head.n_features
    np.testing.assert_array_equal(loaded.predict(FEATURES[TEST]), head.predict(FEATURES[TEST]))


def test_an_mlp_is_calibrated_saved_and_loaded(tmp_path):
    settings = {"hidden": 4, "epochs": 2, "scale": "standard"}
    head = fit(TEN, "mlp", "temperature", **settings)
    head.save(tmp_path)
    np.testing.assert_array_equal(
        load(tmp_path).predict(FEATURES[TEST]), head.predict(FEATURES[TEST])
    )
    assert head.history


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"curves": [[1.0]]},
        {"curves": [[float("nan"), 0.0]]},
        {"curves": [[1.0, 0.0]] * 10},
        {"floor": 0},
        {"floor": None},
    ],
)
def test_a_damaged_calibration_is_one_line(tmp_path, change):
    fit(TWO, "ridge", "sigmoid").save(tmp_path)
    record = json.loads((tmp_path / "head.json").read_text())
    record["calibration"] |= change
    (tmp_path / "head.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="is not a head that can be loaded"):
        load(tmp_path)


def test_what_cannot_be_calibrated_is_one_line():
    with pytest.raises(UnknownNameError, match="temperature"):
        check_calibration("logreg", "temprature", task="classification")
    with pytest.raises(InputError, match="--task classification"):
        check_calibration("ridge", "sigmoid", task="regression")
    with pytest.raises(InputError, match="cnn would be trained"):
        check_calibration("cnn", "auto", task="classification")
    few = np.array([0, 1, 2])
    with pytest.raises(InputError, match="too few"):
        fit(TEN, "logreg", "sigmoid", train=few)
