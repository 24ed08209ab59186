"""A loaded network: its layers by name, their shapes and digests, and its trace on a tensor."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from permafrost.stages.backbones.above import find_cuts
from permafrost.stages.backbones.calls import LAST, Call, list_calls
from permafrost.stages.backbones.channels import find_channel_axes
from permafrost.stages.backbones.digests import digest_layers, list_entries
from permafrost.stages.backbones.input_scaling import scales_input
from permafrost.stages.backbones.layers import BackboneCard, LayerCard
from permafrost.stages.backbones.pooling import Tokens
from permafrost.stages.errors import InputError, in_one_line
from permafrost.stages.frameworks.recording import (
    bringing_tensors_along,
    recording,
    walk_layers,
)
from permafrost.stages.frameworks.start import list_gpus
from permafrost.stages.presets.converter import Converter
from permafrost.stages.shortcuts.batchnorm import folding_normalizations, normalizes_channels
from permafrost.stages.shortcuts.choice import FOLDED, PLAIN, WINOGRAD, Hold, Shortcuts
from permafrost.stages.shortcuts.half_precision import computing_in, round_to
from permafrost.stages.shortcuts.winograd import gains, replacing_convolutions

# The values of the trainable and of the other variables.
Weights = tuple[list[np.ndarray], list[np.ndarray]]
# With which shapes are found out: no factor of what there are of anything else.
_BATCH = 97


class Network(Protocol):
    """What the engine and the planning need of a backbone, be it a Keras model or a SavedModel.

    Attributes
    ----------
    size : tuple of int
        Height and width of the input, in pixels.
    """

    size: tuple[int, int]

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input, without the batch axis; None where any size is taken."""

    @property
    def normalizes(self) -> bool:
        """Whether activations are divided by deviations, which amplifies rounding without bound.

        False where `trace` takes no shortcuts.
        """

    @property
    def ways(self) -> frozenset[str]:
        """Which of `stages.shortcuts.choice.WAYS` differ; none where `trace` takes no shortcuts."""

    def describe(self) -> BackboneCard:
        """Note each layer's output shape and digest, and whether the input is scaled inside."""

    def digest_layers(self) -> dict[str, str]:
        """Return the digests of `describe` alone, which takes a fraction of the time."""

    def find_channel_axis(self, layer: str) -> int:
        """Return where a layer's channels are, the batch's axis counted; -1 for the last."""

    def find_tokens(self, layer: str) -> Tokens | None:
        """Return which of a layer's tokens are which, where that is known."""

    def read_weights(self) -> Weights:
        """Return the weights that `trace` puts into the graph, not to be written to.

        Outside any graph.
        """

    def trace(
        self,
        inputs: Any,
        layers: Sequence[str],
        *,
        weights: Weights,
        hold: Hold,
        shortcuts: Shortcuts,
    ) -> dict[str, Any]:
        """Run the network symbolically, inside the graph that is being built.

        Parameters
        ----------
        inputs : tf.Tensor of float32, shape (batch, height, width, channels)
            Preprocessed.
        layers : sequence of str
            Names, ``outer/inner`` for a layer of a nested model.
        weights : Weights
            As `read_weights` gave them.
        hold : callable
            Puts an array into the graph.
        shortcuts : Shortcuts
            What may be done otherwise than Keras does.

        Returns
        -------
        dict of str to tf.Tensor
        """


