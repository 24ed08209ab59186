"""Batch normalization folded into the convolution before it: one pass over the activations less.

Frozen, it multiplies each channel by a number and adds another; so may the convolution's weights
and a bias, which TensorFlow adds within the convolution. This is computed in float64 and rounded
once, which some networks amplify: see `stages.shortcuts.choice`. Where there is no such
convolution, half precision multiplies and adds in itself; Keras would cast all activations to
float32 and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from permafrost.stages.shortcuts.choice import Hold
from permafrost.stages.shortcuts.half_precision import round_to


@contextmanager
def folding_normalizations(
    layers: Iterable[Any],
    *,
    values: Mapping[int, np.ndarray],
    hold: Hold,
    kept: Iterable[Any],
    precision: str = "float32",
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
    precision : str
        In which the layers compute, but for those that are left in float32.

    Yields
    ------
    dict of int to ndarray
        The values of the weights that the layers are to be called with instead.
    """
    import keras
    import tensorflow as tf

    wanted, dtypes = set(kept), {"float32", precision}
    pairs, alone = [], []
    for layer in dict.fromkeys(layers):  # One may be part of two models.
        if not normalizes_channels(layer) or layer.compute_dtype not in dtypes:
            continue
        before = _find_convolution(layer)
        if before is not None and before not in wanted and before.compute_dtype in dtypes:
            pairs.append((before, layer))
        elif layer.compute_dtype != "float32":
            alone.append(layer)
    folded = dict(values)
    for convolution, normalization in pairs:
        scale, shift = _read_affine(normalization, values)
        is_separable = type(convolution) is keras.layers.SeparableConv2D
        variable = convolution.pointwise_kernel if is_separable else convolution.kernel
        kernel = values[id(variable)]
        # Of a depthwise kernel, the last two axes are the channels that come out.
        is_depthwise = type(convolution) is keras.layers.DepthwiseConv2D
        scales = scale.reshape(kernel.shape[2:]) if is_depthwise else scale
        folded[id(variable)] = (kernel * scales).astype(np.float32)
        if convolution.use_bias:
            bias = values[id(convolution.bias)]
            folded[id(convolution.bias)] = (bias * scale + shift).astype(np.float32)
        else:
            # In the convolution, and in its precision.
            bias = hold(round_to(shift, convolution.compute_dtype))
            convolution.activation = partial(tf.nn.bias_add, bias=bias)
        normalization.call = _pass_on
    for normalization in alone:
        held = [
            hold(round_to(each, normalization.compute_dtype))
            for each in _read_affine(normalization, values)
        ]
        normalization.call = partial(_multiply_and_add, held)
    try:
        yield folded
    finally:
        for convolution, _ in pairs:
            convolution.activation = keras.activations.linear
        for normalization in (*alone, *(layer for _, layer in pairs)):
            del normalization.call


def _pass_on(inputs: Any, *_: Any, **__: Any) -> Any:
    return inputs


def _multiply_and_add(held: list[Any], inputs: Any, *_: Any, **__: Any) -> Any:
    scale, shift = held
    return inputs * scale + shift


def normalizes_channels(layer: Any) -> bool:
    """Tell whether a Keras layer is one that may be folded, if a convolution is before it."""
    import keras

    return type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3)


def _find_convolution(layer: Any) -> Any:
    """Return the convolution whose output this layer normalizes and nothing else takes."""
    import keras

    if len(layer._inbound_nodes) != 1:
        return None
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    before = layer.input._keras_history.operation
    fits = (
        type(before) in kinds
        and before.activation is keras.activations.linear
        and before.data_format == "channels_last"
        and len(before._inbound_nodes) == len(before._outbound_nodes) == 1
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
