"""What a head that learnt from several views says of new images: of one view, or on the mean."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from permafrost.stages.heads import load_head
from tests.helpers.answers import Answer, Command
from tests.helpers.extracted import read_plain
from tests.pipeline.models.test_predict import LAYER, write_backbone, write_crops

Predict = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_crops(tmp_path / "old", start=0, n_each=8)
    write_crops(tmp_path / "new", start=20, n_each=3)
    write_backbone(tmp_path / "tiny.keras")
    return tmp_path


@pytest.fixture
def fit(command: Command, home: Path) -> Callable[[str], None]:
    def call(views: str) -> None:
        extract(command, home, "old", views)
        command(
            *("fit", "--features", home / "old.h5", "--layer", LAYER, "--head", "logreg"),
            *("--out", home / "model"),
        )

    return call


def extract(command: Command, home: Path, images: str, views: str) -> None:
    command(
        *("extract", "--images", home / images, "--backbone", home / "tiny.keras"),
        *("--layers", LAYER, "--cache", home / "cache", "--out", home / f"{images}.h5"),
        *("--view", views),
    )


@pytest.fixture
def predict(command: Command, home: Path) -> Predict:
    def call(*options: object) -> Answer:
        return command(
            *("predict", "--model", home / "model", "--images", home / "new"),
            *("--out", home / "new.csv", "--cache", home / "cache", "--json", *options),
        )

    return call


def read_probabilities(home: Path) -> NDArray[np.float64]:
    with (home / "new.csv").open(newline="") as stream:
        return np.array([[float(cell) for cell in row[3:]] for row in list(csv.reader(stream))[1:]])


def test_new_images_are_seen_as_asked_for_and_each_view_is_computed_once(
    home: Path, command: Command, fit: Callable[[str], None], predict: Predict
) -> None:
    fit("hflip,identity")
    record = json.loads((home / "model/model.json").read_text())
    assert record["views"] == ["hflip", "identity"]
    assert [part["features"]["view"] for part in record["parts"]] == ["hflip"]
    assert predict().figures["computed"] == 6
    first = read_probabilities(home)
    assert predict("--average-views").figures["computed"] == 6
    mean = read_probabilities(home)
    assert predict("--average-views").figures["computed"] == 0
    extract(command, home, "new", "hflip,identity")
    head = load_head(home / "model/head")
    said = [
        head.predict(read_plain(home / "new.h5", name)) for name in (LAYER, f"{LAYER}@identity")
    ]
    np.testing.assert_allclose(first, said[0], atol=1e-12)
    np.testing.assert_allclose(mean, np.mean(said, axis=0), atol=1e-12)
    assert not np.allclose(first, mean)


def test_one_view_cannot_be_averaged(
    home: Path, fit: Callable[[str], None], predict: Predict
) -> None:
    fit("hflip")
    answer = predict("--average-views")
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert f"{str(home / 'model')!r} was fitted on the view 'hflip' alone; extract" in answer.err
