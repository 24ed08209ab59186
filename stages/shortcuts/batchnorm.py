"""Batch normalization folded into the convolution before it: one pass over the activations less.

Frozen, it multiplies each channel by a number and adds another; so may the convolution's weights
and a bias, which TensorFlow adds within the convolution. This is computed in float64 and rounded
once, which some networks amplify: see `stages.shortcuts.choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from permafrost.stages.shortcuts.choice import Hold


@contextmanager
def folding_normalizations(
    layers: Iterable[Any], *, values: Mapping[int, np.ndarray], hold: Hold, kept: Iterable[Any]
) -> Iterator[dict[int, np.ndarray]]:
    """Have Keras layers normalize within the convolution before them while they are traced.

    Parameters
    ----------
    layers : iterable of keras.Layer
    values : mapping of int to ndarray
        The weights' values, by the ``id`` of their variable.
    hold : callable
        Puts an array into the graph that is being built.
    kept : iterable of keras.Layer
        Those whose own outputs are wanted.

    Yields
    ------
    dict of int to ndarray
        The values of the weights that the layers are to be called with instead.
    """
    import keras

    wanted = set(kept)
    pairs = [
        (before, layer)
        for layer in dict.fromkeys(layers)  # One may be part of two models.
        if (before := _find_convolution(layer)) is not None and before not in wanted
    ]
    folded = dict(values)
    for convolution, normalization in pairs:
        scale, shift = _read_affine(normalization, values)
        kernel = values[id(convolution.kernel)]
        # Of a depthwise kernel, the last two axes are the channels that come out.
        is_depthwise = type(convolution) is keras.layers.DepthwiseConv2D
        scales = scale.reshape(kernel.shape[2:]) if is_depthwise else scale
        folded[id(convolution.kernel)] = (kernel * scales).astype(np.float32)
        if convolution.use_bias:
            bias = values[id(convolution.bias)]
            folded[id(convolution.bias)] = (bias * scale + shift).astype(np.float32)
            normalization.call = _make_call(bias=None)
        else:
            normalization.call = _make_call(bias=hold(shift.astype(np.float32)))
    try:
        yield folded
    finally:
        for _, normalization in pairs:
            del normalization.call


def _find_convolution(layer: Any) -> Any:
    """Return the convolution whose output this layer normalizes and nothing else takes."""
    import keras

    if type(layer) is not keras.layers.BatchNormalization or len(layer._inbound_nodes) != 1:
        return None
    before = layer.input._keras_history.operation
    fits = (
        type(before) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        and before.activation is keras.activations.linear
        and before.data_format == "channels_last"
        and len(before._inbound_nodes) == len(before._outbound_nodes) == 1
        and layer.axis in (-1, 3)
        and before.compute_dtype == layer.compute_dtype == "float32"
    )
    return before if fits else None


def _read_affine(layer: Any, values: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a normalization multiplies by and adds: two of float64, shape (channels,)."""
    mean, variance = (
        values[id(variable)].astype(np.float64)
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * values[id(layer.gamma)]
    shift = -mean * scale
    if layer.center:
        shift = shift + values[id(layer.beta)]
    return scale, shift


def _make_call(*, bias: Any) -> Callable[..., Any]:
    """Return what a layer does instead of normalizing: add a bias, or nothing."""
    import tensorflow as tf

    def call(inputs: Any, *_: Any, **__: Any) -> Any:
        return inputs if bias is None else tf.nn.bias_add(inputs, bias)

    return call
