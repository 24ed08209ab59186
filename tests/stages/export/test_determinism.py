"""An exported classifier says the same of the same image, in whatever form it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_tensorflow

start_tensorflow()
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

from permafrost.stages.backbones.layers import parse_layer_spec  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork  # noqa: E402
from permafrost.stages.datasets.targets import CLASSIFICATION, Targets  # noqa: E402
from permafrost.stages.export.backbone_part import ExportPart  # noqa: E402
from permafrost.stages.export.classifier import build_classifier, save_classifier  # noqa: E402
from permafrost.stages.heads import fit_head, parse_settings  # noqa: E402
from permafrost.stages.matrices.matrix import ArrayMatrix  # noqa: E402

SIDE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)


def build_backbone() -> Any:
    """Build a network whose first layers augment while it is trained."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 3)),
            layers.RandomFlip(),
            layers.RandomRotation(0.3),
            layers.GaussianNoise(1.0),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Dropout(0.5),
            layers.Conv2D(3, 3, name="last"),
        ]
    )


@pytest.fixture(scope="module", params=["logreg", "mlp"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_backbone()
    network = KerasNetwork(model)
    network.size = (SIDE, SIDE)
    part = ExportPart(network=network, layer=parse_layer_spec("last:avg"), preprocess="tf")
    features = model.predict(IMAGES / 127.5 - 1, verbose=0).mean((1, 2))
    targets = Targets(
        task=CLASSIFICATION,
        values=np.array(["cat", "dog"] * (len(IMAGES) // 2)),
        classes=np.array(["cat", "dog"]),
    )
    head = fit_head(
        request.param,
        parse_settings(request.param, {"epochs": "2"} if request.param == "mlp" else {}),
        ArrayMatrix(features),
        targets,
        train=np.arange(len(features)),
        seed=0,
    )
    file = tmp_path_factory.mktemp("exported") / "classifier.keras"
    classifier = build_classifier([part], head)
    save_classifier(classifier, file, task=CLASSIFICATION, classes=["cat", "dog"], pixels={})
    np.testing.assert_allclose(
        classifier.predict(IMAGES, verbose=0), head.predict(features), atol=1e-5
    )
    return file


def test_a_loaded_classifier_augments_nothing(exported: Path) -> None:
    model = keras.saving.load_model(exported, safe_mode=True)
    expected = model.predict(IMAGES, verbose=0)
    for _ in range(3):
        np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), expected)


def test_a_classifier_exported_again_as_a_savedmodel_augments_nothing(
    exported: Path, tmp_path: Path
) -> None:
    model = keras.saving.load_model(exported, safe_mode=True)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for _ in range(3):
        np.testing.assert_allclose(
            loaded.serve(IMAGES), model.predict(IMAGES, verbose=0), atol=1e-5
        )
