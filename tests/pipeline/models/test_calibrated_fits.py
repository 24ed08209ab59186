"""``fit --calibrate``: what is kept, measured and known again; and ``--by``."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from permafrost.pipeline.models.reopened import predict_unseen, reopen_fit
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.evaluation.folds import plan_calibration
from permafrost.stages.heads import load_head
from tests.helpers.views import LAYER, write_features

N = 360
VALUES = load_digits().data[:N, 18:46].astype(np.float32)
LABELS = np.array([f"digit {digit}" for digit in load_digits().target[:N]])
SPLITS = np.array(["train", "test", "train"] * (N // 3))
# Four images of one digit each, and a few of nobody.
PATIENTS = np.array([f"{label} {n // 40}" if n % 9 else "" for n, label in enumerate(LABELS)])


@pytest.fixture(scope="session")
def view(tmp_path_factory):
    return write_features(
        tmp_path_factory.mktemp("calibrated") / "features.h5",
        {LAYER: VALUES},
        labels=LABELS,
        splits=list(SPLITS),
        columns={"patient": PATIENTS},
    )


@pytest.fixture
def fit(command, view, tmp_path):
    """Fit; returns the metrics that were printed."""

    def call(*options, head="logreg", out=tmp_path / "out"):
        answer = command(
            *("fit", "--features", view, "--layer", LAYER, "--head", head, "--set", "scale=none"),
            *("--out", out, "--json", *options),
        )
        return answer.figures

    return call


def read_outputs(file):
    table = pd.read_csv(file, dtype={"label": str}, keep_default_na=False)
    return table, table[[name for name in table if name.startswith("digit")]].to_numpy()


def fit_plainly(rows):
    """Calibrate scikit-learn's own on the folds that `fit` makes of these rows."""
    targets = Targets(task="classification", values=LABELS, classes=np.unique(LABELS))
    plan = plan_calibration("temperature", targets.select(rows), np.arange(N)[rows], seed=0)
    plain = LogisticRegression(max_iter=1000)
    calibrated = CalibratedClassifierCV(plain, method="temperature", cv=plan.folds, ensemble=False)
    return calibrated.fit(VALUES[rows], LABELS[rows])


def test_a_calibrated_fit_says_what_scikit_learn_does(fit, tmp_path):
    metrics = fit("--calibrate")
    train, test = SPLITS == "train", SPLITS == "test"
    expected = fit_plainly(np.flatnonzero(train)).predict_proba(VALUES[test])
    _, outputs = read_outputs(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(outputs, expected, atol=2e-3)
    assert metrics["calibration"] == "temperature"
    assert metrics["log_loss"] == pytest.approx(log_loss(LABELS[test], outputs))
    head = load_head(tmp_path / "out" / "head")
    assert head.calibration is not None
    np.testing.assert_allclose(head.predict(VALUES[test]), outputs, atol=1e-12)


def test_folds_are_calibrated_within_their_own_training_rows(fit):
    metrics = fit("--calibrate", "temperature", "--cv", "3")
    with_none = fit("--cv", "3")
    assert len({fold["log_loss"] for fold in metrics["folds"] + with_none["folds"]}) == 6
    assert metrics["cv_accuracy_mean"] == with_none["cv_accuracy_mean"]
    assert {"ece", "brier"} <= metrics["folds"][0].keys()


def test_a_fold_of_a_calibrated_head_is_what_scikit_learn_says_of_it(fit, tmp_path):
    fit("--calibrate", "temperature", "--cv", "3")
    with reopen_fit(tmp_path / "out") as fitted:
        found = predict_unseen(fitted)
    rows = found.rows[found.folds == 0]
    train = found.rows[(found.folds != 0) & (SPLITS[found.rows] != "test")]
    expected = fit_plainly(train).predict_proba(VALUES[rows])
    np.testing.assert_allclose(found.outputs[found.folds == 0], expected, atol=2e-3)


def test_a_calibrated_fit_is_another_fit(fit, tmp_path):
    keys = set()
    for calibrate in ("none", "sigmoid", "isotonic", "temperature"):
        fit("--calibrate", calibrate)
        keys.add(json.loads((tmp_path / "out" / "model.json").read_text())["fit"])
    assert len(keys) == 4
    fit()
    assert load_head(tmp_path / "out" / "head").calibration is None


def test_a_reopened_fit_is_calibrated_on_new_folds(fit, tmp_path):
    for name, options in (("plain", ()), ("calibrated", ("--calibrate",))):
        fit(*options, head="ridge", out=tmp_path / name)
    losses = []
    for name in ("plain", "calibrated"):
        with reopen_fit(tmp_path / name) as fitted:
            found = predict_unseen(fitted, n_folds=4)
        losses.append(log_loss(LABELS[found.rows], found.outputs))
    assert losses[1] < 0.8 * losses[0]


def test_two_classes_are_calibrated_by_a_sigmoid(fit):
    metrics = fit("--calibrate", "--classes", "digit 3,digit 8", head="ridge")
    assert metrics["calibration"] == "sigmoid"


def test_the_best_of_a_sweep_is_calibrated(command, view, tmp_path):
    options = ("sweep", "--features", view, "--heads", "ridge", "--cv", "2", "--out", tmp_path)
    figures = command(*options, "--calibrate", "--by", "patient", "--json").figures
    assert figures["best_metrics"]["calibration"] == "temperature"
    assert figures["best_metrics"]["by"]["column"] == "patient"
    assert load_head(tmp_path / "best" / "head").calibration is not None
    assert "calibration" not in command(*options, "--json").figures["best_metrics"]


def test_groups_are_averaged_and_measured(fit, tmp_path):
    metrics = fit("--by", "patient")
    table, _ = read_outputs(tmp_path / "out" / "predictions.csv")
    names = sorted(name for name in table if name.startswith("digit"))
    table["patient"] = PATIENTS[SPLITS == "test"]
    groups = table[table["patient"] != ""].groupby("patient")
    expected = groups[names].mean()
    found = pd.read_csv(tmp_path / "out" / "predictions.csv.by-patient.csv")
    assert list(found) == ["patient", "label", "predicted", "images", *names]
    assert found["patient"].tolist() == list(expected.index)
    assert found["images"].tolist() == groups.size().tolist()
    np.testing.assert_allclose(found[names], expected, atol=1e-12)
    truth = [name.rpartition(" ")[0] for name in expected.index]
    by = metrics["by"]
    assert by["accuracy"] == accuracy_score(truth, found["predicted"])
    assert by["log_loss"] == pytest.approx(log_loss(truth, expected))
    assert by["groups"] == by["scored"] == len(found)
    assert by["left_out"] == (table["patient"] == "").sum()
    assert by["interval"][0] <= by["accuracy"] <= by["interval"][1]
    fit()
    assert not (tmp_path / "out" / "predictions.csv.by-patient.csv").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--calibrate", "magic"), "magic"),
        (("--by", "patiemt"), "patient"),
        (("--calibrate", "--task", "regression", "--head", "ridge"), "--task classification"),
        (("--calibrate", "--head", "cnn"), "cnn would be trained"),
        (("--by", "patient", "--task", "multilabel"), "--task classification"),
    ],
)
def test_what_makes_no_sense_is_one_line(refused, view, tmp_path, options, said):
    head = () if "--head" in options else ("--head", "logreg")
    line = refused("fit", "--features", view, "--layer", LAYER, "--out", tmp_path, *head, *options)
    assert said in line
