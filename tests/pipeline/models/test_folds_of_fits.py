"""What `fit`, `sweep` and `run` say of folds and groups, and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.helpers.answers import Command
from tests.helpers.views import LAYER, write_features

N = 200
PIXELS = load_digits().data[:N].astype(np.float32)
LABELS = np.array([f"digit {digit}" for digit in load_digits().target[:N]])
PATIENTS = [f"patient {row // 4}" for row in range(N)]
SPLITS = ["train", "train", "val", "test"] * (N // 4)


def write_view(folder: Path, *, labels=LABELS, splits=None, columns=None) -> Path:
    splits = [""] * N if splits is None else splits
    file = folder / "features.h5"
    return write_features(file, {LAYER: PIXELS}, labels=labels, splits=splits, columns=columns)


def fit(command: Command, view: Path, *options: object):
    return command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "nearest_mean"),
        *("--out", view.parent / "fit", "--json", *options),
    )


def sweep(command: Command, view: Path, *options: object):
    return command(
        *("sweep", "--features", view, "--heads", "nearest_mean,ridge", "--jobs", 1),
        *("--out", view.parent / "sweep", "--json", *options),
    )


# Before anything is fitted


def test_impossible_folds_are_found_before_anything_is_fitted(command, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a head was fitted")

    monkeypatch.setattr("permafrost.pipeline.models.fit.fit_head", fail)
    answer = fit(command, write_view(tmp_path), "--cv", 90)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "fewer than 90 folds" in answer.err
    assert not (tmp_path / "fit").exists()


def test_a_class_of_one_image_does_not_end_a_sweep(command, tmp_path, caplog):
    labels = np.array(["even", "odd"])[load_digits().target[:N] % 2]
    labels[7] = "lone"
    answer = sweep(command, write_view(tmp_path, labels=labels))
    assert [one["error"] for one in answer.figures["configurations"]] == [None, None]
    (line,) = [text for text in caplog.messages if "'lone'" in text]
    assert "1 of 200 rows" in line


def test_two_classes_of_which_one_has_one_image_are_refused_by_name(command, tmp_path):
    labels = np.array(["many"] * N)
    labels[7] = "lone"
    answer = sweep(command, write_view(tmp_path, labels=labels))
    assert answer.status == 2
    assert "add images of 'lone'" in answer.err


def test_folds_that_nobody_asked_for_are_as_many_as_there_can_be(command, tmp_path):
    labels = np.array([""] * N, dtype="<U5")
    labels[:7] = ["cat", "dog", "cat", "dog", "cat", "dog", "cat"]
    found = sweep(command, write_view(tmp_path, labels=labels)).figures
    assert [len(one["folds"]) for one in found["configurations"]] == [4, 4]
    assert "give --cv 4" in sweep(command, tmp_path / "features.h5", "--cv", 5).err


# Groups


@pytest.mark.parametrize("call", [fit, sweep])
def test_folds_that_part_a_column_like_a_group_are_warned_of_once(call, command, tmp_path, caplog):
    view = write_view(tmp_path, columns={"patient_id": PATIENTS, "age": PATIENTS})
    assert call(command, view, "--cv", 4).status == 0
    (line,) = [text for text in caplog.messages if "patient_id" in text]
    assert "--group patient_id" in line
    assert "age" not in line.replace("images", "")


@pytest.mark.parametrize("call", [fit, sweep])
def test_a_named_column_keeps_rows_in_one_fold(call, command, tmp_path, caplog):
    view = write_view(tmp_path, columns={"patient_id": PATIENTS})
    found = call(command, view, "--cv", 4, "--group", "patient_id").figures
    assert not [text for text in caplog.messages if "patient_id" in text]
    write_view(tmp_path, columns={"group": PATIENTS})
    as_today = call(command, view, "--cv", 4).figures
    for one, other in ((found, as_today),):
        folds = one.get("folds") or [r["accuracy"] for r in one["configurations"][0]["folds"]]
        same = other.get("folds") or [r["accuracy"] for r in other["configurations"][0]["folds"]]
        assert folds == same


def test_a_column_that_there_is_not_is_one_line(command, tmp_path):
    answer = fit(command, write_view(tmp_path, columns={"patient": PATIENTS}), "--group", "patent")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "did you mean 'patient'?" in answer.err


def test_splits_that_part_a_column_like_a_group_are_warned_of(command, tmp_path, caplog):
    view = write_view(tmp_path, splits=SPLITS, columns={"subject": PATIENTS})
    assert fit(command, view).status == 0
    assert any("the splits part" in text and "'subject'" in text for text in caplog.messages)


def test_index_draws_a_split_by_a_column(command, photos, tmp_path, caplog):
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    table = tmp_path / "table.csv"
    rows = [f"{name},{name.split('/')[0]},p{number // 3}" for number, name in enumerate(names)]
    table.write_text("\n".join(["path,label,patient", *rows]))
    out = tmp_path / "manifest.csv"
    common = ("index", photos, "--labels", f"csv:{table}", "--split", "test=0.4", "--out", out)
    assert command(*common).status == 0
    assert any("--group patient" in text for text in caplog.messages)
    caplog.clear()
    assert command(*common, "--group", "patient").status == 0
    assert caplog.messages == []
    splits: dict[str, set[str]] = {}
    header, *lines = out.read_text().splitlines()
    columns = header.split(",")
    for line in lines:
        cells = dict(zip(columns, line.split(","), strict=True))
        splits.setdefault(cells["patient"], set()).add(cells["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"train", "test"}


# What is ranked and tested


def test_values_are_tested_by_what_they_are_ranked_by(command, tmp_path):
    data = load_diabetes()
    n_rows = len(data.target)
    view = write_features(
        tmp_path / "d.h5",
        {"x": data.data.astype(np.float32)},
        labels=["?"] * n_rows,
        splits=[""] * n_rows,
        columns={"y": data.target},
    )
    options = ("--task", "regression", "--target", "y", "--set", "alpha=1,1.0001,100000")
    found = command(
        *("sweep", "--features", view, "--heads", "ridge", "--jobs", 1, "--json"),
        *("--out", tmp_path / "out", *options),
    ).figures["configurations"]
    assert found[0]["p_value"] is None
    assert found[1]["p_value"] > 0.05
    assert found[2]["p_value"] == pytest.approx(1 / 1001)
    again = command(
        *("sweep", "--features", view, "--heads", "ridge", "--jobs", 1, "--json"),
        *("--out", tmp_path / "out", *options),
    ).figures
    assert again["fitted"] == 0
    assert again["configurations"] == found


def test_a_fit_measures_the_val_split(command, tmp_path):
    view = write_view(tmp_path, splits=SPLITS)
    found = command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--json"),
        *("--out", tmp_path / "fit"),
    ).figures
    splits = np.array(SPLITS)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(PIXELS[splits == "train"], LABELS[splits == "train"])
    val = splits == "val"
    assert found["val_accuracy"] == model.score(PIXELS[val], LABELS[val])
