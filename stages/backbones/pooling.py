"""Poolings: from a layer's activation to what is kept of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from permafrost.stages.backbones.layers import LayerSpec

POOLINGS = ("avg", "max", "flatten", "none")


def pool(activation: Any, layer: LayerSpec) -> Any:
    """Pool an activation as its spec says; the result is float32."""
    import tensorflow as tf

    values = tf.cast(activation, tf.float32)
    shape = tuple(values.shape[1:])
    target = (-1, *layer.pool_shape(shape))
    axes = list(range(1, len(shape)))
    if layer.pooling == "avg":
        return tf.reduce_mean(values, axes)
    if layer.pooling == "max":
        return tf.reduce_max(values, axes)
    # A fetched tensor is handed over without a copy; one that only passes through must not alias
    # the session's own buffers, which identity sees to.
    return tf.reshape(values, target) if layer.pooling == "flatten" else tf.identity(values)
