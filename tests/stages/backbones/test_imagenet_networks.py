"""A weights file gets the network that Keras builds for weights="imagenet"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from permafrost.stages.backbones.applications import APPLICATIONS, parse_backbone
from permafrost.stages.backbones.digests import digest_layers
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from tests.helpers.architectures import EVERY_ARCHITECTURE

SIDE = 32


def build(name: str, weights: str | None, *, side: int = SIDE) -> Any:
    """Build a network as Keras does; where it would download weights, there are none."""
    keras.utils.clear_session(free_memory=False)
    function = getattr(keras.applications, APPLICATIONS[name].function)
    return function(weights=weights, include_top=False, input_shape=(side, side, 3))


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: "nowhere")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_, **__: None)


def list_layers(model: Any) -> list[object]:
    return [(entry["class_name"], entry["config"]) for entry in model.get_config()["layers"]]


@pytest.mark.usefixtures("no_download")
@EVERY_ARCHITECTURE
def test_only_efficientnets_are_built_otherwise_for_imagenet(name: str) -> None:
    with keras.StatelessScope(initialize_variables=False):  # Only the graph counts.
        plain, imagenet = (
            list_layers(build(name, weights, side=224)) for weights in (None, "imagenet")
        )
    assert (plain != imagenet) == (name == "efficientnet_b0")


@pytest.fixture(scope="module")
def weights_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """Keras' own network for ImageNet's weights, and files of its weights in three formats."""
    folder = tmp_path_factory.mktemp("weights")
    files = {kind: folder / f"{kind}.weights.h5" for kind in ("keras3", "plain")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, "get_file", lambda *_, **__: "nowhere")
        patch.setattr(keras.Model, "load_weights", lambda *_, **__: None)
        imagenet = build("efficientnet_b0", "imagenet")
    values = np.random.default_rng(0)
    weights = [values.uniform(0.1, 0.5, w.shape) for w in imagenet.get_weights()]
    imagenet.set_weights(weights)
    imagenet.save_weights(files["keras3"])
    plain = build("efficientnet_b0", None)
    plain.set_weights(weights)
    plain.save_weights(files["plain"])
    files["keras2"] = folder / "keras2.h5"
    with h5py.File(files["keras2"], "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, plain)
    return imagenet, files


def load(weights: object) -> Any:
    backbone = parse_backbone("efficientnet_b0")
    request = BackboneRequest(backbone=backbone, weights=str(weights), size=(SIDE, SIDE))
    return load_backbone(request).model


@pytest.mark.parametrize("kind", ["keras2", pytest.param("keras3", marks=pytest.mark.slow)])
def test_an_efficientnet_with_a_weights_file_is_the_one_for_imagenet(
    kind: str, weights_files: tuple[Any, dict[str, Path]]
) -> None:
    imagenet, files = weights_files
    ours = load(files[kind])
    images = np.random.default_rng(1).uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours(images), imagenet(images))
    ours_digests, theirs = digest_layers(ours), digest_layers(imagenet)
    # The input is called otherwise by each, which no other layer's digest forgives.
    assert list(ours_digests)[1:] == list(theirs)[1:]
    assert [type(layer) for layer in ours.layers] == [type(layer) for layer in imagenet.layers]


@pytest.mark.slow
def test_weights_that_say_they_are_of_the_plain_efficientnet_get_that(
    weights_files: tuple[Any, dict[str, Path]],
) -> None:
    _, files = weights_files
    assert [layer.name for layer in load(files["plain"]).layers[:5]] == [
        layer.name for layer in load("random").layers[:5]
    ]
    assert "rescaling_1" in [layer.name for layer in load(files["keras3"]).layers]


def test_random_weights_are_of_the_network_that_keras_builds_without_weights() -> None:
    ours = load("random")
    assert list_layers(ours)[1:] == list_layers(build("efficientnet_b0", None))[1:]
