"""The ``mlp`` head: a small Keras network that takes raw features and scales them inside."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.frameworks.weights_file import check_weights
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.head import HeadRecord, refuse_damage
from permafrost.stages.heads.networks.fitting import Design, Size, fit_network
from permafrost.stages.heads.networks.head import FILE_NAME, NetworkHead
from permafrost.stages.heads.networks.network import OUTPUTS
from permafrost.stages.heads.networks.training import Lesson
from permafrost.stages.heads.settings import (
    choice,
    class_weight_setting,
    count_setting,
    dropout_setting,
    layer_sizes,
    positive_setting,
    setting,
)
from permafrost.stages.matrices.scaling import SCALES


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSettings:
    """Settings of a multi-layer perceptron.

    Parameters
    ----------
    hidden : tuple of int
        Units of the hidden layers, from the features on; empty is a softmax regression.
    dropout : float
        Part of every hidden layer's units that is dropped while training.
    learning_rate : float
        Step size of Adam.
    epochs : int
        Most passes over the training rows.
    batch_size : int
        Rows a step.
    patience : int
        Epochs without a lower loss on the held-out tenth of the training rows before the fit
        stops and goes back to the best ones; 0 holds nothing out and runs all epochs. Held out are
        whole groups, and nothing where there are too few, see `choose_held_out`.
    scale : {"standard", "l2", "none"}
        Columns to mean 0 and variance 1, rows to length 1, or nothing.
    class_weight : "none", "balanced" or tuple of (str, float)
        As in `LogregSettings`.
    """

    hidden: tuple[int, ...] = setting(
        (256,), layer_sizes, "whole numbers from 1 on, as in 256 or 256,128"
    )
    dropout: float = dropout_setting(0.5)
    learning_rate: float = positive_setting(1e-3)
    epochs: int = count_setting(50)
    batch_size: int = count_setting(64)
    patience: int = count_setting(10, minimum=0)
    scale: str = setting("standard", choice(*SCALES), f"one of {', '.join(SCALES)}")
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


def build_network(settings: MlpSettings, *, n_features: int, n_outputs: int, task: str) -> Any:
    """Return the untrained Keras Sequential of `settings`; its scaling is part of it."""
    from keras import Input, Sequential, layers

    scaling = {
        "standard": [layers.Normalization(name="standard")],
        "l2": [layers.UnitNormalization(name="l2")],
        "none": [],
    }
    hidden = [
        layer
        for i, units in enumerate(settings.hidden)
        for layer in (
            layers.Dense(units, activation="relu", name=f"hidden_{i}"),
            layers.Dropout(settings.dropout, name=f"dropout_{i}"),
        )
    ]
    activation, name = OUTPUTS[task]
    output = layers.Dense(n_outputs, activation=activation, name=name)
    inputs = Input((n_features,), name="features")
    return Sequential([inputs, *scaling[settings.scale], *hidden, output], name="mlp")


class MlpDesign(Design):
    """A multi-layer perceptron that is to be built."""

    kind = "mlp"
    smaller = "fewer units, with --set hidden=32, or pool the layer"

    def measure(self, *, n_outputs: int) -> Size:
        """Return how large the network will be; what it gives for a row is small beside it."""
        widths = [self.n_features, *self.settings.hidden, n_outputs]
        return Size(n_weights=sum((n + 1) * m for n, m in itertools.pairwise(widths)))

    def build(self, lesson: Lesson, columns: Any, *, memory_bytes: int) -> Any:
        """Return the untrained network, with its scaling."""
        truth = lesson.truth
        network = build_network(
            self.settings, n_features=self.n_features, n_outputs=truth.n_outputs, task=truth.task
        )
        if self.settings.scale == "standard":
            # The columns' mean and variance, 1 where constant.
            layer = network.get_layer("standard")
            n_seen = np.array(columns.n_samples_seen_)
            layer.set_weights([columns.mean_, columns.scale_**2, n_seen])
            layer.finalize_state()
        return network


def fit_mlp(settings: MlpSettings, rows: FitRows) -> NetworkHead:
    """Fit a network with Adam, see `fit_network`."""
    return fit_network(MlpDesign(settings=settings, origin=rows.matrix.origin), rows)


def load_mlp(folder: Path, record: HeadRecord) -> NetworkHead:
    """Load what `NetworkHead.save` wrote; anything else in the file is an InputError.

    The network is built from the settings and only arrays are read from the file, so that nothing
    it may say about classes to import or code to run is ever looked at.
    """
    start_tensorflow()
    with refuse_damage(folder):
        n_values = check_weights(folder / FILE_NAME)
        sizes = (record.n_features, *record.settings.hidden, max(1, len(record.classes)))
        if sum(math.prod(pair) for pair in itertools.pairwise(sizes)) > n_values:
            raise ValueError(f"{FILE_NAME} has fewer weights than head.json says")
        network = build_network(
            record.settings,
            n_features=record.n_features,
            n_outputs=max(1, len(record.classes)),
            task=record.task,
        )
        expected = [_describe(type(layer).__name__, layer.get_config()) for layer in network.layers]
        if _read_layers(folder / FILE_NAME) != expected:
            raise TypeError(f"{FILE_NAME} has other layers than head.json says")
        network.load_weights(folder / FILE_NAME)
    return NetworkHead(**record.facts, network=network)


def _read_layers(path: Path) -> list[tuple[str, ...]]:
    with ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    layers = config["config"]["layers"][1:]
    return [_describe(layer["class_name"], layer["config"]) for layer in layers]


def _describe(class_name: str, config: dict[str, Any]) -> tuple[str, ...]:
    return class_name, str(config["name"]), str(config.get("activation"))
