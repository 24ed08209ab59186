"""From photos to one Keras file on the real command line, answered by a Python without us."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from permafrost.pipeline.cli.main import main
from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import write_model, write_photos

TOLERANCE = 1e-4
SPLIT = "test=0.3"
# Loads every model of a folder and feeds it photos as Keras itself loads them.
STRANGER = """
import json, sys
from pathlib import Path
import keras, numpy as np
folder, table = Path(sys.argv[1]), json.loads(sys.argv[2])
photos = [keras.utils.load_img(path, target_size=(32, 32), interpolation="bilinear")
          for path in table]
images = np.stack([keras.utils.img_to_array(photo) for photo in photos]).astype("uint8")
for file in folder.glob("*.keras"):
    model = keras.saving.load_model(file, safe_mode=True)
    np.save(folder / f"{file.stem}.npy", model.predict(images, verbose=0))
ours = {"pipeline", "stages", "cache", "permafrost", "skops"}
print(json.dumps(sorted(ours & {name.split(".")[0] for name in sys.modules})))
"""


@dataclass(frozen=True)
class Case:
    """A fit: on which files and layers, of which head."""

    features: tuple[str, ...]
    layer: str
    head: tuple[str, ...]


TAGS = ("--task", "multilabel", "--target", "tags")
NUMBERS = ("--task", "regression", "--target", "redness")
SMALL_MLP = ("mlp", "--set", "hidden=8", "--set", "epochs=3")
CASES = {
    "two-layers": Case(("small",), "second:avg+last:max", ("logreg",)),
    "two-backbones": Case(("small", "other"), "last:avg", ("linear_svm",)),
    "two-backbones-two-layers": Case(("other", "small"), "last:avg+last:max", SMALL_MLP),
    "derived": Case(("small",), "first:avg", ("logreg", "--set", "C=0.1")),
    "derived-and-map": Case(("small",), "first:max+first", ("nearest_mean",)),
    "by-layer": Case(("small", "other"), "all:avg", ("logreg", "--set", "scale=layer")),
    "head2toe": Case(("small",), "all+first:grid3", ("head2toe", "--set", "share=0.1")),
    "mirrored": Case(("mirrored",), "last:avg", ("ridge",)),
    "both-views": Case(("small", "mirrored"), "last:avg", ("logreg", "--set", "scale=l2")),
    "images": Case(("images",), "pixels", ("logreg", "--set", "C=0.001")),
    "images-mlp": Case(("images",), "pixels", SMALL_MLP),
    "images-beside": Case(("images", "small"), "pixels+last:avg", ("ridge",)),
    "images-both-views": Case(("images", "mirrored"), "pixels", ("linear_svm",)),
    "value": Case(("small",), "last:avg", ("ridge", *NUMBERS)),
    "value-mlp": Case(("small",), "last:avg", (*SMALL_MLP, *NUMBERS)),
    "tags": Case(("small",), "last:avg", ("logreg", *TAGS)),
    "tags-mlp": Case(("small", "other"), "last:avg", (*SMALL_MLP, *TAGS)),
}


def call(*arguments: object) -> dict[str, Any]:
    """Call the command line in this process; returns the figures that it printed."""
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in signals]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments] + ["--json"])
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)
    assert status == 0
    figures: dict[str, Any] = json.loads(printed.getvalue().splitlines()[-1])
    return figures


def write_table(photos: Path) -> Path:
    """List the photos with a class, tags and a number each, which follow from their pixels."""
    lines = ["path,label,tags,redness"]
    for path in sorted(photos.glob("*/*.jpg")):
        red = float(np.asarray(Image.open(path))[..., 0].mean())
        tags = ";".join([path.parent.name] + ["bright"] * (red > 110))
        lines.append(f"{path.relative_to(photos)},{path.parent.name},{tags},{red:.2f}")
    (photos / "photos.csv").write_text("\n".join(lines) + "\n")
    return photos / "photos.csv"


def extract(home: Path, name: str, model: str, layers: str, *options: str) -> dict[str, Any]:
    return call(
        *("extract", "--images", home / "photos" / "photos.csv", "--split", SPLIT),
        *("--backbone", model if model == "none" else home / model, "--layers", layers),
        *("--cache", home / "cache"),
        *("--out", home / f"{name}.h5", *options),
    )


def fit(home: Path, name: str, case: Case) -> dict[str, Any]:
    files = [text for file in case.features for text in ("--features", str(home / f"{file}.h5"))]
    head = ("--head", *case.head)
    return call("fit", *files, "--layer", case.layer, *head, "--out", home / "models" / name)


def predict(home: Path, name: str, *, cache: str = "cache") -> dict[str, Any]:
    return call(
        *("predict", "--model", home / "models" / name, "--cache", home / cache),
        *("--images", home / "photos" / "photos.csv", "--out", home / f"{name}.csv"),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract with two backbones and two views; fit, predict and export every case."""
    home = tmp_path_factory.mktemp("joins")
    write_table(write_photos(home / "photos", n_each=12))
    write_model(home / "small.keras")
    write_model(home / "other.keras", seed=1)
    extract(home, "small", "small.keras", "first,second:avg,last:avg,last:max")
    extract(home, "other", "other.keras", "last:avg")
    extract(home, "mirrored", "small.keras", "last:avg,pixels", "--view", "hflip")
    extract(home, "images", "none", "pixels", "--size", "32")
    for name, case in CASES.items():
        fit(home, name, case)
        predict(home, name)
        call("export", "--model", home / "models" / name, "--out", home / f"{name}.keras")
    return home


