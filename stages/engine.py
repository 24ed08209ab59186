"""One program per backbone and layers: a uint8 batch in, activations out.

Casting, preprocessing, the network and pooling are one TensorFlow graph, run by a session, which
runs only what is fetched: the network ends at the deepest layer asked for. The weights are
variables of the session and not constants of the graph. Constants would be copied by each of a
dozen optimization passes (VGG16 then starts 3 s later and takes 1.7 GB more), and what they would
gain, folding, must be off for the numbers to stay close to Keras' (see `configure_session`). In
half precision, whose rounding is far coarser, they are constants, and folding is on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.applications import PREPROCESS_MODES
from stages.errors import InputError, UnknownNameError
from stages.layers import LayerSpec
from stages.network import Hold, Network
from stages.parity import measure_errors
from stages.precision import configure_session, find_delicate_products, find_needed
from stages.shortcuts import (
    NO_SHORTCUTS,
    TOLERANCE,
    Shortcuts,
    choose_shortcuts,
    draw_probe,
)

_log = logging.getLogger(__name__)

VIEWS = ("identity", "hflip")
# Facts of keras.applications.imagenet_utils: the means and deviations of ImageNet's channels.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_DEVIATION_RGB = (0.229, 0.224, 0.225)
_SMALLEST_VARIABLE_BYTES = 4096
# More than any network with batch normalization in keras.applications has; VGG16's fc1 has more.
_FOLDED_BYTES = 400_000_000


class OutOfMemoryError(Exception):
    """The batch does not fit the device's memory; a smaller one may."""


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


class Program:
    """A compiled program; call it with a batch.

    Parameters
    ----------
    network : Network
    spec : ProgramSpec
    shortcuts : Shortcuts, optional
        By default those that gain most, given that the numbers stay close to Keras': where rounding
        may be amplified, images that are always the same are put through both ways.
    """

    def __init__(
        self, network: Network, spec: ProgramSpec, *, shortcuts: Shortcuts | None = None
    ) -> None:
        chosen = shortcuts or choose_shortcuts(spec.precision, normalizes=network.normalizes)
        self._session = _Session(network, spec, chosen)
        if shortcuts is None and spec.precision == "float32" and network.normalizes:
            plain = _Session(network, spec, NO_SHORTCUTS)
            probe = draw_probe((*network.size, int(network.input_shape[2] or 3)))
            errors = measure_errors(self._session, plain, [probe])
            is_close = max(largest for largest, _ in errors) <= TOLERANCE
            rejected, self._session = (plain, self._session) if is_close else (self._session, plain)
            rejected.close()

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch.

        Parameters
        ----------
        batch : ndarray of uint8, shape (n, height, width, channels)
            Any n: a smaller last batch is no new program.

        Returns
        -------
        list of ndarray of float32, each (n, *shape)
            One for each of the spec's layers.

        Raises
        ------
        OutOfMemoryError
        """
        return self._session(batch)

    def close(self) -> None:
        """Release the device memory."""
        self._session.close()


class _Session:
    """A TensorFlow session with a traced program in it."""

    def __init__(self, network: Network, spec: ProgramSpec, shortcuts: Shortcuts) -> None:
        import tensorflow as tf

        is_float32 = spec.precision == "float32"
        held = _HeldArrays(fold=not is_float32)
        traced = trace_program(network, spec, hold=held, shortcuts=shortcuts)
        config = configure_session(spec.precision)
        session = tf.compat.v1.Session(graph=traced.graph, config=config)
        held.fill(session, traced.outputs)
        kept = [] if is_float32 else find_delicate_products(traced.batch, traced.outputs)
        # What is fetched keeps its precision, and an operation is fetched without its value.
        self._run = session.make_callable([*traced.outputs, *kept], [traced.batch])
        self._n_outputs = len(traced.outputs)
        self._session = session
        self._out_of_memory = tf.errors.ResourceExhaustedError

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = self._run(batch)[: self._n_outputs]
        except (self._out_of_memory, MemoryError) as error:
            raise OutOfMemoryError(f"a batch of {len(batch)} images") from error
        return outputs

    def close(self) -> None:
        self._session.close()


class HalvingProgram:
    """A program that goes on with smaller batches once one did not fit the device's memory.

    Parameters
    ----------
    program : callable
        As `Program`: raises `OutOfMemoryError`.
    n_at_once : int
        How many batches the program may be called with at once.
    """

    def __init__(
        self, program: Callable[[np.ndarray], list[np.ndarray]], *, n_at_once: int = 1
    ) -> None:
        self._program = program
        self._largest: int | None = None
        self.n_at_once = n_at_once

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run a batch, in pieces if need be; see `Program.__call__`."""
        step = self._largest or max(1, len(batch))
        try:
            pieces = [
                self._program(batch[start : start + step]) for start in range(0, len(batch), step)
            ]
        except OutOfMemoryError:
            if step == 1:
                raise
            self._largest = step // 2
            _log.warning("out of memory with %d images at once; going on with %d", step, step // 2)
            return self(batch)
        if len(pieces) == 1:
            return pieces[0]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def trace_program(
    network: Network, spec: ProgramSpec, *, hold: Hold, shortcuts: Shortcuts
) -> TracedProgram:
    """Put a whole program into a graph of its own.

    Parameters
    ----------
    network : Network
    spec : ProgramSpec
    hold, shortcuts
        See `Network.trace`.
    """
    import tensorflow as tf

    weights = network.read_weights()  # Before there is a graph.
    graph = tf.Graph()
    with graph.as_default():
        channels = network.input_shape[2]
        batch = tf.compat.v1.placeholder(tf.uint8, (None, *network.size, channels), name="images")
        inputs = preprocess(_apply_view(batch, spec.view), spec.preprocess)
        names = [layer.layer for layer in spec.layers]
        found = network.trace(inputs, names, weights=weights, hold=hold, shortcuts=shortcuts)
        outputs = [pool(found[layer.layer], layer) for layer in spec.layers]
    return TracedProgram(graph=graph, batch=batch, outputs=outputs)


class _HeldArrays:
    """Arrays in the graph that is being built: variables, whose values come with the session.

    Parameters
    ----------
    fold : bool
        Make them constants, up to an amount, for what folding gains.
    """

    def __init__(self, *, fold: bool) -> None:
        self._waiting: list[tuple[Any, Any, np.ndarray]] = []
        self._foldable_bytes = _FOLDED_BYTES if fold else 0

    def __call__(self, values: np.ndarray) -> Any:
        import tensorflow as tf

        if values.dtype != np.float32 or values.nbytes < _SMALLEST_VARIABLE_BYTES:
            return tf.constant(values)
        if values.nbytes <= self._foldable_bytes:
            self._foldable_bytes -= values.nbytes
            return tf.constant(values)
        initial = tf.compat.v1.placeholder(values.dtype, values.shape)
        variable = tf.compat.v1.Variable(initial, use_resource=True, trainable=False)
        self._waiting.append((variable, initial, values))
        return variable.read_value()

    def fill(self, session: Any, outputs: list[Any]) -> None:
        """Give the session the values that the outputs need; they are not kept here."""
        needed = find_needed(outputs)
        waiting = [entry for entry in self._waiting if entry[0].handle.op in needed]
        # In one run: each run of its own would optimize the graph again.
        feeds = {initial: values for _, initial, values in waiting}
        session.run([variable.initializer for variable, *_ in waiting], feeds)
        self._waiting.clear()


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
