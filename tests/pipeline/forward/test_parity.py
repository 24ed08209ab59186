"""Other precisions and engines, end to end: kept apart, and their errors said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.store.layout import CacheLayout
from tests.helpers import ROOT
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS, write_photos

OPTIONS = ("--precision", "bfloat16")


@pytest.fixture(autouse=True)
def _any_processor_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "permafrost.pipeline.forward.parity.SAMPLE_IMAGES", 12
    )  # All, to compare with the features.
    # Slow where it is emulated, but these networks are small.
    monkeypatch.setattr(
        "permafrost.pipeline.computing.compute.check_precision", lambda _engine, _precision: None
    )


def read(file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as opened:
        return {layer: opened[f"features/{layer}"][()] for layer in LAYERS.split(",")}


def find_records(cache: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in cache.glob("*/*/parity.json")}


def test_the_record_is_the_error_against_float32(extract: Command, tmp_path: Path) -> None:
    assert extract(out=tmp_path / "exact.h5").figures["parity"] == {}
    answer = extract(*OPTIONS, out=tmp_path / "half.h5")
    assert (answer.figures["computed"], set(answer.figures["parity"])) == (
        12,
        set(LAYERS.split(",")),
    )
    exact, half = read(tmp_path / "exact.h5"), read(tmp_path / "half.h5")
    for layer, record in answer.figures["parity"].items():
        difference = np.abs(half[layer] - exact[layer]).astype(np.float64)
        values = np.abs(exact[layer]).astype(np.float64)
        assert record == {
            "reference": "tensorflow",
            "images": 12,
            "max_error": pytest.approx(difference.max() / values.max(), rel=1e-3, abs=1e-6),
            "mean_error": pytest.approx(difference.mean() / values.mean(), rel=1e-3, abs=1e-6),
        }
        assert record["max_error"] < 2**-6


def test_precisions_never_mix(extract: Command, tmp_path: Path) -> None:
    assert extract().figures["computed"] == 12
    assert extract(*OPTIONS).figures["computed"] == 12
    assert extract().figures["computed"] == 0
    with h5py.File(tmp_path / "features.h5") as file:
        recipe = json.loads(file["features/first"].attrs["recipe"])
    assert (recipe["engine"], recipe["precision"]) == ("tensorflow", "float32")


def test_the_record_is_measured_once_and_shown_by_every_later_run(
    extract: Command, command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    parity = extract(*OPTIONS).figures["parity"]
    records = find_records(tmp_path / "cache")
    assert len(records) == 2
    write_photos(photos, n_each=8)
    answer = extract(*OPTIONS)
    assert (answer.figures["computed"], answer.figures["parity"]) == (4, parity)
    assert extract(*OPTIONS).figures["parity"] == parity
    assert find_records(tmp_path / "cache") == records
    asked = ("--images", photos, "--backbone", backbone, "--layers", LAYERS, *OPTIONS)
    cached = ("--cache", tmp_path / "cache")
    assert command("plan", *asked, *cached, "--json").figures["parity"] == parity
    line = "first against tensorflow and float32, on 12 images: relative error "
    assert line in command("plan", *asked, *cached).out
    assert line in command("extract", *asked, *cached, "--out", tmp_path / "features.h5").out


def test_a_damaged_record_is_made_again_with_the_next_rows(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    extract(*OPTIONS)
    for file in find_records(tmp_path / "cache"):
        file.write_text("{")
    assert extract(*OPTIONS).figures["parity"] == {}
    write_photos(photos, n_each=7)
    assert {record["images"] for record in extract(*OPTIONS).figures["parity"].values()} == {2}


def test_a_layer_added_later_has_a_record_of_its_own(extract: Command, tmp_path: Path) -> None:
    first = extract(*OPTIONS, layers="first").figures["parity"]
    both = extract(*OPTIONS).figures["parity"]
    assert list(both) == LAYERS.split(",")
    assert both["first"] == first["first"]


def test_images_that_cannot_be_read_are_no_part_of_the_sample(
    extract: Command, photos: Path
) -> None:
    (photos / "china/0000.jpg").write_text("no image")
    answer = extract(*OPTIONS)
    assert {record["images"] for record in answer.figures["parity"].values()} == {11}


def test_values_beyond_a_precisions_range_stop_the_run(
    extract: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "permafrost.pipeline.forward.parity.measure_errors", lambda *_: [(np.inf, np.inf)] * 2
    )
    answer = extract(*OPTIONS)
    assert answer.status == 2
    assert "layer first has values beyond its range; use bfloat16 or float32" in answer.err
    assert not find_records(tmp_path / "cache")


def test_what_the_machine_lacks_is_one_line_before_any_work(
    extract: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("permafrost.pipeline.computing.compute.check_precision", _refuse)
    answer = extract("--engine", "openvino")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "nothing here" in answer.err
    assert not list(CacheLayout(tmp_path / "cache").root.glob("*-*/*"))


def _refuse(engine: str, precision: str) -> None:
    from permafrost.stages.errors import InputError

    raise InputError(f"{engine} {precision}: nothing here")


def test_openvino_gives_the_features_of_tensorflow(extract: Command, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    extract(out=tmp_path / "exact.h5")
    answer = extract("--engine", "openvino", "--batch-size", "5", out=tmp_path / "other.h5")
    assert answer.figures["computed"] == 12
    exact, other = read(tmp_path / "exact.h5"), read(tmp_path / "other.h5")
    for layer, record in answer.figures["parity"].items():
        np.testing.assert_allclose(
            other[layer], exact[layer], atol=1e-4 * np.abs(exact[layer]).max()
        )
        assert record["max_error"] < 1e-4


def test_keras_gives_the_features_of_tensorflow_in_sets_of_its_own(
    extract: Command, tmp_path: Path
) -> None:
    extract(out=tmp_path / "exact.h5")
    options = ("--engine", "keras", "--batch-size", "5")
    answer = extract(*options, out=tmp_path / "other.h5")
    assert answer.figures["computed"] == 12
    exact, other = read(tmp_path / "exact.h5"), read(tmp_path / "other.h5")
    for layer, record in answer.figures["parity"].items():
        np.testing.assert_allclose(
            other[layer], exact[layer], atol=1e-4 * np.abs(exact[layer]).max()
        )
        assert (record["reference"], record["max_error"] < 1e-4) == ("tensorflow", True)
    with h5py.File(tmp_path / "other.h5") as file:
        recipe = json.loads(file["features/first"].attrs["recipe"])
    assert recipe["engine"] == "keras-tensorflow"
    assert extract(*options).figures["computed"] == 0


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_on_another_backend_never_loads_tensorflow(
    backend: str, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    code = """
import sys
from permafrost.pipeline.cli.main import main
sys.modules["tensorflow"] = None  # As if it were not installed.
sys.exit(main())
"""
    command = [
        *(sys.executable, "-c", code, "extract", "--images", photos, "--backbone", backbone),
        *("--layers", LAYERS, "--engine", "keras", "--cache", tmp_path / "cache"),
        *("--out", tmp_path / "features.h5", "--json"),
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["computed"] == 12
    for record in figures["parity"].values():
        assert record["reference"] == f"uncompiled keras-{backend}"
        assert record["max_error"] < 1e-5
