"""Exported models in every format, run by the format's own runtime, against ``predict``."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from permafrost.stages.export.formats import FORMATS
from tests.helpers import ROOT
from tests.helpers.inputs import write_model, write_photos

TOLERANCE = 1e-4
SUFFIXES = {"onnx": ".onnx", "saved_model": "", "litert": ".tflite", "openvino": ".xml"}
DETERMINISTIC = ("onnx", "litert", "openvino")
THREE = ("sky", "dark", "flower")
# A head with its calibration, and how many classes it is of.
HEADS = {
    "plain": (2, "logreg"),
    "sigmoid": (2, "linear_svm", "--calibrate", "sigmoid"),
    "mlp-sigmoid": (2, "mlp", "--set", "hidden=8", "--set", "epochs=2", "--calibrate", "sigmoid"),
    "temperature": (3, "ridge", "--calibrate", "temperature"),
    "sigmoids": (3, "linear_svm", "--calibrate", "sigmoid"),
    "mlp-temperature": (3, "mlp", "--set", "hidden=8", "--set", "epochs=2", "--calibrate"),
}


def run(*arguments):
    """Run the command line by itself, as converters leave things behind in a process."""
    done = subprocess.run(
        [sys.executable, "run.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def prepare(home, call):
    write_photos(home / "photos", n_each=20)
    lines = ["path,label,kind"]
    for file in sorted((home / "photos").glob("*/*.jpg")):
        kind = "flower" if file.parent.name == "flower" else THREE[int(file.stem) % 2]
        lines.append(f"{file.relative_to(home / 'photos')},{file.parent.name},{kind}")
    (home / "photos" / "photos.csv").write_text("\n".join(lines) + "\n")
    write_model(home / "small.keras")
    call(
        *("extract", "--images", home / "photos/photos.csv", "--backbone", home / "small.keras"),
        *("--layers", "last:avg", "--cache", home / "cache", "--out", home / "f.h5"),
    )
    for name, (n_classes, *head) in HEADS.items():
        target = ("--target", "kind" if n_classes == 3 else "label")
        call(
            *("fit", "--features", home / "f.h5", "--layer", "last:avg", *target),
            *("--out", home / name, "--head", *head),
        )
        call(
            *("predict", "--model", home / name, "--images", home / "photos/photos.csv"),
            *("--cache", home / "cache", "--out", home / f"{name}.csv"),
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from tests.pipeline.export.test_export import call

    home = tmp_path_factory.mktemp("formats")
    prepare(home, call)
    return home


@pytest.fixture(scope="module")
def photos(home):
    with (home / "photos/photos.csv").open() as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    import keras

    images = [
        keras.utils.img_to_array(
            keras.utils.load_img(
                home / "photos" / path, target_size=(32, 32), interpolation="bilinear"
            )
        )
        for path in paths
    ]
    return np.stack(images).astype(np.uint8)


def run_keras(file, images):
    import keras

    return keras.saving.load_model(file, safe_mode=True).predict(images, verbose=0)


def run_onnx(file, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def run_saved_model(folder, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    return loaded.serve(images).numpy()


def run_litert(file, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    given, told = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(told["index"])


def run_openvino(file, images):
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(file), "CPU", hint)(images)[0]


RUNTIMES = {
    "keras": run_keras,
    "onnx": run_onnx,
    "saved_model": run_saved_model,
    "litert": run_litert,
    "openvino": run_openvino,
}
PACKAGES = {"onnx": "onnxruntime", "litert": "ai_edge_litert", "openvino": "openvino"}


def read_outputs(file):
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return np.array([[float(one) for one in row[3:]] for row in rows])


def need(form):
    for package in (*FORMATS[form].packages, PACKAGES.get(form, "keras")):
        pytest.importorskip(package)


@pytest.mark.parametrize("name", HEADS)
def test_the_exported_classifier_carries_its_calibration(home, photos, tmp_path, name):
    from tests.pipeline.export.test_export import call

    figures = call("export", "--model", home / name, "--out", tmp_path / "out.keras")
    expected = read_outputs(home / f"{name}.csv")
    assert figures["format"] == "keras"
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(run_keras(tmp_path / "out.keras", photos), expected, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "sigmoid", "sigmoids", "mlp-temperature"])
@pytest.mark.parametrize("form", SUFFIXES)
def test_a_format_says_what_predict_does(home, photos, tmp_path, form, name):
    need(form)
    out = tmp_path / f"out{SUFFIXES[form]}"
    status, printed, errors = run(
        *("export", "--model", home / name, "--out", out, "--format", form, "--json")
    )
    assert status == 0, errors
    figures = json.loads(printed.splitlines()[-1])
    assert figures["format"] == form
    found, expected = RUNTIMES[form](out, photos), read_outputs(home / f"{name}.csv")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    record = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert record["classes"] == figures["classes"]
    assert record["pixels"]["resize"] == "bilinear"


@pytest.mark.slow
@pytest.mark.parametrize("form", DETERMINISTIC)
def test_the_same_model_is_the_same_bytes(home, tmp_path, form):
    need(form)
    found = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        out = tmp_path / str(number) / f"out{SUFFIXES[form]}"
        status, _, errors = run("export", "--model", home / "sigmoids", "--out", out)
        assert status == 0, errors
        files = sorted((tmp_path / str(number)).iterdir())
        found.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert found[0] == found[1]


def refuse(command, home, out, *options, model="plain"):
    answer = command("export", "--model", home / model, "--out", out, *options)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    return answer.err


def test_an_isotonic_calibration_is_refused_in_one_line(home, command, tmp_path):
    assert command(
        *("fit", "--features", home / "f.h5", "--layer", "last:avg"),
        *("--out", tmp_path / "iso", "--head", "ridge", "--calibrate", "isotonic"),
    ).status == 0  # fmt: skip
    assert "isotonic" in refuse(command, home, tmp_path / "out.keras", model=tmp_path / "iso")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("out.h5",), ".onnx"),
        (("out.onnx", "--format", "litert"), ".tflite"),
        (("out.keras", "--format", "saved_model"), "drop .keras"),
        (("out.onnx", "--format", "onxx"), "onnx"),
        (("out.keras", "--layer", "last:avg"), "--features"),
    ],
)
def test_a_name_that_says_another_format_is_one_line(home, command, tmp_path, arguments, said):
    out, *options = arguments
    assert said in refuse(command, home, tmp_path / out, *options)


def test_a_missing_package_names_the_extra(home, command, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if "onnx" in name else find(name)
    )
    assert "permafrost[onnx]" in refuse(command, home, tmp_path / "out.onnx")


def test_a_folder_that_is_no_saved_model_stays(home, command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert "no SavedModel" in refuse(command, home, tmp_path / "mine", "--format", "saved_model")
    assert (tmp_path / "mine" / "thesis.txt").exists()
