"""Values that must not be stored, and values that depend on the batch."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from permafrost.cache.views.features import Features
from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import write_model

N_DARK = 20


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a network whose second layer overflows float32 where an image is bright."""
    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Rescaling(100.0, name="quiet"),
            layers.Activation("exponential", name="loud"),
        ],
        name="mobilenet_loud",
    )
    file = tmp_path_factory.mktemp("loud") / "loud.keras"
    model.save(file)
    return file


def write_flat(root: Path, *, n_dark: int = N_DARK, bright: tuple[int, ...] = ()) -> Path:
    """Write grey images, one of each brightness below 64, and white ones at some places."""
    root.mkdir()
    for number in range(n_dark):
        level = 255 if number in bright else number
        Image.new("RGB", (8, 8), (level, level, number)).save(root / f"{number:02d}.png")
    return root


@pytest.fixture
def run(command: Command, loud: Path, tmp_path: Path) -> Command:
    def call(photos: Path, *options: object, layers: str = "quiet,loud:max") -> Answer:
        return command(
            *("extract", "--images", photos, "--backbone", loud, "--layers", layers, "--json"),
            *("--cache", tmp_path / "cache", "--out", tmp_path / "f.h5", "--preprocess", "tf"),
            *options,
        )

    return call


def read_failures(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "f.h5.failures.csv").open(newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def test_an_image_that_gives_infinity_costs_its_own_row_and_is_remembered(
    run: Command, tmp_path: Path
) -> None:
    photos = write_flat(tmp_path / "photos", bright=(3, 11))
    figures = run(photos, "--batch-size", "4").figures
    assert (figures["computed"], figures["failed"]) == (N_DARK - 2, 2)
    reason = "layer loud:max: the network gave inf"
    assert read_failures(tmp_path) == {"03.png": reason, "11.png": reason}
    with Features(tmp_path / "f.h5") as features:
        numbers = [int(path[:2]) for path in features.paths]
        assert numbers == [n for n in range(N_DARK) if n not in (3, 11)]
        values = features.read("loud:max")
    levels = np.array(numbers, np.float64)[:, None]
    assert np.allclose(values, np.exp((levels / 127.5 - 1) * 100), rtol=1e-4)
    again = run(photos).figures
    assert (again["computed"], again["failed"], again["reused"]) == (0, 2, N_DARK - 2)
    assert run(photos, layers="quiet").figures["failed"] == 0


def test_with_on_error_fail_the_first_value_that_cannot_be_stored_ends_the_run(
    run: Command, tmp_path: Path
) -> None:
    refused = run(write_flat(tmp_path / "photos", bright=(3,)), "--on-error", "fail")
    assert refused.status == 3
    line = "permafrost: '03.png', layer loud:max: the network gave inf"
    assert refused.err.splitlines()[-1] == line


def test_a_network_that_gives_infinity_for_most_images_ends_the_run(
    run: Command, tmp_path: Path
) -> None:
    photos = write_flat(tmp_path / "photos", bright=tuple(range(1, 14)))
    refused = run(photos, "--batch-size", "4")
    assert refused.status == 3
    assert "the network gave inf (as 8 of the first 12 images)" in refused.err.splitlines()[-1]
    assert run(write_flat(tmp_path / "dark")).figures["failed"] == 0


def test_an_overflow_of_float16_is_never_stored(run: Command, tmp_path: Path) -> None:
    photos = write_flat(tmp_path / "photos", bright=(5,))
    assert run(photos, "--dtype", "float16", layers="quiet").figures["failed"] == 0
    # exp(100 (140 / 127.5 - 1)) is 18,000; and 146 gives more than the largest number, 65,504.
    for number, level in ((0, 140), (1, 146)):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(photos / f"{number:02d}.png")
    assert run(photos, "--dtype", "float16").figures["failed"] == 2
    reasons = read_failures(tmp_path)
    assert reasons["05.png"] == "layer loud:max: the network gave inf"
    assert "overflows float16; use --dtype float32" in reasons["01.png"]
    with Features(tmp_path / "f.h5") as features:
        assert np.isfinite(features.read("loud:max")).all()


def test_how_far_values_depend_on_the_batch_is_measured_once_and_reported(
    extract: Command, tmp_path: Path
) -> None:
    drift = extract().figures["drift"]
    assert sorted(drift) == ["first", "last:avg"]
    for measured in drift.values():
        assert (measured["images"], measured["batch_size"]) == (2, 12)
        assert measured["max_error"] <= 1e-5
    assert extract().figures["drift"] == drift
    assert extract("--batch-size", "1", cache=tmp_path / "c").figures["drift"] == {}


def test_a_network_whose_values_depend_on_the_batch_is_warned_of(
    extract: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    import keras

    inner = keras.saving.load_model(write_model(tmp_path / "plain.keras"))
    # Rows are divided by what the whole batch sums up to.
    inputs = keras.Input((32, 32, 3))
    first = inner.layers[0](inputs)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(first)
    mixed = keras.layers.UnitNormalization(axis=0, name="mixed")(pooled)
    model = keras.Model(inputs, mixed, name="mobilenet_mixed")
    model.save(tmp_path / "mixed.keras")
    figures = extract(model=tmp_path / "mixed.keras", layers="pooled,mixed").figures
    assert figures["drift"]["pooled"]["max_error"] <= 1e-5
    assert figures["drift"]["mixed"]["max_error"] > 0.1
    (line,) = [record.message for record in caplog.records if "batch of 12" in record.message]
    assert line.startswith("mixed: an image alone and in a batch of 12 differ by ")
