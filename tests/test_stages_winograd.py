"""Winograd's convolution against TensorFlow's direct one."""

from __future__ import annotations

import numpy as np
import pytest

from stages.start import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from stages.winograd import convolve, replacing_convolutions, transform_kernel  # noqa: E402


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("height", "width"), [(14, 14), (8, 12), (7, 9), (5, 4), (3, 3), (28, 1)])
def test_the_values_are_those_of_the_direct_convolution(
    height: int, width: int, padding: str
) -> None:
    if padding == "valid" and min(height, width) < 3:
        pytest.skip("nothing is left of it")
    rng = np.random.default_rng(height * width)
    images = rng.standard_normal((3, height, width, 5)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 5, 7)).astype(np.float32)
    expected = tf.nn.conv2d(images, kernel, 1, padding.upper()).numpy()
    transformed = tf.constant(transform_kernel(kernel))
    found = convolve(tf.constant(images), transformed, padding=padding).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


def test_only_convolutions_that_gain_are_replaced_and_only_meanwhile() -> None:
    layers = [
        keras.layers.Conv2D(128, 3, padding="same"),
        keras.layers.Conv2D(128, 3, padding="same", strides=2),
        keras.layers.Conv2D(128, 1),
        keras.layers.Conv2D(64, 3),
        keras.layers.Conv2D(128, 3, dilation_rate=2),
        keras.layers.Conv2D(128, 3, groups=2),
        keras.layers.Conv2D(128, 3, dtype="mixed_bfloat16"),
        keras.layers.DepthwiseConv2D(3),
    ]
    for layer in layers:
        layer.build((None, 16, 16, 128))
    values = {id(layer.kernel): layer.kernel.numpy() for layer in layers}
    with replacing_convolutions(layers, values=values, hold=tf.constant):
        replaced = ["convolution_op" in vars(layer) for layer in layers]
    assert replaced == [True] + [False] * 7
    assert not any("convolution_op" in vars(layer) for layer in layers)
