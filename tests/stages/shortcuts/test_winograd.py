"""Winograd's convolution against TensorFlow's direct one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from permafrost.stages.shortcuts.winograd import (  # noqa: E402
    convolve,
    convolve_rows,
    replacing_convolutions,
    transform_kernel,
    transform_kernel_rows,
)


def convolve_on_both_axes(images: np.ndarray, kernel: np.ndarray, bias: Any, padding: str) -> Any:
    transformed = tf.constant(transform_kernel(kernel))
    return convolve(tf.constant(images), transformed, tf.constant(bias), padding=padding)


def convolve_on_one_axis(images: np.ndarray, kernel: np.ndarray, bias: Any, padding: str) -> Any:
    transformed = [tf.constant(part) for part in transform_kernel_rows(kernel)]
    return convolve_rows(tf.constant(images), transformed, tf.constant(bias), padding=padding)


@pytest.mark.parametrize("convolve_so", [convolve_on_both_axes, convolve_on_one_axis])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("height", "width"), [(14, 14), (8, 12), (7, 9), (5, 4), (3, 3), (28, 1)])
def test_the_values_are_those_of_the_direct_convolution(
    height: int, width: int, padding: str, convolve_so: Any
) -> None:
    if padding == "valid" and min(height, width) < 3:
        pytest.skip("nothing is left of it")
    rng = np.random.default_rng(height * width)
    images = rng.standard_normal((3, height, width, 5)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 5, 7)).astype(np.float32)
    bias = rng.standard_normal(7).astype(np.float32)
    expected = (tf.nn.conv2d(images, kernel, 1, padding.upper()) + bias).numpy()
    found = convolve_so(images, kernel, bias, padding).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_only_convolutions_that_gain_are_replaced_and_only_meanwhile() -> None:
    layers = [
        keras.layers.Conv2D(64, 3, padding="same"),
        keras.layers.Conv2D(64, 3, padding="same", strides=2),
        keras.layers.Conv2D(64, 1),
        keras.layers.Conv2D(32, 3),
        keras.layers.Conv2D(64, 3, dilation_rate=2),
        keras.layers.Conv2D(64, 3, groups=2),
        keras.layers.Conv2D(64, 3, dtype="mixed_bfloat16"),
        keras.layers.DepthwiseConv2D(3),
    ]
    for layer in layers:
        layer.build((None, 16, 16, 64))
    with replacing_convolutions(layers, values=read_values(*layers), hold=tf.constant, n_axes=2):
        replaced = ["convolution_op" in vars(layer) for layer in layers]
    assert replaced == [True] + [False] * 7
    assert not any("convolution_op" in vars(layer) for layer in layers)
    assert all(layer.use_bias for layer in layers)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("n_axes", "filters"), [(1, 128), (2, 128), (2, 64)])
@pytest.mark.parametrize("size", [(9, 10), (None, None)])
def test_a_layer_gives_what_it_gives_by_itself(
    n_axes: int, filters: int, size: tuple[int | None, ...], *, use_bias: bool
) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 9, 10, 64)).astype(np.float32)
    layer = keras.layers.Conv2D(filters, 3, activation="relu", use_bias=use_bias)
    layer.build(images.shape)
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    expected = layer(images).numpy()
    signature = [tf.TensorSpec((None, *size, 64), tf.float32)]
    with replacing_convolutions(
        [layer, layer], values=read_values(layer), hold=tf.constant, n_axes=n_axes
    ):
        traced = tf.function(layer.call, input_signature=signature).get_concrete_function()
    np.testing.assert_allclose(traced(images).numpy(), expected, atol=1e-5 * expected.max())


def read_values(*layers: Any) -> dict[int, np.ndarray]:
    return {id(variable): variable.numpy() for layer in layers for variable in layer.variables}
