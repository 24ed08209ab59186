"""Whether a network scales its pixels itself: told from its graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

from permafrost.stages.backbones.applications import APPLICATIONS, parse_backbone
from permafrost.stages.backbones.calls import list_calls
from permafrost.stages.backbones.digests import list_entries
from permafrost.stages.backbones.input_scaling import scales_input
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.preprocessing import preprocess
from tests.helpers.architectures import EVERY_ARCHITECTURE

SHAPE = (8, 8, 3)
MEAN, VARIANCE = [100.0] * 3, [50.0**2] * 3


def conv(x: Any) -> Any:
    return kl.Conv2D(2, 3)(x)


def augment(x: Any) -> Any:
    return kl.RandomZoom(0.1)(kl.RandomFlip()(kl.ZeroPadding2D(1)(x)))


def nest(*layers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    inside = kl.Input((None, None, 3))
    result = inside
    for layer in layers:
        result = layer(result)
    return keras.Model(inside, result)


LEFT_ALONE = {
    "weights first": [conv],
    "geometry": [augment, kl.Resizing(6, 6), conv],
    "scaling behind the first weights": [conv, kl.Rescaling(2.0), kl.BatchNormalization()],
    "operations that move pixels": [lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), conv],
    "nested": [nest(augment), nest(augment, conv), kl.BatchNormalization()],
    "a branch of its own": [lambda x: ops.concatenate([conv(x), conv(kl.RandomFlip()(x)) * 2])],
    "Sequential inside": [keras.Sequential([kl.RandomFlip(), kl.Conv2D(2, 3)])],
    "flat pixels": [kl.Flatten(), kl.Dense(3)],
}
SCALED = {
    "Rescaling": [kl.Rescaling(1 / 255), conv],
    "Normalization": [augment, kl.Normalization(mean=MEAN, variance=VARIANCE), conv],
    "operations": [lambda x: x / 127.5 - 1, conv],
    "a constant first": [lambda x: 2.0 * x, conv],
    "normalization in batches": [kl.BatchNormalization(), conv],
    "channels turned": [lambda x: x[..., ::-1], conv],
    "nested": [nest(augment, kl.Rescaling(1 / 255)), conv],
    "nested pixels": [nest(augment), kl.Rescaling(1 / 255), conv],
    "deep inside": [nest(augment, nest(augment, lambda x: x - 1, conv))],
    "one branch": [lambda x: ops.concatenate([conv(x), conv(x / 255)])],
    "Sequential inside": [keras.Sequential([kl.RandomFlip(), kl.Rescaling(2.0)]), conv],
    "clipped": [lambda x: ops.clip(x, 0, 6), conv],
}


def build(parts: list[Callable[[Any], Any]]) -> Any:
    image = result = kl.Input(SHAPE, name="image")
    for part in parts:
        result = part(result)
    return keras.Model(image, result)


def tells_scaling(model: Any) -> bool:
    return scales_input(list_calls(list_entries(model).values()))


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_pixels_that_meet_weights_first_are_not_scaled(kind: str) -> None:
    assert not tells_scaling(build(LEFT_ALONE[kind]))


@pytest.mark.parametrize("kind", SCALED)
def test_what_changes_pixels_before_the_weights_scales_them(kind: str) -> None:
    assert tells_scaling(build(SCALED[kind]))


@pytest.mark.parametrize("scales", [True, False])
def test_a_sequential_and_its_saved_model_tell_the_same(scales: bool, tmp_path: Path) -> None:
    first = [kl.Rescaling(1 / 255)] if scales else [kl.ZeroPadding2D(1)]
    model = keras.Sequential([kl.Input(SHAPE), *first, kl.Conv2D(2, 3, dilation_rate=2)])
    model.export(tmp_path / "saved", verbose=False)
    saved = load_backbone(BackboneRequest(backbone=parse_backbone(str(tmp_path / "saved"))))
    assert tells_scaling(model) == saved.describe().scales_input == scales


def build_application(name: str, **options: object) -> Any:
    function = getattr(keras.applications, APPLICATIONS[name].function)
    with keras.StatelessScope(initialize_variables=False):  # Only the graph counts.
        return function(weights=None, include_top=False, input_shape=(96, 96, 3), **options)


def takes_preprocessing(name: str) -> bool:
    function = getattr(keras.applications, APPLICATIONS[name].function)
    return "include_preprocessing" in inspect.signature(function).parameters


@EVERY_ARCHITECTURE
def test_an_application_scales_its_pixels_where_the_table_says_none(name: str) -> None:
    assert tells_scaling(build_application(name)) == (APPLICATIONS[name].preprocess == "none")


def test_every_application_with_a_switch_has_a_mode_for_outside() -> None:
    switched = {name for name in APPLICATIONS if takes_preprocessing(name)}
    assert switched == {name for name, one in APPLICATIONS.items() if one.outside != "none"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("convnext_tiny", 1e-5),
        ("efficientnet_v2_b0", 1e-5),
        # Inside it is x / 128 - 1; what Keras tells to do outside is -1 to 1.
        pytest.param("efficientnet_v2_s", 0.0081, marks=pytest.mark.slow),
        ("mobilenet_v3_small", 1e-5),
    ],
)
def test_outside_is_what_the_network_does_itself(name: str, error: float) -> None:
    bare = build_application(name, include_preprocessing=False)
    assert not tells_scaling(bare)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    inside = pixels.astype(np.float32)
    for layer in build_application(name).layers[1:3]:
        if isinstance(layer, kl.Rescaling | kl.Normalization):
            inside = np.asarray(type(layer).from_config(layer.get_config())(inside))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        outside = session.run(
            preprocess(tf.constant(pixels), mode=APPLICATIONS[name].outside, view="identity")
        )
    np.testing.assert_allclose(outside, inside, rtol=0, atol=error)
