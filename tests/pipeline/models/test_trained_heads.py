"""Networks trained on cached layers: the same as trained whole, kept, and used as backbones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from permafrost import open_features
from tests.helpers.answers import Command
from tests.helpers.extracted import read_plain
from tests.helpers.inputs import SIZE, write_model

QUICK = ("--set", "epochs=3", "--set", "patience=0", "--set", "batch_size=4")


@pytest.fixture
def features(extract: Command, tmp_path: Path) -> Path:
    extract("--split", "test=0.25", layers="first,last:avg,pixels")
    return tmp_path / "features.h5"


def train(command: Command, features: Path, *options: object, layer: str = "first") -> Path:
    out = features.parent / "trained"
    arguments = ("--features", features, "--layer", layer, "--head", "finetune", "--out", out)
    answer = command("fit", *arguments, *QUICK, *options)
    assert answer.status == 0, answer.err
    return out


def read_epochs(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_it_is_what_keras_trains_with_the_layers_below_frozen(
    command: Command, features: Path, backbone: Path
) -> None:
    import keras

    fixed = ("--set", "optimizer=sgd", "--set", "init=random")
    # In float32 the rate is 0, so that the fit leaves what it began with.
    begun = train(command, features, *fixed, "--set", "learning_rate=1e-300")
    top = keras.models.load_model(begun / "head" / "head.keras").layers[-1].get_weights()
    head = train(command, features, *fixed, "--set", "learning_rate=0.01")
    model = keras.models.load_model(backbone, compile=False)
    model.get_layer("first").trainable = False
    output = keras.layers.Dense(2, activation="softmax")
    whole = keras.Model(
        model.inputs, output(keras.layers.GlobalAveragePooling2D()(model.outputs[0]))
    )
    output.set_weights(top)
    sgd = keras.optimizers.SGD(0.01, momentum=0.9)
    whole.compile(sgd, "sparse_categorical_crossentropy", jit_compile=False)
    with open_features(features) as opened:
        images = opened.to_numpy("pixels").astype(np.float32) / 127.5 - 1
        codes = np.unique(opened.labels, return_inverse=True)[1]
        train_rows = np.flatnonzero(np.array(opened.splits) == "train")
    for epoch in range(3):
        order = np.random.default_rng([0, epoch]).permutation(train_rows)
        whole.fit(images[order], codes[order], batch_size=4, shuffle=False, verbose=0)
    said = [float(row["flower"]) for row in read_epochs(head / "predictions.csv")]
    test_rows = np.setdiff1d(np.arange(len(images)), train_rows)
    expected = whole.predict(images[test_rows], verbose=0)[:, 1]
    assert said == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("settings", [(), ("C", "0.01")], ids=["", "C=0.01"])
def test_before_its_first_step_it_says_what_the_linear_head_says(
    settings: tuple[str, ...], command: Command, features: Path
) -> None:
    # In float32 the rate is 0.
    still = ("--set", "learning_rate=1e-300")
    probe = ("--set", f"probe_{'='.join(settings)}") if settings else ()
    said = read_epochs(train(command, features, *still, *probe) / "predictions.csv")
    linear = features.parent / "linear"
    fit = (
        "fit",
        "--features",
        features,
        "--layer",
        "last:avg",
        "--head",
        "logreg",
        "--out",
        linear,
    )
    command(*fit, *(("--set", "=".join(settings)) if settings else ()), "--out", linear)
    expected = [float(row["flower"]) for row in read_epochs(linear / "predictions.csv")]
    assert [float(row["flower"]) for row in said] == pytest.approx(expected, abs=1e-5)


def test_what_is_kept_predicts_exports_and_is_a_backbone(
    command: Command, extract: Command, features: Path, photos: Path, tmp_path: Path
) -> None:
    import keras

    out = train(command, features, "--set", "warmup=1", "--set", "layer_decay=0.5")
    assert not (out / "training").exists()
    assert [row["epoch"] for row in read_epochs(out / "epochs.csv")] == ["1", "2", "3"]
    command(
        *("predict", "--model", out, "--images", photos, "--out", tmp_path / "p.csv"),
        *("--cache", tmp_path / "cache"),
    )
    said = {row["path"]: float(row["flower"]) for row in read_epochs(tmp_path / "p.csv")}
    for row in read_epochs(out / "predictions.csv"):
        assert said[row["path"]] == pytest.approx(float(row["flower"]), abs=1e-6)
    with open_features(features) as opened:
        paths, images = opened.paths, opened.to_numpy("pixels")
    expected = [said[path] for path in paths]
    command("export", "--model", out, "--out", tmp_path / "classifier.keras")
    exported = keras.models.load_model(tmp_path / "classifier.keras", compile=False)
    assert exported.predict(images, verbose=0)[:, 1] == pytest.approx(expected, abs=1e-5)
    again = tmp_path / "again.h5"
    answer = extract(model=out, layers="probabilities,last:avg", out=again)
    assert answer.status == 0, answer.err
    assert read_plain(again, "probabilities")[:, 1] == pytest.approx(expected, abs=1e-5)


def test_nothing_of_a_network_stays_where_another_head_is_fitted(
    command: Command, features: Path
) -> None:
    out = train(command, features)
    left = [out / name for name in ("backbone.keras", "epochs.csv")]
    assert all(file.exists() for file in left)
    command(
        *("fit", "--features", features, "--layer", "last:avg", "--head", "logreg", "--out", out)
    )
    assert not any(file.exists() for file in left)


def test_folds_and_settings_are_rows_of_one_board(command: Command, features: Path) -> None:
    out = features.parent / "sweep"
    sweep = (
        *("sweep", "--features", features, "--layers", "first", "--heads", "finetune,ridge"),
        *("--set", "weights=backbone,random", *QUICK, "--cv", 2, "--jobs", 1, "--out", out),
    )
    answer = command(*sweep, "--json")
    assert answer.figures["fitted"] == 6, answer.err
    assert all(one["error"] is None for one in answer.figures["configurations"])
    epochs = read_epochs(out / "epochs.csv")
    assert len(epochs) == 2 * 2 * 3
    assert {row["settings"].split()[0] for row in epochs} == {"weights=backbone", "weights=random"}
    assert command(*sweep, "--json").figures["fitted"] == 0
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().split("\n") if line]
    assert sum(len(one.get("epochs", ())) for one in journal) == len(epochs)
    ridge = sweep[: sweep.index("--set")]
    assert command(*ridge, "--heads", "ridge", "--out", out).status == 0
    assert not (out / "epochs.csv").exists()


def test_what_cannot_be_trained_is_one_line(
    command: Command, extract: Command, features: Path, backbone: Path, tmp_path: Path
) -> None:
    def refuse(file: Path, layer: str, *options: object, head: str = "finetune") -> str:
        answer = command(
            *("fit", "--features", file, "--layer", layer, "--head", head),
            *("--out", tmp_path / "refused", *options),
        )
        assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1), answer.err
        return answer.err

    assert "without pooling" in refuse(features, "last:avg")
    assert "height, width and channels" in refuse(features, "last:avg", head="cnn")
    assert "more than the 1MB allowed" in refuse(features, "first", "--memory", "1MB")
    assert "did you mean 'last'" in refuse(features, "first", "--set", "until=lst")
    images = tmp_path / "images.h5"
    extract("--size", SIZE, model="none", layers="pixels", out=images)
    assert "--backbone none" in refuse(images, "pixels")
    own = write_model(tmp_path / "own.keras", seed=1)
    other = tmp_path / "other.h5"
    extract(model=own, layers="first", out=other)
    write_model(own, seed=2)
    assert "no longer the one that the head was fitted on" in refuse(other, "first")
    own.unlink()
    assert "there is no model file" in refuse(other, "first")
