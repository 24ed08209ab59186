"""The ``finetune`` head: a backbone's own layers above a cached one, trained on with a new top."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from permafrost.stages.errors import InputError
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.networks.augment import augment_setting
from permafrost.stages.heads.networks.fitting import Design, Size, fit_network
from permafrost.stages.heads.networks.head import NetworkHead, count_activations
from permafrost.stages.heads.networks.network import OUTPUTS, schedule_setting, seeded
from permafrost.stages.heads.networks.probe import fit_last_layer
from permafrost.stages.heads.networks.training import Course, Lesson
from permafrost.stages.heads.settings import (
    choice,
    class_weight_setting,
    count_setting,
    dropout_setting,
    layer_sizes,
    number,
    optimizer_setting,
    positive_setting,
    setting,
    text,
)
from permafrost.stages.matrices.matrix import LayersAbove


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """Settings of fine-tuning.

    Parameters
    ----------
    weights : {"backbone", "random"}
        What the backbone's layers start from: its own weights, or new ones, which is the same
        architecture from scratch.
    until : str
        The last of the backbone's layers; by default the one before its own pooling or flattening,
        and the last one of a network that has neither.
    top : {"avg", "flatten"}
        What is made of the map that they give.
    hidden : tuple of int
        Units of the new layers before the last one.
    dropout : float
        Part of what each of the new layers takes that is dropped while training.
    init : {"probe", "random"}
        What the last layer starts as: the linear head that fits what it is given, or random
        weights. A top with hidden layers, or on random weights, always starts with random ones.
    probe_C : float
        The `C` of that linear head, of values 1 / alpha. A smaller one gives smaller weights, under
        which the first steps change less of what the network says.
    warmup : int
        So many epochs at first train the top alone.
    batchnorm : {"frozen", "train"}
        Whether batch normalisations keep their statistics and weights, or go on learning both.
    layer_decay : float
        The learning rate of each of the backbone's layers is this times that of the next one
        above; that of the top is `learning_rate`.
    learning_rate, epochs, batch_size, patience, class_weight
        As in `MlpSettings`.
    optimizer, schedule, augment
        As in `CnnSettings`.
    """

    weights: str = setting("backbone", choice("backbone", "random"), "backbone or random")
    until: str = setting("", text, "the name of a layer")
    top: str = setting("avg", choice("avg", "flatten"), "avg or flatten")
    hidden: tuple[int, ...] = setting((), layer_sizes, "whole numbers from 1 on, or nothing")
    dropout: float = dropout_setting(0.0)
    init: str = setting("probe", choice("probe", "random"), "probe or random")
    probe_C: float = positive_setting(1.0)  # noqa: N815
    warmup: int = count_setting(0, minimum=0)
    batchnorm: str = setting("frozen", choice("frozen", "train"), "frozen or train")
    layer_decay: float = setting(1.0, number(lambda d: 0 < d <= 1), "a number above 0, up to 1")
    learning_rate: float = positive_setting(1e-4)
    optimizer: str = optimizer_setting()
    schedule: str = schedule_setting()
    epochs: int = count_setting(20)
    batch_size: int = count_setting(32)
    patience: int = count_setting(5, minimum=0)
    augment: str = augment_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


@dataclass(frozen=True, kw_only=True)
class FinetuneDesign(Design):
    """Layers of a backbone and a new top."""

    kind = "finetune"
    smaller = "a smaller batch_size, with --set batch_size=4, or a later layer"
    rows: FitRows
    above: LayersAbove

    @cached_property
    def body(self) -> Any:
        """The backbone's layers, as a Keras model."""
        body = self.above.build(until=self.settings.until)
        if self.settings.weights == "random":
            with seeded(self.rows.seed):
                body = _renew(body)
        if self.settings.batchnorm == "frozen" and self.settings.weights == "backbone":
            _freeze_normalizations(body)
        return body

    def measure(self, *, n_outputs: int) -> Size:
        """Return how large the network will be."""
        widths = [self._n_columns, *self.settings.hidden, n_outputs]
        n_top = sum((n + 1) * m for n, m in itertools.pairwise(widths))
        return Size(
            n_weights=self.body.count_params() + n_top,
            n_activations=count_activations(self.body),
        )

    @property
    def _n_columns(self) -> int:
        shape = self.body.output_shape[1:]
        return int(shape[-1] if self.settings.top == "avg" else math.prod(shape))

    def build(self, lesson: Lesson, columns: Any, *, memory_bytes: int) -> Any:
        """Return the network, from flat rows to outputs."""
        import keras
        from keras import layers

        shape = self.body.input_shape[1:]
        features = keras.Input((math.prod(shape),), name="features")
        tensor = self.body(layers.Reshape(shape, name="map")(features))
        tensor = _pool(tensor, self.settings.top)
        for place, units in enumerate(self.settings.hidden, start=1):
            tensor = self._drop(tensor, place)
            tensor = layers.Dense(units, activation="relu", name=f"top_hidden{place}")(tensor)
        tensor = self._drop(tensor, len(self.settings.hidden) + 1)
        activation, name = OUTPUTS[lesson.truth.task]
        output = layers.Dense(lesson.truth.n_outputs, activation=activation, name=name)
        network = keras.Model(features, output(tensor), name=self.kind)
        if self._is_probed:
            fit_last_layer(
                keras.Model(features, tensor),
                output,
                lesson,
                self.rows.targets.select(np.sort(self.rows.train)),
                settings=self.settings,
                seed=self.rows.seed,
                memory_bytes=memory_bytes,
            )
        return network

    @property
    def _is_probed(self) -> bool:
        settings = self.settings
        is_known = settings.weights == "backbone" and not settings.hidden
        return settings.init == "probe" and is_known

    def _drop(self, tensor: Any, place: int) -> Any:
        from keras import layers

        if not self.settings.dropout:
            return tensor
        return layers.Dropout(self.settings.dropout, name=f"top_dropout{place}")(tensor)

    def plan(self, network: Any) -> Course:
        """Return how it is trained: the top at the full rate, each layer below at a smaller one."""
        depths = _count_depths(self.body)
        below = [depths.get(id(one), 0) for one in network.trainable_variables]
        return dataclasses.replace(
            super().plan(network),
            rates=[self.settings.layer_decay**depth for depth in below],
            warmup_rates=[0.0 if depth else 1.0 for depth in below],
            warmup=self.settings.warmup,
        )