@pytest.fixture(scope="module")
def answers(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[Any]]:
    """What a Python without this project says of the photos, in the order of their table."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in CASES:
        shutil.copy(home / f"{name}.keras", folder)
    photos = [str(home / "photos" / row["path"]) for row in read_rows(home / "photos/photos.csv")]
    answer = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(folder), json.dumps(photos)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(answer.stdout.splitlines()[-1]) == []
    return {name: np.load(folder / f"{name}.npy") for name in CASES}


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read_outputs(file: Path) -> dict[str, list[float]]:
    """Return the outputs for each path: probabilities, or the value."""
    found = {}
    for row in read_rows(file):
        path, _, value, *probabilities = row.values()
        found[path] = [float(one) for one in probabilities or [value]]
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_exported_model_says_what_predict_does(
    home: Path, answers: dict[str, NDArray[Any]], name: str
) -> None:
    expected = np.array(list(read_outputs(home / f"{name}.csv").values()))
    assert answers[name].shape == expected.shape
    # Values have a size of their own, probabilities that of 1.
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(answers[name], expected, atol=TOLERANCE * scale, rtol=0)
    assert np.ptp(expected, axis=0).max() > 0.05  # not the same for every photo


@pytest.mark.parametrize("name", CASES)
def test_predict_on_the_same_photos_says_what_the_head_did(home: Path, name: str) -> None:
    fitted = read_outputs(home / "models" / name / "predictions.csv")
    predicted = read_outputs(home / f"{name}.csv")
    assert len(fitted) >= 6
    assert len(predicted) == 24
    same = [predicted[path] for path in fitted]
    np.testing.assert_allclose(same, list(fitted.values()), rtol=1e-5, atol=1e-5)


def test_an_exported_model_says_what_its_outputs_stand_for(home: Path) -> None:
    classes = {"two-backbones": ["china", "flower"], "tags": ["bright", "china", "flower"]}
    for name, expected in (classes | {"value": []}).items():
        with ZipFile(home / f"{name}.keras") as archive:
            record = json.loads(archive.read("classifier.json"))
        assert record["classes"] == expected
        assert record["pixels"]["resize"] == "bilinear"


# predict


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Which backbones are loaded for which layers."""
    from permafrost.pipeline.computing import compute as module

    loaded: list[tuple[str, tuple[str, ...]]] = []
    compute = module.compute_missing

    def note(options: Any, *rest: Any, **named: Any) -> None:
        loaded.append((Path(options.features.backbone).name, options.features.layers))
        compute(options, *rest, **named)

    monkeypatch.setattr(module, "compute_missing", note)
    yield loaded


def test_predict_runs_each_backbone_once_for_all_its_layers(
    home: Path, spied: list[tuple[str, tuple[str, ...]]]
) -> None:
    figures = predict(home, "two-backbones-two-layers", cache="fresh")
    assert spied == [("other.keras", ("last:avg",)), ("small.keras", ("last:avg", "last:max"))]
    assert (figures["images"], figures["computed"], figures["reused"]) == (24, 24, 0)
    spied.clear()
    # Both layers of a model that wants one backbone less are there.
    figures = predict(home, "two-backbones", cache="fresh")
    assert spied == []
    assert (figures["images"], figures["computed"], figures["reused"]) == (24, 0, 24)


def test_predictions_are_scored_on_the_column_that_the_head_was_fitted_on(home: Path) -> None:
    table = {row["path"]: row for row in read_rows(home / "photos/photos.csv")}
    for name, column, metric in (
        ("value", "redness", "r2"),
        ("tags", "tags", "mean_average_precision"),
        ("derived", "label", "accuracy"),
    ):
        figures = predict(home, name)
        assert 0.5 < figures[metric] <= 1
        for row in read_rows(home / f"{name}.csv"):
            assert row["label"] == table[row["path"]][column]


def test_images_without_the_column_are_predicted_and_not_scored(
    home: Path, command: Command, tmp_path: Path
) -> None:
    answer = command(
        *("predict", "--model", home / "models" / "value", "--images", home / "photos/china"),
        *("--cache", home / "cache", "--out", tmp_path / "new.csv", "--json"),
    )
    assert (answer.figures["images"], answer.figures.get("r2")) == (12, None)
    assert {row["label"] for row in read_rows(tmp_path / "new.csv")} == {""}


