"""Other tasks than classes: numbers, tags, and the columns that they are read from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.helpers.digits import (
    FITTED,
    SPLITS,
    N,
    digit_labels,
    fit_head,
    read_plainly,
    read_table,
    write_view,
)
from tests.helpers.views import LAYER, write_features


def write_diabetes(path, *, ages=None, splits=None):
    data = load_diabetes()
    n_rows = len(data.target)
    return write_features(
        path,
        {LAYER: data.data.astype(np.float32)},
        labels=["patient"] * n_rows,
        splits=np.array(["train", "train", "test"] * n_rows)[:n_rows] if splits is None else splits,
        columns={"progression": data.target if ages is None else ages},
    )


REGRESSION = ("--task", "regression", "--target", "progression")


def test_a_regression_equals_plain_scikit_learn(command, tmp_path):
    path = write_diabetes(tmp_path / "d.h5")
    metrics = fit_head(
        *(command, path, *REGRESSION, "--head", "ridge", "--set", "alpha=3", "--cv", 4),
        out=tmp_path / "out",
    )
    x, y = load_diabetes(return_X_y=True)
    test = np.arange(len(y)) % 3 == 2
    model = make_pipeline(StandardScaler(), Ridge(alpha=3)).fit(x[~test], y[~test])
    expected = model.predict(x[test])
    assert metrics["r2"] == pytest.approx(r2_score(y[test], expected), abs=1e-4)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(y[test], expected), rel=1e-4)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((y[test] - expected) ** 2)), rel=1e-4)
    assert metrics["interval"][0] < metrics["r2"] < metrics["interval"][1]
    assert metrics["cv_r2_mean"] == pytest.approx(0.48, abs=0.08)
    header, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert header == ["path", "label", "predicted"]
    np.testing.assert_allclose([float(row[2]) for row in rows], expected, rtol=1e-4)
    assert [float(row[1]) for row in rows] == y[test].tolist()


def test_an_mlp_does_regression(command, tmp_path):
    path = write_diabetes(tmp_path / "d.h5")
    options = (*REGRESSION, "--head", "mlp", "--set", "hidden=32", "--set", "epochs=60")
    metrics = fit_head(command, path, *options, out=tmp_path / "out")
    assert metrics["r2"] > 0.3
    assert metrics["classes"] == []


def name_tags(digit):
    tags = {"even": digit % 2 == 0, "prime": digit in (2, 3, 5, 7), "loop": digit in (0, 6, 8, 9)}
    return ";".join(tag for tag, is_there in tags.items() if is_there) or ";"


def test_tags_are_scored_by_mean_average_precision(command, tmp_path):
    digits = load_digits().target[:N]
    tags = [name_tags(digit) for digit in digits]
    path = write_view(tmp_path / "t.h5", labels=tags)
    metrics = fit_head(
        *(command, path, "--task", "multilabel", "--head", "logreg", "--cv", 3),
        out=tmp_path / "out",
    )
    values, *_ = read_plainly(path)
    truth = np.array(
        [[tag in found.split(";") for tag in ("even", "loop", "prime")] for found in tags]
    )
    test = SPLITS == "test"
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=999)))
    expected = model.fit(values[FITTED], truth[FITTED]).predict_proba(values[test])
    score = average_precision_score(truth[test], expected)
    assert metrics["classes"] == ["even", "loop", "prime"]
    assert metrics["mean_average_precision"] == pytest.approx(score, abs=1e-3)
    assert [row["class"] for row in metrics["per_class"]] == metrics["classes"]
    header, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert header[3:] == metrics["classes"]
    np.testing.assert_allclose(np.array(rows)[:, 3:].astype(float), expected, atol=2e-3)
    for row in rows:
        said = [tag for tag, p in zip(header[3:], row[3:], strict=True) if float(p) >= 0.5]
        assert row[2] == (";".join(said) or ";")


@pytest.mark.parametrize("ages", ["nan", "inf", "old", "1,5"])
def test_a_target_that_is_no_number_is_named_with_its_image(refused, tmp_path, ages):
    column = load_diabetes().target.astype(str).astype(object)
    column[7] = ages
    path = write_diabetes(tmp_path / "d.h5", ages=column)
    line = refused(
        *("fit", "--features", path, "--layer", LAYER, "--head", "ridge", *REGRESSION),
        *("--out", tmp_path / "out"),
    )
    assert repr(ages) in line
    assert "0007.png" in line


def test_measurements_are_no_classes(refused_fit, tmp_path):
    column = {"progression": [f"{row}.5" for row in range(N)]}
    path = write_view(tmp_path / "v.h5", labels=digit_labels(), columns=column)
    said = refused_fit(path, "--target", "progression")
    assert "'progression' holds 300 different numbers" in said
    assert "--task regression" in said


def test_tags_taken_as_classes_are_pointed_out(fit, tmp_path, caplog):
    labels = [f"{label};photo" for label in digit_labels()]
    fit(write_view(tmp_path / "v.h5", labels=labels))
    assert "--task multilabel" in caplog.text


def test_a_head_that_cannot_do_the_task_names_those_that_can(refused_fit, tmp_path):
    path = write_diabetes(tmp_path / "d.h5")
    line = refused_fit(path, *REGRESSION)
    assert "logreg does not do regression" in line
    assert "ridge" in line
    assert "--task" not in refused_fit(path, "--target", "progresion")
