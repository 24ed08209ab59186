from __future__ import annotations

import csv
import json
import signal

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss, mean_absolute_error, r2_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.pipeline.cli.main import main
from tests.views import LAYER, write_features

N = 300
SPLITS = np.array(["train", "test", "train", "val", ""] * (N // 5))
FITTED = np.isin(SPLITS, ("train", ""))


def write_view(path, *, labels, splits=SPLITS, change=None, **more):
    """Write a features.h5 of digits; `change` says which rows are to be others."""
    values = load_digits().data[: len(labels)].astype(np.float32)
    if change is not None:
        values[change] += 1e6
    return write_features(path, {LAYER: values}, labels=labels, splits=splits, **more)


def digit_labels(*, n_rows=N):
    return np.array([f"digit {digit}" for digit in load_digits().target[:n_rows]])


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return write_view(tmp_path_factory.mktemp("digits") / "features.h5", labels=digit_labels())


@pytest.fixture
def command(capsys):
    """Call the command line in this process; its signal handlers do not outlive the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fit(command, tmp_path):
    """Fit a logistic regression; returns the metrics that were printed."""

    def call(features, *options, out=tmp_path / "out", layer=LAYER):
        status, printed, errors = command(
            *("fit", "--features", features, "--layer", layer, "--head", "logreg"),
            *("--out", out, "--json", *options),
        )
        assert status == 0, errors
        return json.loads(printed.splitlines()[-1], parse_constant=pytest.fail)

    return call


@pytest.fixture
def refused(command, tmp_path):
    """Call something wrong; returns the one line that was answered."""

    def call(*arguments, status=2):
        found, printed, errors = command(*arguments)
        assert (found, printed) == (status, "")
        assert errors.startswith("permafrost: ") and errors.count("\n") == 1
        return errors

    return call


@pytest.fixture
def refused_fit(refused, tmp_path):
    def call(features, *options, layer=LAYER, head="logreg", out=tmp_path / "out", status=2):
        arguments = ("--features", features, "--layer", layer, "--head", head, "--out", out)
        return refused("fit", *arguments, *options, status=status)

    return call


def read_table(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


def read_plainly(path):
    """Read values, labels and splits as a stranger does."""
    with h5py.File(path) as file:
        values = file[f"features/{LAYER}"][()].reshape(len(file["images/path"]), -1)
        labels, splits = (file[f"images/{name}"].asstr()[()] for name in ("label", "split"))
    return values, labels, splits


def plain_model(c=1.0):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


# What is measured


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
        *("head", "metrics.json", "model.json", "predictions.csv")
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
    status, printed, _ = command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--cv", "2"),
        *("--out", tmp_path),
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert status == 0
    assert f"accuracy {metrics['accuracy']:.4f}" in printed
    assert f"2-fold: accuracy {metrics['cv_accuracy_mean']:.4f}" in printed


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


# Names of classes

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


# Bad input


def test_names_that_do_not_exist_propose_the_nearest(view, refused_fit):
    assert "did you mean 'logreg'?" in refused_fit(view, head="logerg")
    assert "did you mean 'max_iter'?" in refused_fit(view, "--set", "maxiter=3")
    assert LAYER in refused_fit(view, layer="blok:avg")
    assert "did you mean 'avg'?" in refused_fit(view, layer="block:agv")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "C=-1"], "C=-1"),
        (["--set", "C=nan"], "C=nan"),
        (["--set", "C=inf"], "C=inf"),
        (["--set", "C=1e999"], "C=1e999"),
        (["--set", "C=a lot"], "C=a lot"),
        (["--set", "C"], "KEY=VALUE"),
        (["--set", "=1"], "KEY=VALUE"),
        (["--set", "max_iter=1.5"], "max_iter=1.5"),
        (["--set", "scale=big"], "standard, l2, none"),
        (["--cv", "1"], "--cv 2 or more"),
        (["--cv", "-3"], "--cv 2 or more"),
        (["--cv", "40"], "fewer than 40 folds"),
        (["--seed", "-1"], "seed -1"),
        (["--seed", str(2**32)], f"seed {2**32}"),
    ],
)
def test_bad_values_are_named(view, refused_fit, options, says):
    assert says in refused_fit(view, *options)


@pytest.mark.parametrize(
    ("labels", "splits", "says"),
    [
        ([""] * 40, ["train"] * 40, "--labels"),
        (["cat"] * 40, ["train"] * 40, "all 40 training rows are labelled 'cat'"),
        (["cat", "dog"] * 20, ["train", "test"] * 20, "all 20 training rows are labelled 'cat'"),
        (["cat", "dog"] * 20, ["test"] * 40, "--split test=0.3"),
        (["cat", "dog"] * 20, ["val"] * 40, "--split test=0.3"),
    ],
    ids=["no label", "one class", "one class to train on", "all test", "all val"],
)
def test_rows_that_no_head_can_be_fitted_on_are_one_line(
    refused_fit, tmp_path, labels, splits, says
):
    path = write_view(tmp_path / "some.h5", labels=labels, splits=splits)
    assert says in refused_fit(path)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_file_that_is_no_features_file_is_one_line(refused_fit, tmp_path):
    assert "extract" in refused_fit(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("path,label\n")
    assert "text.h5" in refused_fit(tmp_path / "text.h5")
    assert str(tmp_path) in refused_fit(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert "/images/digest" in refused_fit(tmp_path / "other.h5")


def test_a_features_file_that_does_not_say_how_it_was_made_is_refused(refused_fit, tmp_path):
    path = write_view(tmp_path / "old.h5", labels=digit_labels(), origin="")
    assert "extract" in refused_fit(path)
    assert not (tmp_path / "out" / "model.json").exists()


def test_features_without_labels_or_splits_are_damaged(refused_fit, tmp_path):
    path = write_view(tmp_path / "some.h5", labels=digit_labels())
    with h5py.File(path, "a") as file:
        del file["images/split"]
    assert "damaged" in refused_fit(path, status=3)


def test_nan_is_never_fitted_on(refused_fit, tmp_path):
    path = write_view(tmp_path / "some.h5", labels=digit_labels())
    with h5py.File(path, "a") as file:
        file[f"features/{LAYER}"][0, 5] = np.nan
    assert "NaN" in refused_fit(path)


def test_an_out_that_is_a_file_is_named(view, refused_fit, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("precious")
    assert "notes.txt" in refused_fit(view, out=file, status=3)
    assert "notes.txt" in refused_fit(view, out=file / "below", status=3)
    assert file.read_text() == "precious"


# What an earlier fit left


def test_a_fit_that_stops_half_way_vouches_for_nothing(view, fit, command, tmp_path, monkeypatch):
    fit(view)
    assert (tmp_path / "out" / "model.json").exists()

    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("permafrost.pipeline.models.fit.write_predictions", stop)
    status, _, errors = command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--set", "C=9"),
        *("--out", tmp_path / "out"),
    )
    assert (status, errors.count("\n")) == (143, 1)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_second_fit_replaces_the_first(view, fit, tmp_path):
    fit(view, "--set", "C=0.001")
    last = fit(view, "--set", "C=1")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == last
    assert json.loads((tmp_path / "out" / "head" / "head.json").read_text())["settings"]["C"] == 1


# Other tasks


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


def fit_head(command, features, *options, out):
    status, printed, errors = command(
        *("fit", "--features", features, "--layer", LAYER, "--out", out, "--json", *options)
    )
    assert status == 0, errors
    return json.loads(printed.splitlines()[-1], parse_constant=pytest.fail)


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


# What may be trusted


def test_images_that_are_nearly_in_the_training_rows_are_reported(command, tmp_path, caplog):
    values = load_digits().data[:N].astype(np.float32)
    labels, splits = digit_labels(), np.array(["train", "test"] * (N // 2))
    values[1], values[11] = values[0] * 1.01, values[20] + 0.01
    path = write_features(tmp_path / "n.h5", {LAYER: values}, labels=labels, splits=splits)
    status, _, _ = command(
        *("fit", "--features", path, "--layer", LAYER, "--head", "nearest_mean"),
        *("--out", tmp_path / "out"),
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert status == 0
    pairs = [pair[:2] for pair in metrics["near_duplicate_pairs"]]
    assert ["0001.png", "0000.png"] in pairs
    assert ["0011.png", "0020.png"] in pairs
    assert metrics["near_duplicates"] == len(pairs)
    assert f"{len(pairs)} of 150 test images are nearly training images" in caplog.text


def test_the_interval_of_the_test_score_holds_it(view, fit):
    metrics = fit(view)
    low, high = metrics["interval"]
    n, p = metrics["n_test"], metrics["accuracy"]
    assert low < p < high
    # The normal approximation of a share's interval, which resampling comes near.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.35)


def test_figures_per_class_add_up(view, fit):
    metrics = fit(view)
    counts = np.array(metrics["confusion"]["counts"])
    assert metrics["confusion"]["classes"] == metrics["classes"]
    assert counts.sum() == metrics["n_test"]
    assert np.trace(counts) / counts.sum() == metrics["accuracy"]
    assert [row["support"] for row in metrics["per_class"]] == counts.sum(axis=1).tolist()


# Layers side by side, and memory


def test_layers_of_two_files_are_one_matrix(command, tmp_path):
    values = load_digits().data[:N].astype(np.float32)
    left = write_features(
        tmp_path / "l.h5", {"a": values[:, :40]}, labels=digit_labels(), splits=SPLITS
    )
    shuffled = np.random.default_rng(1).permutation(N)
    right = write_features(
        tmp_path / "r.h5",
        {"b": values[shuffled, 40:]},
        labels=[""] * N,
        splits=[""] * N,
        numbers=shuffled,
    )
    status, printed, errors = command(
        *("fit", "--features", left, "--features", right, "--layer", "a+b", "--head", "logreg"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert status == 0, errors
    whole = write_view(tmp_path / "w.h5", labels=digit_labels())
    expected = fit_head(command, whole, "--head", "logreg", out=tmp_path / "whole")
    assert json.loads(printed)["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-3)
    assert [
        part["layer"] for part in json.loads((tmp_path / "out" / "model.json").read_text())["parts"]
    ] == ["a", "b"]


def test_one_layer_name_stands_for_that_layer_of_every_file(command, tmp_path):
    values = load_digits().data[:N].astype(np.float32)
    files = [
        write_features(
            tmp_path / f"{i}.h5", {"avg_pool": part}, labels=digit_labels(), splits=SPLITS
        )
        for i, part in enumerate(np.split(values, 2, axis=1))
    ]
    named = [text for file in files for text in ("--features", file)]
    status, _, errors = command(
        *("fit", *named, "--layer", "avg_pool", "--head", "ridge", "--out", tmp_path / "out"),
        "--json",
    )
    assert status == 0, errors
    head = json.loads((tmp_path / "out" / "head" / "head.json").read_text())
    assert head["n_features"] == values.shape[1]


def test_files_without_a_common_image_are_one_line(refused, tmp_path):
    values = load_digits().data[:20].astype(np.float32)
    options = {"labels": digit_labels(n_rows=20), "splits": [""] * 20}
    one = write_features(tmp_path / "1.h5", {"a": values}, **options)
    two = write_features(tmp_path / "2.h5", {"b": values}, numbers=range(100, 120), **options)
    line = refused(
        *("fit", "--features", one, "--features", two, "--layer", "a+b", "--head", "logreg"),
        *("--out", tmp_path / "out"),
    )
    assert "no image in common" in line


def test_a_fit_that_needs_more_memory_says_how_much(refused_fit, view):
    line = refused_fit(view, "--memory", "100KB", head="knn")
    assert "--memory" in line
    assert "100" in line or "0.0001" in line
