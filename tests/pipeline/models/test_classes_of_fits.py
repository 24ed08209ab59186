"""``fit --classes``: heads of some classes, which everything tells of in that order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from tests.helpers.digits import digit_labels, read_plainly, read_table, write_view

ORDER = ["digit 7", "digit 1", "digit 4"]
CLASSES = ("--classes", ",".join(ORDER))


def test_only_rows_of_the_classes_are_fitted_and_measured(fit, view, tmp_path):
    metrics = fit(view, *CLASSES, "--set", "scale=none", "--set", "tol=1e-6")
    values, labels, splits = read_plainly(view)
    chosen = np.isin(labels, ORDER)
    is_train, is_test = (chosen & np.isin(splits, names) for names in (["train", ""], ["test"]))
    assert (metrics["n_train"], metrics["n_test"]) == (is_train.sum(), is_test.sum())
    assert metrics["classes"] == metrics["confusion"]["classes"] == ORDER
    assert [one["class"] for one in metrics["per_class"]] == ORDER
    header, rows = read_table(tmp_path / "out/predictions.csv")
    assert header == ["path", "label", "predicted", *ORDER]
    plain = LogisticRegression(max_iter=1000, tol=1e-6).fit(values[is_train], labels[is_train])
    columns = [plain.classes_.tolist().index(name) for name in ORDER]
    expected = plain.predict_proba(values[is_test])[:, columns]
    said = [[float(text) for text in row[3:]] for row in rows]
    np.testing.assert_allclose(said, expected, atol=1e-4)
    predicted = [row[2] for row in rows]
    assert predicted == [ORDER[place] for place in np.argmax(said, axis=1)]
    counts = np.zeros((3, 3), int)
    for row in rows:
        counts[ORDER.index(row[1]), ORDER.index(row[2])] += 1
    assert metrics["confusion"]["counts"] == counts.tolist()


def test_a_view_of_the_classes_alone_gives_the_same_head(fit, view, tmp_path):
    labels = digit_labels()
    metrics = fit(view, *CLASSES, "--cv", "3")
    alone = write_view(tmp_path / "alone.h5", labels=np.where(np.isin(labels, ORDER), labels, ""))
    other = fit(alone, "--cv", "3", out=tmp_path / "other")
    assert (metrics["n_train"], metrics["accuracy"]) == (other["n_train"], other["accuracy"])
    assert metrics["log_loss"] == pytest.approx(other["log_loss"], rel=1e-6)


def test_a_sweep_is_over_rows_of_the_classes(command, view, tmp_path):
    answer = command(
        *("sweep", "--features", view, "--heads", "logreg", "--cv", "3", *CLASSES),
        *("--out", tmp_path / "sweep", "--json"),
    )
    assert answer.status == 0, answer.err
    metrics = json.loads((tmp_path / "sweep/best/metrics.json").read_text())
    assert metrics["classes"] == ORDER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--classes", "digit 1,digit 11"), "unknown class 'digit 11' in "),
        ((*CLASSES, "--task", "multilabel"), "--classes goes with --task classification"),
    ],
)
def test_classes_that_cannot_be_are_one_line(refused_fit, view, options, said):
    assert said in refused_fit(view, *options)


@pytest.fixture
def fitted(extract, command, tmp_path):
    """Fit a head on images, whose classes are told in an order that is not that of the alphabet."""
    out = tmp_path / "images.h5"
    extract("--size", "16", model="none", layers="pixels", out=out)
    fitting = ("--layer", "pixels", "--head", "logreg", "--classes", "flower,china")
    answer = command("fit", "--features", out, *fitting, "--out", tmp_path / "model", "--json")
    assert answer.figures["classes"] == ["flower", "china"]
    return tmp_path / "model"


def test_predictions_and_exports_keep_the_order(fitted, command, photos, tmp_path):
    out = tmp_path / "predictions.csv"
    options = ("--images", photos, "--cache", tmp_path / "cache", "--out", out)
    assert command("predict", "--model", fitted, *options).status == 0
    header, rows = read_table(out)
    assert header[3:] == ["flower", "china"]
    exported = tmp_path / "classifier.keras"
    answer = command("export", "--model", fitted, "--out", exported, "--json")
    assert answer.figures["classes"] == ["flower", "china"]
    images = [
        keras.utils.img_to_array(
            keras.utils.load_img(photos / row[0], target_size=(16, 16), interpolation="bilinear")
        )
        for row in rows
    ]
    model = keras.saving.load_model(exported, safe_mode=True)
    said = model.predict(np.stack(images).astype(np.uint8), verbose=0)
    expected = [[float(text) for text in row[3:]] for row in rows]
    np.testing.assert_allclose(said, expected, atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_an_experiment_of_some_classes(command, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "china", photos / "boat")
    experiment = {
        "images": "photos",
        "classes": ["flower", "china"],
        "backbones": [{"name": "none", "size": 16, "layers": ["pixels"]}],
        "heads": [{"kind": "ridge"}],
        "cv": 2,
        "out": "runs",
    }
    file = Path("experiment.yaml")
    file.write_text(yaml.safe_dump(experiment))
    found = command("run", file, "--json").figures
    assert found["best_metrics"]["classes"] == ["flower", "china"]
    assert found["extractions"][0]["images"] == 12
    assert command("run", file, "--json").figures["fitted"] == 0
    file.write_text(yaml.safe_dump(experiment | {"classes": "china,flower"}))
    again = command("run", file, "--json").figures
    assert (again["fitted"], again["best_metrics"]["classes"]) == (2, ["china", "flower"])
    for wrong, said in (([], "classes"), (["flower", "chima"], "did you mean 'china'?")):
        file.write_text(yaml.safe_dump(experiment | {"classes": wrong}))
        answer = command("run", file)
        assert answer.status == 2
        assert said in answer.err
