"""Half precision in the way of Keras' policies: layers cast what they are given, and their weights.

TensorFlow can also rewrite a finished graph, see `stages.engines.mixed_precision`. That takes the
weights as constants, which every pass over the graph copies: VGG16 starts 2 s later then and takes
1 GB more. Written so from the beginning, the graph is as fast, and its weights are variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

# The policy of Keras for each half precision.
POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_QUICK_ACTIVATIONS = ("linear", "relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu")


@contextmanager
def computing_in(precision: str, model: Any) -> Iterator[frozenset[int]]:
    """Have the layers of a Keras model compute in a precision while they are traced.

    Parameters
    ----------
    precision : str
        ``"float32"`` leaves them as they are.
    model : keras.Model

    Yields
    ------
    frozenset of int
        The ``id`` of each variable that is read in this precision alone, and may be held in it.
        Not vectors: what normalizes takes them as they are.
    """
    import keras

    parts = [] if precision == "float32" else list(dict.fromkeys(_walk_parts(model)))
    delicate = set(find_delicate_layers(parts))
    before = {part: part.dtype_policy for part in parts if part not in delicate}
    exact = {
        id(variable)
        for part in delicate
        if not isinstance(part, keras.Model)
        for variable in part.variables
    }
    halved = {
        id(variable)
        for part in before
        if part.autocast
        for variable in part.variables
        if len(variable.shape) > 1
    }
    slow = {part: part.activation for part in before if _is_slow(getattr(part, "activation", None))}
    for part in before:
        part.dtype_policy = POLICIES[precision]
    for part, activation in slow.items():
        part.activation = partial(_activate_in_float32, activation)
    try:
        yield frozenset(halved - exact)
    finally:
        for part, policy in before.items():
            part.dtype_policy = policy
        for part, activation in slow.items():
            part.activation = activation


def _is_slow(activation: Any) -> bool:
    """Tell whether an activation takes exponentials, in which half precision is thrice as slow."""
    return activation is not None and getattr(activation, "__name__", "") not in _QUICK_ACTIVATIONS


def _activate_in_float32(activation: Callable[[Any], Any], inputs: Any) -> Any:
    from keras import ops

    return ops.cast(activation(ops.cast(inputs, "float32")), inputs.dtype)


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round values to a dtype that TensorFlow knows, such as ``"bfloat16"``."""
    import tensorflow as tf

    rounded: np.ndarray = values.astype(tf.as_dtype(dtype).as_numpy_dtype, copy=False)
    return rounded


def find_delicate_layers(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield the layers that stay as they are, as `mixed_precision.find_delicate_products`.

    Those up to the first product of the pixels and depthwise ones, with what normalizes these;
    exponentials; what has a precision of its own; and whole models, which would cast the pixels
    for all of their layers.

    Parameters
    ----------
    layers : iterable of keras.Layer
        In the order in which they are called.
    """
    import keras

    kinds = (keras.layers.DepthwiseConv2D, keras.layers.Softmax, keras.Model)
    exact: set[Any] = set()
    is_first = True
    for layer in layers:
        if (
            is_first
            or isinstance(layer, kinds)
            or layer.dtype_policy.name != "float32"
            or (isinstance(layer, keras.layers.Activation) and _is_slow(layer.activation))
            or (isinstance(layer, keras.layers.BatchNormalization) and exact >= _find_before(layer))
        ):
            exact.add(layer)
            yield layer
        is_first = is_first and not hasattr(layer, "kernel")


def _find_before(layer: Any) -> set[Any]:
    """Return the layers that one is called on the outputs of."""
    return {parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes}


def _walk_parts(layer: Any) -> Iterator[Any]:
    """Yield a layer and all that it is made of, as attention of its projections, in order."""
    yield layer
    for part in layer._layers:
        yield from _walk_parts(part)
