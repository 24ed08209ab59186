"""The layers of the small neural network."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.heads.settings import (
    class_weight_setting,
    count_setting,
    dropout_setting,
    layer_sizes,
    rate_setting,
    scale_setting,
    setting,
)
from permafrost.stages.heads.truth import Truth

# The activation of the last layer, and its name.
OUTPUTS = {
    CLASSIFICATION: ("softmax", "probabilities"),
    MULTILABEL: ("sigmoid", "probabilities"),
    REGRESSION: ("linear", "value"),
}


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
    learning_rate: float = rate_setting(1e-3)
    epochs: int = count_setting(50)
    batch_size: int = count_setting(64)
    patience: int = count_setting(10, minimum=0)
    scale: str = scale_setting()
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


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Keras, which has only global seeds, and give Python and numpy their state back."""
    import keras

    before = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def scale_inputs(network: Any, columns: Any) -> None:
    """Give the network's first layer the columns' mean and variance, 1 where constant."""
    layer = network.get_layer("standard")
    layer.set_weights([columns.mean_, columns.scale_**2, np.array(columns.n_samples_seen_)])
    layer.finalize_state()


def restore_units(network: Any, truth: Truth) -> None:
    """Have the last layer give values in their own units; what it gives otherwise stays."""
    output = network.layers[-1]
    kernel, bias = output.get_weights()
    output.set_weights([kernel * truth.spread, bias * truth.spread + truth.centre])