class KerasNetwork:
    """A Keras model as a backbone.

    Parameters
    ----------
    model : keras.Model
        Functional, Sequential or any other whose layers are its attributes.
    tokens : mapping of str to Tokens
        Of layers whose tokens are known, by name.
    converter : Converter, optional
        How a preset prepares its images.

    Attributes
    ----------
    size : tuple of int
        Height and width of the input, in pixels.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokens: Mapping[str, Tokens] = MappingProxyType({}),
        converter: Converter | None = None,
    ) -> None:
        self.model = model
        self._tokens = tokens
        self._converter = converter
        self.size = (0, 0)  # Known once a request has met the shape of the input.

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input, without the batch axis; empty if there is not exactly one."""
        shape = getattr(self.model, "input_shape", None)  # A model never built has none.
        return tuple(shape[1:]) if isinstance(shape, tuple) else ()

    @property
    def normalizes(self) -> bool:
        """Whether activations are divided by deviations; see `Network.normalizes`."""
        import keras

        kinds = (
            keras.layers.BatchNormalization,
            keras.layers.GroupNormalization,
            keras.layers.LayerNormalization,
        )
        return any(isinstance(layer, kinds) for _, layer in walk_layers(self.model))

    @property
    def ways(self) -> frozenset[str]:
        """Which ways there are to compute it; see `Network.ways`."""
        layers = [layer for _, layer in walk_layers(self.model)]
        found = {
            PLAIN: True,
            FOLDED: any(map(normalizes_channels, layers)),
            WINOGRAD: any(gains(layer, "float32") for layer in layers),
        }
        return frozenset(way for way, differs in found.items() if differs)

    def read_weights(self) -> Weights:
        """Return the values of the trainable and the other weights; outside any graph."""
        model = self.model
        return (
            [_look_at(variable) for variable in model.trainable_variables],
            [_look_at(variable) for variable in model.non_trainable_variables],
        )

    def trace(
        self,
        inputs: Any,
        layers: Sequence[str],
        *,
        weights: Weights,
        hold: Hold,
        shortcuts: Shortcuts,
    ) -> dict[str, Any]:
        """Run the network symbolically; see `Network.trace`.

        Nothing is cut here: a graph computes only what is fetched from it, so what lies beyond the
        deepest layer asked for never runs.
        """
        import keras

        known = dict(walk_layers(self.model))
        folding = known.values() if shortcuts.fold else ()
        kept = [known[name] for name in layers]
        # A GPU's library chooses for itself.
        n_axes = 0 if list_gpus() else shortcuts.winograd_axes
        gaining = known.values() if n_axes else ()
        values = dict(zip(map(id, self.model.trainable_variables), weights[0], strict=True))
        values |= dict(zip(map(id, self.model.non_trainable_variables), weights[1], strict=True))
        precision = shortcuts.precision
        with (
            computing_in(precision, self.model) as halved,
            folding_normalizations(
                folding, values=values, hold=hold, kept=kept, precision=precision
            ) as folded,
            replacing_convolutions(
                gaining, values=folded, hold=hold, n_axes=n_axes, precision=precision
            ),
            bringing_tensors_along(self.model),
            recording({name: known[name] for name in layers}) as outputs,
            keras.StatelessScope() as scope,
        ):
            for variable in self.model.variables:
                value = folded[id(variable)]
                rounded = round_to(value, precision) if id(variable) in halved else value
                # What the scope is made with would be cast to the variable's own dtype.
                scope.add_update((variable, hold(rounded)))
            self.model.call(inputs, training=False)
        return outputs

    def describe(self) -> BackboneCard:
        """Note each layer's output shape and digest; see `Network.describe`."""
        import keras

        shapes, n_calls = self._trace_shapes()
        numbers = {layer.name: number for number, layer in enumerate(self.model.layers)}
        cuts = set(self.list_cuts())
        n_weights = {
            name: sum(math.prod(weight.shape) for weight in layer.weights)
            for name, layer in walk_layers(self.model)
            if not isinstance(layer, keras.Model)
        }
        layers = {
            name: LayerCard(
                shape=shapes[name],
                digest=digest,
                channel_axis=self.find_channel_axis(name),
                n_calls=n_calls[name],
                number=numbers.get(name),
                is_cut=name in cuts and n_calls[name] == 1,
                n_weights=n_weights.get(name, 0),
                tokens=self.find_tokens(name),
            )
            for name, digest in self.digest_layers().items()
            if name in shapes
        }
        return BackboneCard(
            name=self.model.name,
            size=self.size,
            channels=int(self.input_shape[2] or 3),
            scales_input=scales_input(self._calls),
            takes_integers="int" in self.model.inputs[0].dtype,
            layers=layers,
            converter=self._converter,
        )

    def digest_layers(self) -> dict[str, str]:
        """Return the layers' digests, on any of Keras' backends; see `Network.digest_layers`."""
        digests = digest_layers(self.model)
        return {name: digests[name.split("/")[0]] for name, _ in walk_layers(self.model)}

    def find_channel_axis(self, layer: str) -> int:
        """Return where a layer's channels are; see `Network.find_channel_axis`."""
        return self._channel_axes.get(layer, LAST)

    def find_tokens(self, layer: str) -> Tokens | None:
        """Return which of a layer's tokens are which; see `Network.find_tokens`."""
        return self._tokens.get(layer)

    def list_cuts(self) -> list[str]:
        """List the layers that everything passes, see `above.find_cuts`."""
        outputs = self.model.outputs
        if len(outputs) != 1:
            return []
        return find_cuts(self._calls, outputs[0]._keras_history.operation.name)

    @cached_property
    def _calls(self) -> list[Call]:
        return list(list_calls(list_entries(self.model).values()))

    @cached_property
    def _channel_axes(self) -> dict[str, int]:
        return find_channel_axes(self._calls)

    def _trace_shapes(self) -> tuple[dict[str, tuple[int, ...]], Counter[str]]:
        """Have Keras call the network with shapes alone, which each of its backends can.

        Returns
        -------
        dict of str to tuple of int
            The shapes of the layers whose output has one.
        Counter
            How often each layer was called.
        """
        import keras

        images = keras.KerasTensor((_BATCH, *self.size, self.input_shape[2]), "float32")
        n_calls: Counter[str] = Counter()
        with recording(dict(walk_layers(self.model)), n_calls) as outputs:
            try:
                # The base's own: a Functional model's takes shortcuts past its layers.
                keras.Operation.compute_output_spec(self.model, images)
            except Exception as error:  # Layers raise whatever they like on what they do not take.
                raise refuse_images(self.model.name, images.shape[1:], error) from error
        shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
        known = {
            name: shape
            for name, shape in shapes.items()
            if shape
            and all(isinstance(axis, int) for axis in shape)
            # What is of parts of images, as of windows, has no row for each image.
            and outputs[name].shape[0] in (None, _BATCH)
        }
        return known, n_calls


def _look_at(variable: Any) -> np.ndarray:
    """Return a weight's values where they lie: a copy of all takes a tenth of a second."""
    import tensorflow as tf

    # Python's buffers know nothing of bfloat16, nor of what lies in a GPU's memory.
    if variable.dtype == "bfloat16" or list_gpus():
        copied: np.ndarray = variable.numpy()
        return copied
    return np.asarray(memoryview(tf.convert_to_tensor(variable.value)))


def refuse_images(name: str, shape: tuple[int, ...], error: Exception) -> InputError:
    """Return what a network that cannot be run is refused with.

    Parameters
    ----------
    name : str
        Of the network.
    shape : tuple of int
        Height, width and channels of the images.
    error : Exception
        What the framework raised.
    """
    # Keras puts its own advice before what it is about.
    reason = re.split(r"Error encountered:", str(error))[-1]
    return InputError(
        f"{name!r} cannot be run on images of {'x'.join(map(str, shape))}:"
        f" {in_one_line(reason)}; if they are too small or too large for it, give another --size"
    )
