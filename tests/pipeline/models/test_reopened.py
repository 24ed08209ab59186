"""What `fit` left, opened again: every row predicted unseen, and the learning curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.learning import LEARNING_NAME, measure_learning
from permafrost.pipeline.models.reopened import predict_unseen, reopen_fit
from permafrost.pipeline.models.unseen import TEST, UNSEEN_NAME
from permafrost.stages.evaluation.folds import make_folds
from permafrost.stages.heads import load_head
from tests.helpers.answers import Command
from tests.helpers.views import LAYER, write_features

N = 300
PIXELS = load_digits().data[:N].astype(np.float32)
LABELS = np.array([f"digit {digit}" for digit in load_digits().target[:N]])
SPLITS = np.array(["", "", "test"] * (N // 3))
OPTIONS = ("--layer", LAYER, "--head", "logreg", "--set", "scale=none", "--set", "C=0.01")


@pytest.fixture
def view(tmp_path: Path) -> Path:
    return write_features(
        tmp_path / "features.h5", {LAYER: PIXELS}, labels=LABELS, splits=list(SPLITS)
    )


@pytest.fixture
def fit(command: Command, view: Path, tmp_path: Path):
    def call(*options: object, out: Path = tmp_path / "fit") -> Path:
        answer = command("fit", "--features", view, *OPTIONS, "--out", out, *options)
        assert answer.status == 0, answer.err
        return out

    return call


def fit_plainly(train: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=0.01, tol=1e-6, max_iter=5000).fit(PIXELS[train], LABELS[train])


def test_every_labelled_row_is_predicted_by_a_head_that_has_not_seen_it(fit):
    with reopen_fit(fit()) as fitted:
        found = predict_unseen(fitted, n_folds=4)
    assert found is not None
    assert found.rows.tolist() == list(range(N))
    assert (found.folds[SPLITS == "test"] == TEST).all()
    assert sorted(set(found.folds.tolist())) == [TEST, 0, 1, 2, 3]
    for fold in range(4):
        test = np.flatnonzero(found.folds == fold)
        train = np.flatnonzero((found.folds != fold) & (SPLITS != "test"))
        expected = fit_plainly(train).predict_proba(PIXELS[test])
        np.testing.assert_allclose(found.outputs[test], expected, atol=2e-3)
    test = np.flatnonzero(SPLITS == "test")
    expected = fit_plainly(np.flatnonzero(SPLITS != "test")).predict_proba(PIXELS[test])
    np.testing.assert_allclose(found.outputs[test], expected, atol=2e-3)


def test_what_was_predicted_is_kept_and_no_head_is_fitted_again(fit, monkeypatch):
    with reopen_fit(fit()) as fitted:
        first = predict_unseen(fitted)
    monkeypatch.setattr(
        "permafrost.pipeline.models.reopened.cross_validate",
        lambda *_: pytest.fail("a head was fitted"),
    )
    with reopen_fit(fitted.folder) as fitted:
        again = predict_unseen(fitted)
    assert first is not None
    assert again is not None
    for name in ("rows", "outputs", "folds", "classes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_fit_with_folds_keeps_what_it_predicted(fit, monkeypatch):
    out = fit("--cv", "4")
    monkeypatch.setattr(
        "permafrost.pipeline.models.reopened.cross_validate",
        lambda *_: pytest.fail("a head was fitted"),
    )
    with reopen_fit(out) as fitted:
        found = predict_unseen(fitted)
    assert found is not None
    right = found.classes[found.outputs.argmax(axis=1)] == LABELS
    metrics = json.loads((out / "metrics.json").read_text())
    assert right[found.folds == TEST].mean() == pytest.approx(metrics["accuracy"])
    by_fold = [right[found.folds == fold].mean() for fold in range(4)]
    assert np.mean(by_fold) == pytest.approx(metrics["cv_accuracy_mean"])


@pytest.mark.parametrize("garbage", [b"", b"PK\x03\x04", b"\x00\x00", "of another fit"])
def test_predictions_that_are_damaged_or_of_another_fit_are_made_again(fit, garbage):
    out = fit()
    with reopen_fit(out) as fitted:
        first = predict_unseen(fitted)
    if garbage == "of another fit":
        np.savez(out / UNSEEN_NAME, key=np.array("other"), rows=np.arange(3))
    else:
        (out / UNSEEN_NAME).write_bytes(garbage)
    with reopen_fit(out) as fitted:
        again = predict_unseen(fitted)
    assert first is not None
    assert again is not None
    np.testing.assert_allclose(again.outputs, first.outputs)


def test_the_learning_curve_is_that_of_heads_on_parts_of_each_fold(command, view, tmp_path):
    out = tmp_path / "nearest"
    command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "nearest_mean"),
        *("--set", "scale=none", "--out", out),
    )
    with reopen_fit(out) as fitted:
        points = measure_learning(fitted, n_folds=3, shares=(0.5, 1.0))
        rows = fitted.bench.labelled.folds
        targets = fitted.bench.labelled.targets.select(rows)
        folds = make_folds(targets, fitted.bench.files.groups[rows], n_folds=3, seed=0)
    assert points is not None
    scores = [
        NearestCentroid()
        .fit(PIXELS[rows[train]], LABELS[rows[train]])
        .score(PIXELS[rows[test]], LABELS[rows[test]])
        for train, test in folds
    ]
    half, whole = points
    assert whole.scores["accuracy_mean"] == pytest.approx(np.mean(scores))
    assert (half.n_train, whole.n_train) == (len(rows) // 3, 2 * len(rows) // 3)
    assert half.scores["accuracy_mean"] != whole.scores["accuracy_mean"]


def test_a_learning_curve_is_measured_once(fit, monkeypatch):
    out = fit()
    with reopen_fit(out) as fitted:
        first = measure_learning(fitted)
    assert (out / LEARNING_NAME).exists()
    monkeypatch.setattr(
        "permafrost.pipeline.models.learning.cross_fit",
        lambda *_: pytest.fail("a head was fitted"),
    )
    with reopen_fit(out) as fitted:
        assert measure_learning(fitted) == first


def test_a_moved_folder_finds_its_features(fit, tmp_path):
    fit()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "fit").rename(tmp_path / "moved")
    with reopen_fit(tmp_path / "moved") as fitted:
        assert len(fitted.bench.files) == N
    (tmp_path / "moved").rename(tmp_path / "elsewhere" / "fit")
    with pytest.raises(Exception, match=r"features\.h5"), reopen_fit(tmp_path / "elsewhere/fit"):
        pass


def test_features_that_moved_are_found_once_the_fit_was_repeated(fit, command, view, tmp_path):
    out = fit()
    view.rename(tmp_path / "other.h5")
    command("fit", "--features", tmp_path / "other.h5", *OPTIONS, "--out", out)
    with reopen_fit(out) as fitted:
        assert len(fitted.bench.files) == N


def test_changed_labels_and_folders_without_a_fit_are_one_line(fit, view, tmp_path):
    out = fit()
    write_features(view, {LAYER: PIXELS}, labels=LABELS[::-1], splits=list(SPLITS))
    with pytest.raises(PipelineError, match="have changed since"), reopen_fit(out):
        pass
    with pytest.raises(PipelineError, match="holds no fitted model"), reopen_fit(tmp_path):
        pass
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["data"]
    (out / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(PipelineError, match="does not say which features"), reopen_fit(out):
        pass


def test_the_head_that_is_kept_is_the_one_that_predicts_the_test_split(fit):
    out = fit()
    with reopen_fit(out) as fitted:
        found = predict_unseen(fitted)
    assert found is not None
    head = load_head(out / "head")
    test = np.flatnonzero(SPLITS == "test")
    np.testing.assert_allclose(found.outputs[test], head.predict(PIXELS[test]), rtol=1e-12)