def test_labels_of_another_kind_do_not_spoil_predictions(
    home: Path, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = tmp_path / "numbers.csv"
    rows = read_rows(home / "photos" / "photos.csv")
    lines = [f"{home / 'photos' / row['path']},{row['redness']}" for row in rows]
    numbers.write_text("\n".join(["path,label", *lines]) + "\n")
    for arguments in (
        (
            "extract",
            "--images",
            numbers,
            "--backbone",
            home / "small.keras",
            "--layers",
            "last:avg",
        ),
        ("fit", "--layer", "last:avg", "--head", "ridge", "--task", "regression", "--cv", 2),
        ("predict", "--model", tmp_path / "model", "--images", home / "photos"),
    ):
        places = {
            "extract": ("--cache", home / "cache", "--out", tmp_path / "f.h5"),
            "fit": ("--features", tmp_path / "f.h5", "--out", tmp_path / "model"),
            "predict": ("--cache", home / "cache", "--out", tmp_path / "new.csv"),
        }
        assert command(*arguments, *places[str(arguments[0])]).status == 0
    assert "not scored: label 'china' of 'china/0000.jpg' is not a finite number" in caplog.text
    assert len(read_rows(tmp_path / "new.csv")) == 24


def test_an_image_that_is_broken_for_both_backbones_is_listed_once(
    home: Path, command: Command, tmp_path: Path
) -> None:
    shutil.copytree(home / "photos", tmp_path / "photos")
    broken = tmp_path / "photos" / "china" / "0003.jpg"
    broken.write_bytes(broken.read_bytes()[:50])
    answer = command(
        *("predict", "--model", home / "models/two-backbones", "--cache", tmp_path / "cache"),
        *("--images", tmp_path / "photos/photos.csv", "--out", tmp_path / "new.csv", "--json"),
    )
    assert (answer.figures["images"], answer.figures["failed"]) == (24, 1)
    assert [row["path"] for row in read_rows(Path(answer.figures["failures"]))] == [
        "china/0003.jpg"
    ]
    expected = read_outputs(home / "two-backbones.csv")
    del expected["china/0003.jpg"]
    found = read_outputs(tmp_path / "new.csv")
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6)


# Bad input

Refuse = Callable[..., str]


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A copy of a model and its backbone, so that each can be damaged."""
    model = tmp_path / "model"
    shutil.copytree(home / "models" / "two-layers", model)
    shutil.copy(home / "small.keras", tmp_path)
    change_parts(model, features={"backbone": str(tmp_path / "small.keras")})
    return tmp_path


def change_parts(model: Path, **changes: dict[str, Any]) -> None:
    file = model / "model.json"
    record = json.loads(file.read_text())
    for part in record["parts"]:
        for name, change in changes.items():
            part[name] |= change
    file.write_text(json.dumps(record))


@pytest.fixture
def refuse(command: Command, place: Path) -> Refuse:
    """Export in vain; returns the one line that was answered."""

    def call(
        model: Path = place / "model", out: Path = place / "out.keras", status: int = 2
    ) -> str:
        answer: Answer = command("export", "--model", model, "--out", out)
        assert (answer.status, answer.out) == (status, "")
        assert answer.err.startswith("permafrost: ")
        assert answer.err.count("\n") == 1
        return answer.err

    return call


def test_a_backbone_that_changed_is_refused_as_by_predict(
    home: Path, place: Path, refuse: Refuse, command: Command
) -> None:
    write_model(place / "small.keras", seed=2)
    line = refuse()
    assert "fit again" in line
    assert not (place / "out.keras").exists()
    answer = command(
        *("predict", "--model", place / "model", "--images", home / "photos"),
        *("--cache", place / "cache", "--out", place / "new.csv"),
    )
    assert (answer.status, answer.err) == (2, line)


def test_a_backbone_that_is_gone_is_named(place: Path, refuse: Refuse) -> None:
    (place / "small.keras").unlink()
    assert str(place / "small.keras") in refuse()


def test_damaged_models_are_one_line(place: Path, refuse: Refuse) -> None:
    record = place / "model" / "model.json"
    whole = record.read_text()
    record.write_text(whole.replace('"resize"', '"rezise"'))
    assert "fit again" in refuse()
    record.write_text(whole[:100])
    assert "model.json" in refuse()
    record.unlink()
    assert "holds no fitted model" in refuse()


def test_training_rows_are_no_keras_model(home: Path, refuse: Refuse) -> None:
    fit(home, "knn", Case(("small",), "last:avg", ("knn",)))
    line = refuse(home / "models" / "knn")
    assert "'knn'" in line
    assert "logreg" in line


def test_layers_of_differently_resized_images_are_no_one_model(home: Path, refuse: Refuse) -> None:
    extract(home, "nearest", "other.keras", "last:avg", "--resize", "nearest")
    fit(home, "resized", Case(("small", "nearest"), "last:avg", ("logreg",)))
    line = refuse(home / "models" / "resized")
    assert "extract both alike" in line
    assert "(resize bilinear and nearest)" in line


def test_an_out_that_cannot_be_written_is_one_line(place: Path, refuse: Refuse) -> None:
    assert ".keras" in refuse(out=place / "out.h5")
    (place / "folder.keras").mkdir()
    assert "folder.keras" in refuse(out=place / "folder.keras")
    assert list((place / "folder.keras").iterdir()) == []
