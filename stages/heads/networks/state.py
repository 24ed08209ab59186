"""What a training has come to, and what it takes to go on after a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.heads.fit_rows import Epoch, State

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    best : list of ndarray
        The trained weights after the epoch with the lowest loss on the rows held out.
    best_epoch : int
        How many epochs had passed by then.
    """

    epochs: list[Epoch]
    best: list[NDArray[Any]]
    best_loss: float = float("inf")
    best_epoch: int = 0


def pack(progress: Progress, variables: Sequence[Any]) -> State:
    """Return the state of a training: what is known of it, and the values of Keras variables."""
    values = [variable.numpy() for variable in variables]
    return {
        "epochs": np.array([astuple(one) for one in progress.epochs], np.float64),
        "best": np.array([progress.best_loss, progress.best_epoch]),
        **{f"best_{number}": value for number, value in enumerate(progress.best)},
        **{f"variable_{number}": value for number, value in enumerate(values)},
    }


def count_epochs(state: State | None) -> int:
    """Return how many epochs a state has seen."""
    return 0 if state is None else len(state["epochs"])


def unpack(state: State, variables: Sequence[Any], *, n_best: int) -> Progress | None:
    """Give variables the values that `pack` took, and return what it knew.

    None, and nothing is changed, where the state is of another network.
    """
    values = [state.get(f"variable_{number}") for number in range(len(variables))]
    held = [state[f"best_{number}"] for number in range(n_best) if f"best_{number}" in state]
    fits = all(
        value is not None and value.shape == tuple(variable.shape)
        for value, variable in zip(values, variables, strict=True)
    )
    if not fits or f"variable_{len(variables)}" in state or len(held) not in (0, n_best):
        _log.warning("the kept state of a training is of another network; it begins anew")
        return None
    for value, variable in zip(values, variables, strict=True):
        variable.assign(value)
    best_loss, best_epoch = state["best"].tolist()
    return Progress(
        epochs=[Epoch(int(row[0]), *row[1:]) for row in state["epochs"].tolist()],
        best=held,
        best_loss=best_loss,
        best_epoch=int(best_epoch),
    )
