"""Real images and a real network, made on the spot; and the command line, called in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SIZE = 32
LAYERS = "first,last:avg"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON object that ``--json`` prints."""
        assert self.status == 0, self.err
        figures: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return figures


Command = Callable[..., Answer]


def write_photos(root: Path, *, n_each: int, side: int = 60) -> Path:
    """Crop scikit-learn's two photographs into ``china/`` and ``flower/``, all different."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    for label in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{label}.jpg"))
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(n_each):
            left, top = 7 * number % (640 - side), 11 * number % (427 - side)
            crop = photo.crop((left, top, left + side, top + side))
            crop.save(folder / f"{number:04d}.jpg", quality=90)
    return root


def write_model(file: Path, *, seed: int = 0, scale: float = 1.0, size: int | None = SIZE) -> Path:
    """Save a small convolutional network, whose model name says its family's preprocessing."""
    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            layers.Input((size, size, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="first"),
            layers.Conv2D(12, 3, strides=2, activation="relu", name="second"),
            layers.Conv2D(16, 3, name="last"),
        ],
        name="mobilenet_small",
    )
    model.layers[-1].set_weights([weight * scale for weight in model.layers[-1].get_weights()])
    model.save(file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 12 small photos in two classes."""
    return write_photos(tmp_path / "photos", n_each=6)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small Keras model."""
    return write_model(tmp_path_factory.mktemp("model") / "small.keras")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process."""
    from permafrost.pipeline.cli.main import main

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse, of a wrong option
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


@pytest.fixture
def extract(command: Command, photos: Path, backbone: Path, tmp_path: Path) -> Command:
    """Call ``extract`` with what the other fixtures made; options can be added and replaced."""

    def call(
        *options: object,
        images: object = photos,
        model: object = backbone,
        layers: str = LAYERS,
        cache: object = tmp_path / "cache",
        out: object = tmp_path / "features.h5",
    ) -> Answer:
        source = () if images is None else ("--images", images)
        return command(
            *("extract", *source, "--backbone", model, "--layers", layers),
            *("--cache", cache, "--out", out, "--json", *options),
        )

    return call
