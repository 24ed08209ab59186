"""What all heads that are networks have in common: the last layer, seeds, optimizers and rates."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.heads.fit_rows import Truth
from permafrost.stages.heads.settings import choice, setting

MOMENTUM = 0.9
# Of all steps, over which the rate of a cosine rises.
_RISING_SHARE = 0.1

# The activation of the last layer, and its name.
OUTPUTS = {
    CLASSIFICATION: ("softmax", "probabilities"),
    MULTILABEL: ("sigmoid", "probabilities"),
    REGRESSION: ("linear", "value"),
}


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


def restore_units(network: Any, truth: Truth) -> None:
    """Have the last layer give values in their own units; what it gives otherwise stays."""
    output = network.layers[-1]
    kernel, bias = output.get_weights()
    output.set_weights([kernel * truth.spread, bias * truth.spread + truth.centre])


def schedule_setting() -> str:
    """Declare ``schedule``: one rate for all steps, or one that rises and then falls to 0."""
    return setting("constant", choice("constant", "cosine"), "constant or cosine")


def make_optimizer(settings: Any, variables: Sequence[Any], *, n_steps: int) -> Any:
    """Return an optimizer of variables.

    Parameters
    ----------
    settings : dataclass
        Of a head: its learning rate, and its optimizer and schedule where it has them.
    variables : sequence of keras.Variable
    n_steps : int
        After so many the rate of a cosine is 0.
    """
    import keras

    kinds = {
        "adam": keras.optimizers.Adam,
        "sgd": functools.partial(keras.optimizers.SGD, momentum=MOMENTUM),
    }
    rate = settings.learning_rate
    if getattr(settings, "schedule", "constant") == "cosine":
        rate = _rise_and_fall(rate, n_steps)
    optimizer = kinds[getattr(settings, "optimizer", "adam")](rate)
    optimizer.build(variables)
    return optimizer


def _rise_and_fall(highest: float, n_steps: int) -> Any:
    """Return a rate that rises in a line over a tenth of the steps, and falls in a cosine to 0."""
    import keras

    n_rising = max(1, round(_RISING_SHARE * n_steps))
    return keras.optimizers.schedules.CosineDecay(
        highest / n_rising,
        max(1, n_steps - n_rising),
        warmup_target=highest,
        warmup_steps=n_rising,
    )
