from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.pipeline.cli.main import main

LAYER = "last:avg"
SIDE = 48


def write_crops(root, *, start, n_each, flat=False):
    """Cut scikit-learn's two photographs into JPEG files, of which no two are alike."""
    for label in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{label}.jpg"))
        folder = root if flat else root / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(start, start + n_each):
            left, top = 13 * number % (640 - SIDE), 17 * number % (427 - SIDE)
            crop = photo.crop((left, top, left + SIDE, top + SIDE))
            crop.save(folder / f"{label}-{number}.jpg", quality=90)
    return root


def write_backbone(file, *, seed=0, last="last"):
    from permafrost.stages.frameworks.start import start_tensorflow

    start_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="first"),
            keras.layers.Conv2D(12, 3, strides=2, activation="relu", name=last),
        ],
        name="mobilenet_tiny",
    ).save(file)
    return file


def run_quietly(*arguments):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([str(argument) for argument in arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def command(capsys):
    """Call the command line in this process."""

    def call(*arguments):
        capsys.readouterr()
        status = run_quietly(*arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Extract and fit once; each test has a copy of its own."""
    home = tmp_path_factory.mktemp("predict")
    write_crops(home / "old", start=0, n_each=20)
    write_crops(home / "new", start=20, n_each=6)
    write_backbone(home / "tiny.keras")
    assert extract(home, "old") == 0
    assert fit(home) == 0
    return home


def extract(home, images):
    return run_quietly(
        *("extract", "--images", home / images, "--backbone", home / "tiny.keras"),
        *("--layers", LAYER, "--cache", home / "cache", "--out", home / f"{images}.h5"),
    )


def fit(home, *options):
    return run_quietly(
        *("fit", "--features", home / "old.h5", "--layer", LAYER, "--head", "logreg"),
        *("--out", home / "model", *options),
    )


@pytest.fixture
def place(home, tmp_path):
    """Give a copy of the model and the cache, so that each can be damaged."""
    for name in ("model", "cache"):
        shutil.copytree(home / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def predict(command, home, place):
    def call(*options, images=home / "new", model=place / "model", out=place / "new.csv"):
        return command(
            *("predict", "--model", model, "--images", images, "--out", out),
            *("--cache", place / "cache", *options),
        )

    return call


@pytest.fixture
def predicted(predict):
    """Predict; returns the figures that were printed."""

    def call(**names):
        status, printed, errors = predict("--json", **names)
        assert status == 0, errors
        return json.loads(printed.splitlines()[-1], parse_constant=pytest.fail)

    return call


@pytest.fixture
def refused(predict):
    """Predict in vain; returns the one line that was answered."""

    def call(*options, status=2, **names):
        found, printed, errors = predict(*options, **names)
        assert (found, printed) == (status, ""), errors
        *progress, answer = errors.splitlines()
        assert all("images/s" in line for line in progress)
        assert answer.startswith("permafrost: ")
        return answer

    return call


def read_table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def read_features(path):
    with h5py.File(path) as file:
        labels = file["images/label"].asstr()[()]
        paths = file["images/path"].asstr()[()]
        return file[f"features/{LAYER}"][()], labels, paths


# What is predicted


def test_predict_equals_extract_and_plain_scikit_learn(home, place, predicted):
    figures = predicted()
    assert extract(home, "new") == 0
    old, old_labels, _ = read_features(home / "old.h5")
    new, new_labels, paths = read_features(home / "new.h5")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(old, old_labels)
    header, *rows = read_table(place / "new.csv")
    assert header == ["path", "label", "predicted", "china", "flower"]
    assert [row[0] for row in rows] == paths.tolist()
    assert [row[1] for row in rows] == new_labels.tolist()
    assert [row[2] for row in rows] == model.predict(new).tolist()
    values = np.array(rows)[:, 3:].astype(float)
    np.testing.assert_allclose(values, model.predict_proba(new), atol=2e-4)
    assert figures["accuracy"] == model.score(new, new_labels)
    assert (figures["images"], figures["computed"]) == (12, 12)
    assert figures["predictions"] == str(place / "new.csv")


def test_images_without_labels_are_predicted_and_not_scored(place, predicted, tmp_path):
    figures = predicted(images=write_crops(tmp_path / "flat", start=30, n_each=3, flat=True))
    assert not {"accuracy", "log_loss"} & figures.keys()
    _, *rows = read_table(place / "new.csv")
    assert [row[1] for row in rows] == [""] * 6
    assert {row[2] for row in rows} <= {"china", "flower"}


def test_an_unknown_label_counts_as_wrong(predicted, tmp_path):
    write_crops(tmp_path / "more", start=40, n_each=2)
    (tmp_path / "more" / "flower").rename(tmp_path / "more" / "tulip")
    figures = predicted(images=tmp_path / "more")
    assert figures["accuracy"] <= 0.5
    assert np.isfinite(figures["log_loss"])


def test_a_second_predict_computes_nothing_and_says_the_same(place, predicted):
    predicted()
    first = (place / "new.csv").read_bytes()
    figures = predicted()
    assert (figures["computed"], figures["reused"]) == (0, 12)
    assert (place / "new.csv").read_bytes() == first


def test_predict_from_the_cache_never_imports_tensorflow(home, place, predicted):
    predicted()
    arguments = [
        *("predict", "--model", place / "model", "--images", home / "new"),
        *("--out", place / "again.csv", "--cache", place / "cache"),
    ]
    code = (
        "import sys\nfrom permafrost.pipeline.cli.main import main\n"
        f"status = main({list(map(str, arguments))!r})\n"
        "sys.exit(status or ('tensorflow' in sys.modules) or ('keras' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (place / "again.csv").read_bytes() == (place / "new.csv").read_bytes()


def test_broken_images_are_listed_and_the_others_predicted(place, predicted, tmp_path):
    images = write_crops(tmp_path / "some", start=50, n_each=3)
    whole = (images / "china" / "china-51.jpg").read_bytes()
    (images / "china" / "china-51.jpg").write_bytes(b"no JPEG")
    (images / "flower" / "flower-50.jpg").write_bytes(b"")
    figures = predicted(images=images)
    assert (figures["images"], figures["failed"]) == (6, 2)
    failures = place / "new.csv.failures.csv"
    assert figures["failures"] == str(failures)
    broken = ["china/china-51.jpg", "flower/flower-50.jpg"]
    assert [row[0] for row in read_table(failures)] == ["path", *broken]
    assert not {row[0] for row in read_table(place / "new.csv")} & set(broken)
    assert len(read_table(place / "new.csv")) == 1 + 4
    (images / "china" / "china-51.jpg").write_bytes(whole)
    (images / "flower" / "flower-50.jpg").unlink()
    assert predicted(images=images)["failures"] is None
    assert not failures.exists()


def test_nothing_but_the_predictions_is_left_beside_them(place, predicted, predict, monkeypatch):
    predicted(out=place / "results" / "new.csv")
    assert [path.name for path in (place / "results").iterdir()] == ["new.csv"]

    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("permafrost.pipeline.models.answers.Answers.write", stop)
    status, _, errors = predict(out=place / "stopped" / "new.csv")
    assert (status, errors.count("\n")) == (143, 1)
    assert list((place / "stopped").iterdir()) == []


def test_a_class_that_looks_like_a_formula_or_a_list_survives_the_whole_way(
    home, predicted, tmp_path
):
    names = {"china": 'a,"b"', "flower": "=1+1"}
    write_crops(tmp_path / "old", start=0, n_each=5)
    for old, new in names.items():
        (tmp_path / "old" / old).rename(tmp_path / "old" / new)
    shutil.copy(home / "tiny.keras", tmp_path)
    assert extract(tmp_path, "old") == 0
    shutil.rmtree(tmp_path / "model")
    assert fit(tmp_path) == 0
    predicted()
    header, *rows = read_table(tmp_path / "new.csv")
    # An apostrophe, so that no spreadsheet runs it.
    assert header[3:] == ["'=1+1", 'a,"b"']
    assert {row[2].lstrip("'") for row in rows} <= set(names.values())


# Bad input


def test_a_folder_that_holds_no_model_is_named(home, place, refused):
    (place / "empty").mkdir()
    for model in (place / "absent", place / "empty", home / "old", home / "tiny.keras"):
        answer = refused(model=model)
        assert str(model) in answer
        assert "fit --out" in answer


def change_part(record, **changes):
    """Change what the record says of its one layer; None takes a key away."""
    part = {k: v for k, v in (record["parts"][0] | changes).items() if v is not None}
    return json.dumps(record | {"parts": [part]})


DAMAGE = {
    "cut short": lambda record: json.dumps(record)[:40],
    "empty": lambda record: "",
    "a list": lambda record: "[]",
    "no parts": lambda record: json.dumps(record | {"parts": 1}),
    "not a recipe": lambda record: change_part(record, recipe="recipe"),
    "no layer": lambda record: change_part(record, layer=None),
    "no size": lambda record: change_part(record, features={"backbone": "vgg16"}),
    "unknown option": lambda record: change_part(
        record, features=record["parts"][0]["features"] | {"colour": "red"}
    ),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_file_is_one_line(place, refused, change):
    file = place / "model" / "model.json"
    file.write_text(change(json.loads(file.read_text())))
    answer = refused()
    assert "model.json" in answer
    assert "fit again" in answer


def test_a_model_file_that_is_no_text_is_one_line(place, refused):
    (place / "model" / "model.json").write_bytes(b"\xff\xfe\x00")
    assert "fit again" in refused()


def test_a_damaged_head_is_one_line(place, refused):
    file = place / "model" / "head" / "head.skops"
    file.write_bytes(file.read_bytes()[:100])
    assert "head" in refused()
    shutil.rmtree(place / "model" / "head")
    assert "head" in refused()


@pytest.fixture
def movable(place, home):
    """Make the copied model refer to a copy of the backbone."""
    backbone = place / "tiny.keras"
    shutil.copy(home / "tiny.keras", backbone)
    file = place / "model" / "model.json"
    record = json.loads(file.read_text())
    record["parts"][0]["features"]["backbone"] = str(backbone)
    file.write_text(json.dumps(record))
    return backbone


def test_a_backbone_that_changed_is_refused_before_anything_is_computed(place, movable, refused):
    write_backbone(movable, seed=1)
    before = sorted((place / "cache").rglob("*.h5"))
    answer = refused()
    assert str(movable) in answer
    assert "fit again" in answer
    assert sorted((place / "cache").rglob("*.h5")) == before
    assert not (place / "new.csv").exists()


def test_a_backbone_that_lost_the_layer_is_refused(movable, refused):
    write_backbone(movable, last="other")
    assert "fit again" in refused()


def test_a_backbone_that_is_gone_is_named(movable, refused):
    movable.rename(movable.with_name("moved.keras"))
    assert str(movable) in refused()


def test_a_backbone_that_moved_is_found_by_a_new_fit(home, tmp_path, predicted):
    write_crops(tmp_path / "old", start=0, n_each=5)
    shutil.copy(home / "tiny.keras", tmp_path)
    assert extract(tmp_path, "old") == 0
    assert fit(tmp_path) == 0
    assert predicted()["images"] == 12


def test_images_that_do_not_exist_or_cannot_be_read_are_one_line(refused, tmp_path):
    assert "absent" in refused(images=tmp_path / "absent")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no JPEG")
    assert "a.jpg" in refused(images=tmp_path / "bad")
    assert "a.jpg" in refused("--on-error", "fail", images=tmp_path / "bad", status=3)


def test_an_out_that_cannot_be_written_is_one_line(place, refused):
    (place / "folder").mkdir()
    (place / "file").write_text("precious")
    assert "folder" in refused(out=place / "folder")
    assert "file" in refused(out=place / "file" / "new.csv", status=3)
    assert (place / "file").read_text() == "precious"
    assert list((place / "folder").iterdir()) == []


def test_features_whose_shards_are_gone_name_the_remedy(place, home, command):
    shutil.copy(home / "old.h5", place)
    for shard in (place / "cache").rglob("shard-*.h5"):
        shard.unlink()
    status, printed, errors = command(
        *("fit", "--features", place / "old.h5", "--layer", LAYER, "--head", "logreg"),
        *("--out", place / "again"),
    )
    assert (status, printed, errors.count("\n")) == (3, "", 1)
    assert "repeat the extract" in errors
