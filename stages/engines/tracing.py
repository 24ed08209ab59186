"""What a program computes, as a TensorFlow graph: view, preprocessing, network and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from permafrost.stages.backbones.applications import PREPROCESS_MODES
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.backbones.network import Network
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.shortcuts.choice import Hold, Shortcuts

VIEWS = ("identity", "hflip")
# Facts of keras.applications.imagenet_utils: the means and deviations of ImageNet's channels.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_DEVIATION_RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSpec:
    """What a program computes, besides the network.

    Attributes
    ----------
    layers : tuple of LayerSpec
        Outputs, in this order.
    preprocess : str
        ``"caffe"``, ``"tf"``, ``"torch"`` or ``"none"``.
    view : str
        ``"identity"``, or ``"hflip"`` for the mirror image.
    precision : str
        Of the network's products: ``"float32"``, ``"bfloat16"`` or ``"float16"``. Preprocessing,
        what meets its pixels first, depthwise convolutions, pooling and the outputs are float32 in
        any case.
    """

    layers: tuple[LayerSpec, ...]
    preprocess: str
    view: str = "identity"
    precision: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedProgram:
    """A program as a TensorFlow graph.

    Attributes
    ----------
    graph : tf.Graph
    batch : tf.Tensor of uint8, shape (None, height, width, channels)
        The placeholder of the images.
    outputs : list of tf.Tensor of float32, each (None, *shape)
        One for each layer.
    """

    graph: Any
    batch: Any
    outputs: list[Any]


def trace_program(
    network: Network,
    spec: ProgramSpec,
    *,
    hold: Hold,
    shortcuts: Shortcuts,
    device: str | None = None,
) -> TracedProgram:
    """Put a whole program into a graph of its own.

    Parameters
    ----------
    network : Network
    spec : ProgramSpec
    hold, shortcuts
        See `Network.trace`.
    device : str, optional
        As ``"/GPU:1"``; TensorFlow's choice by default.
    """
    import tensorflow as tf

    weights = network.read_weights()  # Before there is a graph.
    graph = tf.Graph()
    with graph.as_default(), graph.device(device):
        channels = network.input_shape[2]
        batch = tf.compat.v1.placeholder(tf.uint8, (None, *network.size, channels), name="images")
        inputs = preprocess(_apply_view(batch, spec.view), spec.preprocess)
        names = [layer.layer for layer in spec.layers]
        found = network.trace(inputs, names, weights=weights, hold=hold, shortcuts=shortcuts)
        outputs = [pool(found[layer.layer], layer) for layer in spec.layers]
    return TracedProgram(graph=graph, batch=batch, outputs=outputs)


def preprocess(images: Any, mode: str) -> Any:
    """Scale pixels as the backbone's family was trained with, inside a TensorFlow graph.

    Parameters
    ----------
    images : tf.Tensor of uint8, shape (n, height, width, channels)
        RGB, or grey.
    mode : str
        ``"caffe"``: BGR less the mean; ``"tf"``: -1 to 1; ``"torch"``: 0 to 1, standardised by
        channel; ``"none"``: 0 to 255.

    Returns
    -------
    tf.Tensor of float32
    """
    import tensorflow as tf

    pixels = tf.cast(images, tf.float32)
    if mode == "none":
        return pixels
    if mode == "tf":
        return pixels / 127.5 - 1.0
    if images.shape[-1] != 3:
        raise InputError(f"preprocessing {mode!r} needs 3 channels; use tf or none")
    if mode == "caffe":
        # While they are bytes: 4 times as fast as a slice with a negative step.
        return tf.cast(tf.reverse(images, [3]), tf.float32) - tf.constant(CAFFE_MEAN_BGR)
    if mode == "torch":
        return (pixels / 255.0 - tf.constant(TORCH_MEAN_RGB)) / tf.constant(TORCH_DEVIATION_RGB)
    raise UnknownNameError("preprocessing", mode, PREPROCESS_MODES)


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


def _apply_view(batch: Any, view: str) -> Any:
    import tensorflow as tf

    if view == "hflip":
        return tf.reverse(batch, [2])
    if view == "identity":
        return batch
    raise UnknownNameError("view", view, VIEWS)
