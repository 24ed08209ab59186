"""Keras' optimizers, and how their rates change while a network is trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from permafrost.stages.heads.settings import choice, setting

MOMENTUM = 0.9
# Of all steps, over which the rate of a cosine rises.
_RISING_SHARE = 0.1


def schedule_setting() -> str:
    """Declare ``schedule``: one rate for all steps, or one that rises and then falls to 0."""
    return setting("constant", choice("constant", "cosine"), "constant or cosine")


def make_optimizer(
    kind: str, variables: Sequence[Any], *, learning_rate: float, schedule: str, n_steps: int
) -> Any:
    """Return an optimizer of variables.

    Parameters
    ----------
    kind : {"adam", "sgd"}
    variables : sequence of keras.Variable
    learning_rate : float
        With a cosine the largest one.
    schedule : {"constant", "cosine"}
    n_steps : int
        After so many the rate of a cosine is 0.
    """
    import keras

    kinds = {
        "adam": keras.optimizers.Adam,
        "sgd": functools.partial(keras.optimizers.SGD, momentum=MOMENTUM),
    }
    is_constant = schedule == "constant"
    optimizer = kinds[kind](
        learning_rate if is_constant else _rise_and_fall(learning_rate, n_steps)
    )
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