def fit_finetune(settings: FinetuneSettings, rows: FitRows) -> NetworkHead:
    """Train the layers above the rows' own with a new top, see `fit_network`.

    Raises
    ------
    InputError
        The rows are not one layer as it is, or what `fit_network` raises.
    StageError
        The backbone or its layers cannot be had.
    """
    origin = rows.matrix.origin
    above = origin.above
    if above is None:
        raise InputError(
            "finetune needs one layer of one backbone, as it is: name a layer without pooling, and"
            " not several joined by +"
        )
    return fit_network(
        FinetuneDesign(settings=settings, origin=origin, rows=rows, above=above), rows
    )


def _pool(tensor: Any, top: str) -> Any:
    """Make a row of values of what the backbone gives."""
    from keras import layers

    n_axes = len(tensor.shape) - 1
    if n_axes == 1:
        return tensor
    if top == "flatten":
        return layers.Flatten("channels_last", name="top_flat")(tensor)
    kinds = {2: layers.GlobalAveragePooling1D, 3: layers.GlobalAveragePooling2D}
    return kinds[n_axes](data_format="channels_last", name="top_pool")(tensor)


def _renew(body: Any) -> Any:
    """Return the same architecture with new weights; what scales images is kept."""
    import keras

    fresh = keras.models.clone_model(body)
    for old, new in zip(body.layers, fresh.layers, strict=True):
        if isinstance(old, keras.layers.Normalization):
            new.set_weights(old.get_weights())
            new.finalize_state()
    return fresh


def _walk(model: Any) -> Any:
    """Yield the layers that are no models themselves, in their order."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _walk(layer)
        else:
            yield layer


def _freeze_normalizations(body: Any) -> None:
    import keras

    for layer in _walk(body):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _count_depths(body: Any) -> dict[int, int]:
    """Return, by the identity of each trainable variable, how far below the top its layer is."""
    layers = [layer for layer in _walk(body) if layer.trainable_variables]
    return {
        id(variable): depth
        for depth, layer in enumerate(reversed(layers), start=1)
        for variable in layer.trainable_variables
    }
