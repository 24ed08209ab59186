"""The ``cnn`` head: a convolutional network trained from scratch, on pixels or on a map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from permafrost.stages.errors import InputError
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.networks.augment import augment_setting
from permafrost.stages.heads.networks.fitting import Design, Size, fit_network
from permafrost.stages.heads.networks.head import NetworkHead
from permafrost.stages.heads.networks.network import OUTPUTS, schedule_setting
from permafrost.stages.heads.networks.training import Lesson
from permafrost.stages.heads.settings import (
    class_weight_setting,
    count_setting,
    dropout_setting,
    layer_sizes,
    optimizer_setting,
    positive_setting,
    setting,
)

SIZES_WANTED = "whole numbers from 1 on, as in 64 or [32,64]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CnnSettings:
    """Settings of a convolutional network.

    Parameters
    ----------
    filters : tuple of int
        Of the convolutions of each block.
    convolutions : int
        In each block, one after the other.
    kernel : int
        Height and width of each convolution.
    pool : int
        Height and width of the maxima that are taken at the end of each block; 1 takes none. Where
        a map is no multiple of it, the last ones are of fewer values.
    dropout : float
        Part of what a block gives that is dropped while training.
    hidden : tuple of int
        Units of the layers behind the blocks.
    hidden_dropout : float
        Part of each hidden layer's units that is dropped while training.
    learning_rate, epochs, batch_size, patience, class_weight
        As in `MlpSettings`.
    optimizer : {"adam", "sgd"}
        Keras' Adam, or its SGD with momentum 0.9.
    schedule : {"constant", "cosine"}
        Whether all steps have one rate, or it rises over the first tenth of them to `learning_rate`
        and falls in a cosine to 0 from there on. That takes all `epochs`, so give `patience` 0.
    augment : {"none", "flip", "crop", "flip+crop"}
        What is done to images at random while training, on the layer ``pixels`` alone: mirrored;
        shifted by up to an eighth, with their edges mirrored.
    """

    filters: tuple[int, ...] = setting((32, 64), layer_sizes, SIZES_WANTED)
    convolutions: int = count_setting(2)
    kernel: int = count_setting(3)
    pool: int = count_setting(2)
    dropout: float = dropout_setting(0.25)
    hidden: tuple[int, ...] = setting((128,), layer_sizes, SIZES_WANTED)
    hidden_dropout: float = dropout_setting(0.5)
    learning_rate: float = positive_setting(1e-3)
    optimizer: str = optimizer_setting()
    schedule: str = schedule_setting()
    epochs: int = count_setting(30)
    batch_size: int = count_setting(64)
    patience: int = count_setting(5, minimum=0)
    augment: str = augment_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


class CnnDesign(Design):
    """A convolutional network that is to be built."""

    kind = "cnn"
    smaller = "a smaller batch_size, or fewer filters, with --set filters=16,32"

    def measure(self, *, n_outputs: int) -> Size:
        """Return how large the network will be, by what its layers will be."""
        settings = self.settings
        height, width, n_in = self.origin.shape
        n_weights, n_activations = 0, height * width * n_in
        for n_out in settings.filters:
            for _ in range(settings.convolutions):
                n_weights += (settings.kernel**2 * n_in + 1) * n_out
                n_activations += height * width * n_out
                n_in = n_out
            height, width = (math.ceil(axis / settings.pool) for axis in (height, width))
            n_activations += 2 * height * width * n_in
        n_in *= height * width
        for n_out in (*settings.hidden, n_outputs):
            n_weights += (n_in + 1) * n_out
            n_in = n_out
        return Size(n_weights=n_weights, n_activations=n_activations)

    def build(self, lesson: Lesson, columns: Any, *, memory_bytes: int) -> Any:
        """Return the untrained network."""
        from keras import Input, Sequential, layers

        truth = lesson.truth
        activation, name = OUTPUTS[truth.task]
        return Sequential(
            [
                Input((self.n_features,), name="features"),
                layers.Reshape(self.origin.shape, name="map"),
                *self._list_blocks(),
                layers.Flatten("channels_last", name="flat"),
                *self._list_hidden(),
                layers.Dense(truth.n_outputs, activation=activation, name=name),
            ],
            name=self.kind,
        )

    def _list_blocks(self) -> Iterator[Any]:
        from keras import layers

        settings = self.settings
        same: dict[str, Any] = {"padding": "same", "data_format": "channels_last"}
        for block, n_filters in enumerate(settings.filters, start=1):
            for place in range(1, settings.convolutions + 1):
                name = f"cnn_block{block}_conv{place}"
                yield layers.Conv2D(
                    n_filters, settings.kernel, activation="relu", name=name, **same
                )
            yield layers.MaxPooling2D(settings.pool, name=f"cnn_block{block}_pool", **same)
            yield layers.Dropout(settings.dropout, name=f"cnn_block{block}_dropout")

    def _list_hidden(self) -> Iterator[Any]:
        from keras import layers

        for place, units in enumerate(self.settings.hidden, start=1):
            yield layers.Dense(units, activation="relu", name=f"cnn_hidden{place}")
            yield layers.Dropout(self.settings.hidden_dropout, name=f"cnn_hidden{place}_dropout")


def fit_cnn(settings: CnnSettings, rows: FitRows) -> NetworkHead:
    """Train a network from scratch, see `fit_network`.

    Raises
    ------
    InputError
        The rows are no maps, or what `fit_network` raises.
    """
    origin = rows.matrix.origin
    if not origin.is_map:
        raise InputError(
            f"cnn needs a layer with height, width and channels, and a row of this one is of shape"
            f" {origin.shape}; fit it on the layer pixels, or on a map without pooling"
        )
    return fit_network(CnnDesign(settings=settings, origin=origin), rows)
