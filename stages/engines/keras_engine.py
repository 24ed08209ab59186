"""A program run by Keras, on whichever backend it is set to.

One Keras model from uint8 pixels to pooled float32 activations, compiled once: what is shorter than
a batch is filled up to one. No other backend than the one that Keras is set to is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from permafrost.stages.backbones.layers import pool_outputs
from permafrost.stages.backbones.network import KerasNetwork, Network
from permafrost.stages.backbones.preprocessing import preprocess
from permafrost.stages.engines.program import (
    OutOfMemoryError,
    ProgramSpec,
    fill_up,
    list_sources,
    refuse_run,
)
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.cutting import cut_model
from permafrost.stages.frameworks.recording import walk_layers
from permafrost.stages.shortcuts.half_precision import POLICIES, find_delicate_layers

_REMEDY = "--engine keras runs Functional and Sequential models; use --engine tensorflow"
# Those of TensorFlow, which need not be there.
_REFUSALS = ("UnimplementedError", "InvalidArgumentError")
# Each backend raises an error of its own for this; that of JAX is known by its text alone.
_OUT_OF_MEMORY = re.compile(
    r"ResourceExhausted|RESOURCE_EXHAUSTED|OutOfMemory|MemoryError|can't allocate memory"
    r"|out of memory",
    re.IGNORECASE,
)


class KerasProgram:
    """A `Program` of Keras.

    Parameters
    ----------
    network : Network
        A `KerasNetwork` of a Functional or Sequential model.
    spec : ProgramSpec
    batch_size : int
        Images in most batches: fewer are filled up to as many, so that one program serves all.
    compiled : bool
        False runs one operation after the other, as the reference that a compiler is checked with.

    Raises
    ------
    InputError
        A network, or a layer of it, that only TensorFlow's graphs reach.
    """

    def __init__(
        self, network: Network, spec: ProgramSpec, *, batch_size: int = 1, compiled: bool = True
    ) -> None:
        self._run = _compile(_build_model(network, spec), compiled=compiled)
        self._batch_size = batch_size

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, see `Program`; one larger than all before is compiled anew."""
        from keras import tree

        self._batch_size = max(self._batch_size, len(batch))
        try:
            # Some backends return a single output as it is, and not in a list.
            outputs = tree.flatten(self._run(fill_up(batch, self._batch_size)))
            return [np.asarray(output)[: len(batch)] for output in outputs]
        except Exception as error:
            if type(error).__name__ in _REFUSALS:
                raise refuse_run("Keras", error) from error
            if not _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"):
                raise
        # Not in the `except`, where the error keeps frames alive that hold the device's memory.
        self._batch_size = 1
        raise OutOfMemoryError(f"a batch of {len(batch)} images")

    def close(self) -> None:
        """Release the device memory."""
        del self._run


def _build_model(network: Network, spec: ProgramSpec) -> Any:
    import keras

    if not isinstance(network, KerasNetwork):
        raise InputError(f"Keras does not know the layers of a SavedModel folder: {_REMEDY}")
    names = list_sources(spec, network)
    backbone = _set_precision(_cut(network, names), spec.precision)
    images = keras.Input(backbone.inputs[0].shape[1:], dtype="uint8", name="images")
    pixels = preprocess(images, mode=spec.preprocess, view=spec.view)
    found = dict(zip(names, backbone(pixels), strict=True))
    outputs = [pool_outputs(keras.ops, layer, found, network) for layer in spec.layers]
    return keras.Model(images, outputs)


def _cut(network: KerasNetwork, names: list[str]) -> Any:
    """Return the network up to the layers, as a model that gives a list of their outputs."""
    import keras

    model = network.model
    for name in names:
        _check_graphs(model, name)
    shape = (*network.size, network.input_shape[2])
    pixels = keras.Input(shape, dtype=model.inputs[0].dtype)
    return cut_model(model, names, name="backbone", inputs=[pixels])


def _check_graphs(model: Any, name: str) -> None:
    """Refuse a layer of a model, or of one within it, whose ``call`` is Python of its own."""
    known = {"": model, **dict(walk_layers(model))}
    scopes = name.split("/")[:-1]
    for depth in range(len(scopes) + 1):
        outer = known["/".join(scopes[:depth])]
        if not getattr(outer, "inputs", None):
            raise InputError(f"{name!r} lies in {outer.name!r}, of a class of its own: {_REMEDY}")


def _set_precision(model: Any, precision: str) -> Any:
    """Build the model anew with products in another precision; the weights stay float32."""
    import keras

    if precision == "float32":
        return model
    if precision not in POLICIES:
        raise UnknownNameError("precision", precision, ("float32", *POLICIES))
    delicate = set(map(id, find_delicate_layers(layer for _, layer in walk_layers(model))))

    def rebuild(layer: Any) -> Any:
        if not isinstance(layer, keras.Layer) or id(layer) in delicate:
            return layer
        try:
            return type(layer).from_config({**layer.get_config(), "dtype": POLICIES[precision]})
        except TypeError:  # Some of KerasHub's cannot be built anew, and stay as they are.
            return layer

    rebuilt = keras.models.clone_model(model, clone_function=rebuild, recursive=True)
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _compile(model: Any, *, compiled: bool) -> Callable[[np.ndarray], Any]:
    import keras

    if not compiled or keras.config.backend() != "jax":
        model.compile(optimizer=None, run_eagerly=not compiled, jit_compile=False)
        run: Callable[[np.ndarray], Any] = model.predict_on_batch
        return run
    import jax

    # Not predict_on_batch, which gives JAX the weights' memory away for each batch and takes it
    # back: a batch that does not fit would leave a network without weights.
    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def compute(weights: list[list[Any]], images: Any) -> Any:
        return model.stateless_call(*weights, images, training=False)[0]

    return partial(jax.jit(compute), weights)
