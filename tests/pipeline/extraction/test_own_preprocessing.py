"""``--preprocess mean=…,std=…``: part of the recipe, and carried as far as an exported model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.helpers.answers import Command
from tests.helpers.extracted import read_plain
from tests.helpers.inputs import SIZE

FIGURES = ("--preprocess", "mean=120.50,110,99,std=60,58.0,57.5")


def load(photos: list[Path]) -> np.ndarray:
    images = [
        keras.utils.load_img(photo, target_size=(SIZE, SIZE), interpolation="bilinear")
        for photo in photos
    ]
    return np.stack([np.asarray(image) for image in images])


def test_features_are_those_of_plain_keras(
    extract: Command, photos: Path, backbone: Path, out: Path
) -> None:
    assert extract(*FIGURES, layers="last").figures["computed"] == 12
    pixels = load(sorted(photos.glob("*/*.jpg")))
    batch = (pixels - np.array([120.5, 110, 99])) / np.array([60, 58, 57.5])
    expected = keras.models.load_model(backbone, compile=False).predict(batch, verbose=0)
    np.testing.assert_allclose(read_plain(out, "last"), expected, atol=1e-4 * expected.max())


def test_figures_are_part_of_the_recipe_however_they_are_typed(
    extract: Command, tmp_path: Path
) -> None:
    extract(*FIGURES, layers="first")
    typed = "mean=120.5, 110.0,+99,std=6e1,58,57.50"
    assert extract("--preprocess", typed, layers="first").figures["computed"] == 0
    other = "mean=120.5,110,99,std=60,58,57.6"
    assert extract("--preprocess", other, layers="first").figures["computed"] == 12
    recipes = [json.loads(one.read_text()) for one in tmp_path.glob("cache/*/first-none/*.json")]
    modes = {one["preprocess"] for one in recipes if "preprocess" in one}
    assert modes == {"mean=120.5,110,99,std=60,58,57.5", other}


def test_predictions_and_exports_take_the_figures(
    extract: Command, command: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    extract(*FIGURES, layers="last:avg")
    model = tmp_path / "model"
    fitting = ("--layer", "last:avg", "--head", "logreg", "--out", model)
    assert command("fit", "--features", out, *fitting).status == 0
    said = tmp_path / "predictions.csv"
    options = ("--images", photos, "--cache", tmp_path / "cache", "--out", said)
    figures = command("predict", "--model", model, *options, "--json").figures
    assert figures["computed"] == 0
    exported = tmp_path / "classifier.keras"
    assert command("export", "--model", model, "--out", exported).status == 0
    with said.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    outputs = keras.saving.load_model(exported, safe_mode=True).predict(
        load([photos / row["path"] for row in rows]), verbose=0
    )
    expected = [[float(row["china"]), float(row["flower"])] for row in rows]
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ("mean=1,2", "preprocessing 'mean=1,2,std=1,1' is for 2 channels, and the images have 3"),
        ("mean=1", "preprocessing 'mean=1,std=1' is for 1 channels, and the images have 3"),
        ("torchy", "unknown preprocessing 'torchy'; did you mean 'torch'? or write mean=R,G,B"),
    ],
)
def test_figures_that_cannot_be_are_one_line(extract: Command, figures: str, said: str) -> None:
    answer = extract("--preprocess", figures)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert said in answer.err
