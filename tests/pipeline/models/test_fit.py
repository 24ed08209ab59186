"""``fit`` against plain scikit-learn: its figures, its predictions, and what it leaves."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score

from tests.helpers.digits import (
    FITTED,
    SPLITS,
    N,
    digit_labels,
    plain_model,
    read_plainly,
    read_table,
    write_view,
)
from tests.helpers.views import LAYER


@pytest.mark.parametrize("c", [1.0, 0.01])
def test_fit_equals_plain_scikit_learn(view, fit, tmp_path, c):
    metrics = fit(view, "--set", f"C={c}")
    values, labels, splits = read_plainly(view)
    test = splits == "test"
    model = plain_model(c).fit(values[FITTED], labels[FITTED])
    expected = model.predict_proba(values[test])
    assert metrics["accuracy"] == model.score(values[test], labels[test])
    assert metrics["log_loss"] == pytest.approx(log_loss(labels[test], expected), rel=1e-3)
    header, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert header == ["path", "label", "predicted", *model.classes_]
    assert [row[1] for row in rows] == labels[test].tolist()
    assert [row[2] for row in rows] == model.predict(values[test]).tolist()
    np.testing.assert_allclose(np.array(rows)[:, 3:].astype(float), expected, atol=2e-4)


def test_cross_validation_equals_scikit_learn_on_the_same_folds(view, fit):
    metrics = fit(view, "--cv", "4", "--seed", "3")
    values, labels, splits = read_plainly(view)
    # The digests of the view rise from row to row, so its images are in scikit-learn's order.
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    rest = splits != "test"
    expected = cross_val_score(plain_model(), values[rest], labels[rest], cv=folds)
    assert metrics["cv_accuracy_mean"] == pytest.approx(expected.mean(), abs=1e-12)
    assert metrics["cv_accuracy_std"] == pytest.approx(expected.std(), abs=1e-12)
    found = [fold["accuracy"] for fold in metrics["folds"]]
    assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_a_fit_leaves_what_the_design_promises(view, fit, tmp_path):
    printed = fit(view, "--cv", "2")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("head", "metrics.json", "model.json", "predictions.csv", "unseen.npz")
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == printed
    assert metrics.keys() >= {
        *("accuracy", "log_loss", "n_train", "n_test", "seconds"),
        *("cv_accuracy_mean", "cv_accuracy_std"),
    }
    assert (metrics["n_train"], metrics["n_test"]) == (FITTED.sum(), (SPLITS == "test").sum())
    _, rows = read_table(out / "predictions.csv")
    np.testing.assert_allclose(np.array(rows)[:, 3:].astype(float).sum(axis=1), 1, atol=1e-9)


def test_a_fit_without_json_says_the_same_to_a_person(view, command, tmp_path):
    answer = command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--cv", "2"),
        *("--out", tmp_path),
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert answer.status == 0
    assert f"accuracy {metrics['accuracy']:.4f}" in answer.out
    assert f"2-fold: accuracy {metrics['cv_accuracy_mean']:.4f}" in answer.out


@pytest.mark.parametrize("split", ["test", "val"])
def test_nothing_is_fitted_on_test_or_val_rows(view, fit, tmp_path, split):
    changed = write_view(tmp_path / "changed.h5", labels=digit_labels(), change=split == SPLITS)
    before, after = tmp_path / "before", tmp_path / "after"
    fit(view, out=before)
    fit(changed, out=after)
    values, *_ = read_plainly(view)
    assert _predict(before, values) == _predict(after, values)


def _predict(folder, values):
    from permafrost.stages.heads import load_head

    return load_head(folder / "head").predict(values).tolist()


def test_changed_training_rows_change_the_head(view, fit, tmp_path):
    changed = write_view(tmp_path / "changed.h5", labels=digit_labels(), change=[0])
    values, *_ = read_plainly(view)
    fit(view, out=tmp_path / "before")
    fit(changed, out=tmp_path / "after")
    assert _predict(tmp_path / "before", values) != _predict(tmp_path / "after", values)


def test_unlabelled_rows_are_predicted_but_not_trained_on(fit, tmp_path):
    labels = digit_labels()
    unlabelled = np.arange(0, N, 7)
    labels[unlabelled] = ""
    path = write_view(tmp_path / "some.h5", labels=labels)
    metrics = fit(path)
    values, labels, _ = read_plainly(path)
    kept = FITTED & (labels != "")
    assert metrics["n_train"] == kept.sum()
    assert "" not in metrics["classes"]
    model = plain_model().fit(values[kept], labels[kept])
    _, rows = read_table(tmp_path / "out" / "predictions.csv")
    predicted = np.flatnonzero((SPLITS == "test") | (labels == ""))
    assert [row[0] for row in rows] == [f"{row:04d}.png" for row in predicted]
    assert [row[1] for row in rows] == labels[predicted].tolist()
    assert [row[2] for row in rows] == model.predict(values[predicted]).tolist()


def test_without_a_test_split_there_is_no_accuracy(fit, tmp_path):
    path = write_view(tmp_path / "all.h5", labels=digit_labels(), splits=[""] * N)
    metrics = fit(path)
    assert not {"accuracy", "log_loss", "cv_accuracy_mean"} & metrics.keys()
    assert (metrics["n_train"], metrics["n_test"]) == (N, 0)
    assert read_table(tmp_path / "out" / "predictions.csv")[1] == []


def test_without_a_test_split_predictions_come_from_the_other_folds(fit, tmp_path):
    path = write_view(tmp_path / "all.h5", labels=digit_labels(), splits=[""] * N)
    fit(path, "--cv", "3")
    values, labels, _ = read_plainly(path)
    _, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert len(rows) == N
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(values, labels):
        model = plain_model().fit(values[train], labels[train])
        found = np.array([rows[row][3:] for row in test], float)
        np.testing.assert_allclose(found, model.predict_proba(values[test]), atol=2e-4)


def test_the_same_fit_twice_leaves_the_same_predictions(view, fit, tmp_path):
    fit(view, "--cv", "2", out=tmp_path / "a")
    fit(view, "--cv", "2", out=tmp_path / "b")
    first, second = ((tmp_path / name / "predictions.csv").read_bytes() for name in "ab")
    assert first == second


STRANGE = {
    "commas and quotes": ["a,b", 'say "c"', "d'e", ";"],
    "line breaks": ["two\nlines", "two\r\nlines", "carriage\rreturn", "tab\there"],
    "numbers": ["1", "10", "2", "1.0"],
    "words of CSV readers": ["nan", "None", "true", "path"],
    "not UTF-8": ["caf\udce9", "\udcff", "naïve", "猫"],
    "blanks": [" a", "a", "a ", "  "],
}


@pytest.mark.parametrize("names", STRANGE.values(), ids=STRANGE)
def test_strange_class_names_survive(fit, tmp_path, names):
    labels = np.array(names)[load_digits().target[:N] % len(names)]
    path = write_view(tmp_path / "strange.h5", labels=labels)
    metrics = fit(path)
    assert metrics["classes"] == sorted(names)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["classes"] == sorted(names)
    header, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert header[3:] == [{"path": "p:path"}.get(name, name) for name in sorted(names)]
    assert [row[1] for row in rows] == labels[SPLITS == "test"].tolist()
    assert {row[2] for row in rows} <= set(names)
    from permafrost.stages.heads import load_head

    assert load_head(tmp_path / "out" / "head").classes.tolist() == sorted(names)


def test_a_class_that_only_test_rows_have_counts_as_wrong(fit, tmp_path, caplog):
    labels = digit_labels()
    stranger = np.flatnonzero(SPLITS == "test")[:10]
    labels[stranger] = "unheard of"
    metrics = fit(write_view(tmp_path / "some.h5", labels=labels))
    values, *_ = read_plainly(tmp_path / "some.h5")
    test = SPLITS == "test"
    model = plain_model().fit(values[FITTED], labels[FITTED])
    assert "unheard of" not in metrics["classes"]
    assert "10 test rows count as wrong" in caplog.text
    assert metrics["accuracy"] == np.mean(model.predict(values[test]) == labels[test])
    assert np.isfinite(metrics["log_loss"])


@pytest.mark.parametrize("only", ["val", "train"])
def test_out_of_fold_predictions_know_the_classes_of_val_rows(fit, tmp_path, only):
    labels, splits = digit_labels(), np.where(SPLITS == "val", "val", "train")
    splits[:10] = only
    labels[np.flatnonzero(splits == only)[:10]] = "rare"
    labels[5] = ""
    path = write_view(tmp_path / "some.h5", labels=labels, splits=splits)
    metrics = fit(path, "--cv", "2")
    assert ("rare" in metrics["classes"]) == (only == "train")
    header, rows = read_table(tmp_path / "out" / "predictions.csv")
    assert "rare" in header
    assert [row[1] for row in rows] == labels.tolist()
    np.testing.assert_allclose(np.array(rows)[:, 3:].astype(float).sum(axis=1), 1, atol=1e-9)
    assert all(row[2] == header[3 + int(np.argmax(np.array(row[3:], float)))] for row in rows)


def test_a_fit_that_stops_half_way_vouches_for_nothing(view, fit, command, tmp_path, monkeypatch):
    fit(view)
    assert (tmp_path / "out" / "model.json").exists()

    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("permafrost.pipeline.models.answers.Answers.write", stop)
    answer = command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--set", "C=9"),
        *("--out", tmp_path / "out"),
    )
    assert (answer.status, answer.err.count("\n")) == (143, 1)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_second_fit_replaces_the_first(view, fit, tmp_path):
    fit(view, "--set", "C=0.001")
    last = fit(view, "--set", "C=1")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == last
    assert json.loads((tmp_path / "out" / "head" / "head.json").read_text())["settings"]["C"] == 1
