"""What a program computes, as a TensorFlow graph: view, preprocessing, network and pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from permafrost.stages.backbones.layers import LayerSpec, pool_outputs
from permafrost.stages.backbones.network import Network
from permafrost.stages.backbones.preprocessing import preprocess
from permafrost.stages.engines.program import ProgramSpec, list_sources
from permafrost.stages.shortcuts.choice import Hold, Shortcuts


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedProgram:
    """A program as a TensorFlow graph.

    Attributes
    ----------
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

    weights = network.read_weights()  # In a graph, no value could be read.
    graph = tf.Graph()
    with graph.as_default(), graph.device(device):
        channels = network.input_shape[2]
        batch = tf.compat.v1.placeholder(tf.uint8, (None, *network.size, channels), name="images")
        inputs = preprocess(batch, mode=spec.preprocess, view=spec.view)
        names = list_sources(spec, network)
        found = network.trace(inputs, names, weights=weights, hold=hold, shortcuts=shortcuts)
        outputs = [_keep(layer, found, network) for layer in spec.layers]
    return TracedProgram(graph=graph, batch=batch, outputs=outputs)


def _keep(layer: LayerSpec, found: Mapping[str, Any], network: Network) -> Any:
    import tensorflow as tf
    from keras import ops

    pooled = pool_outputs(ops, layer, found, network)
    # A fetched tensor is handed over without a copy; one that only passes through must not alias
    # the session's own buffers, which identity sees to.
    return tf.identity(pooled) if layer.pooling == "none" else pooled
