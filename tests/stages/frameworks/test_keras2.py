"""HDF5 model files of Keras 2 give the numbers that they gave there, or say whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from permafrost.stages.errors import WeightsError
from permafrost.stages.frameworks.model_file import load_model

SIDE = 8
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(3, 3, 3, 1)).astype(np.float32)
BIAS = RANDOM.normal(size=3).astype(np.float32)
# As Keras 2.4 wrote a DepthwiseConv2D, with options that it inherited from Conv2D.
DEPTHWISE = {
    "trainable": True,
    "dtype": "float32",
    "kernel_size": [3, 3],
    "strides": [1, 1],
    "padding": "valid",
    "data_format": "channels_last",
    "dilation_rate": [1, 1],
    "groups": 1,
    "activation": "linear",
    "use_bias": True,
    "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
    "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "activity_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
    "depth_multiplier": 1,
    "depthwise_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
    "depthwise_regularizer": None,
    "depthwise_constraint": None,
}
SHAPE = [None, SIDE, SIDE, 3]


def write(file: Path, class_name: str, config: object, *, layer: str) -> Path:
    values: Mapping[str, np.ndarray] = {"depthwise_kernel:0": KERNEL, "bias:0": BIAS}
    with h5py.File(file, "w") as root:
        root.attrs["keras_version"], root.attrs["backend"] = "2.4.0", "tensorflow"
        root.attrs["model_config"] = json.dumps({"class_name": class_name, "config": config})
        weights = root.create_group("model_weights")
        weights.attrs["layer_names"] = [layer.encode()]
        group = weights.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in values]
        for name, value in values.items():
            group[f"{layer}/{name}"] = value
    return file


def write_functional(file: Path, *, layer: str, class_name: str = "DepthwiseConv2D") -> Path:
    entries: list[dict[str, Any]] = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": SHAPE, "dtype": "float32", "name": "input_1"},
            "name": "input_1",
            "inbound_nodes": [],
        },
        {
            "class_name": class_name,
            "config": {**DEPTHWISE, "name": layer},
            "name": layer,
            "inbound_nodes": [[["input_1", 0, 0, {}]]],
        },
    ]
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [[layer, 0, 0]]}
    return write(file, "Functional", {"name": "m", "layers": entries, **ends}, layer=layer)


def check_numbers(file: Path) -> None:
    pixels = RANDOM.normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    expected = tf.nn.depthwise_conv2d(pixels, KERNEL, [1, 1, 1, 1], "VALID") + BIAS
    before = file.read_bytes()
    found = load_model(file).predict(pixels, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert file.read_bytes() == before


@pytest.mark.parametrize("layer", ["depthwise", "conv1/dw"])
def test_layers_of_keras_2_with_options_that_are_gone_give_their_numbers(
    layer: str, tmp_path: Path
) -> None:
    check_numbers(write_functional(tmp_path / "old.h5", layer=layer))


@pytest.mark.parametrize("is_list", [False, True])
def test_a_sequential_of_keras_2_gives_its_numbers(is_list: bool, tmp_path: Path) -> None:
    config = {**DEPTHWISE, "name": "depthwise", "batch_input_shape": SHAPE}
    layers = [{"class_name": "DepthwiseConv2D", "config": config}]
    whole: object = layers if is_list else {"name": "sequential", "layers": layers}
    check_numbers(write(tmp_path / "old.h5", "Sequential", whole, layer="depthwise"))


def test_what_keras_3_has_no_more_is_refused_with_the_version_that_saved_it(tmp_path: Path) -> None:
    file = write_functional(tmp_path / "old.h5", layer="tf.nn.relu", class_name="TFOpLambda")
    with pytest.raises(WeightsError, match=r"saved by Keras 2\.4\.0\).*'TFOpLambda'.*export\("):
        load_model(file)
