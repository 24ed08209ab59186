"""What heads are fitted on that go through their rows many times, and the truth about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.settings import ClassWeights, find_class_weights
from permafrost.stages.matrices.matrix import Matrix, Rows

# The state of a fit: arrays by name.
State = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training rows.

    Attributes
    ----------
    number : int
        From 1 on.
    loss : float
        Mean over the steps, while the weights were changing.
    accuracy : float
        Likewise; NaN where there are no classes, as in every field where there is nothing to say.
    held_out_loss, held_out_accuracy : float
        On the rows held out, after the epoch.
    seconds : float
        It took.
    """

    number: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float
    seconds: float


class Checkpoint(Protocol):
    """Where a fit keeps its state, so that a killed one goes on where it was."""

    def load(self) -> State | None:
        """Return what was kept of this very fit, if anything was."""

    def keep(self, state: State) -> None:
        """Put a state in the place of the one before, whole or not at all."""

    def tell(self, text: str) -> None:
        """Let people know how far a long fit is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRows:
    """Rows of a matrix, the truth about them, and how to go about it.

    Attributes
    ----------
    targets : Targets
        Of all rows of `matrix`.
    train : ndarray of int64
        The rows that are learnt from.
    groups : ndarray, shape (n_rows,)
        Of all rows of `matrix`; early stopping watches whole groups.
    memory_bytes : int
        What rows and weights may take, beyond what TensorFlow itself does; it changes nothing else.
    checkpoint : Checkpoint, optional
        Where the state of the fit is kept.
    """

    matrix: Matrix
    targets: Targets
    train: Rows
    groups: NDArray[Any]
    seed: int
    memory_bytes: int
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The targets of n rows.

    Attributes
    ----------
    classes : ndarray of str, shape (n_classes,)
        As in `stages.heads.Head`.
    values : ndarray, shape (n, 1) or (n, n_classes)
        ``classification``: int64, one column, which of `classes`. ``multilabel``: float32, 0 or 1.
        ``regression``: float64, one column.
    weights : ndarray of float64, shape (n, 1) or (n, n_classes)
        What the loss of each value counts.
    centre, spread : float
        A regression's own values are ``centre + spread * values``.
    """

    task: str
    classes: NDArray[np.str_]
    values: NDArray[Any]
    weights: NDArray[np.float64]
    centre: float = 0.0
    spread: float = 1.0

    @property
    def n_outputs(self) -> int:
        """How many columns `stages.heads.Head.predict` returns."""
        return max(1, len(self.classes))


def encode_targets(targets: Targets, weighting: ClassWeights) -> Truth:
    """Return the truth of training rows.

    Parameters
    ----------
    targets : Targets
        Of the training rows alone.
    weighting : "none", "balanced" or tuple of (str, float)
        The setting ``class_weight``. The weight of a tag is that of the rows that have it.

    Raises
    ------
    UnknownNameError
        A weight is given to what is no class.
    InputError
        A regression is to be weighted by class.
    """
    if targets.task == REGRESSION:
        return _encode_values(targets, weighting)
    given = find_class_weights(weighting, targets.classes.tolist())
    encode = _encode_classes if targets.task == CLASSIFICATION else _encode_tags
    return encode(targets, None if weighting == "balanced" else given)


def _encode_values(targets: Targets, weighting: ClassWeights) -> Truth:
    if weighting != "none":
        raise InputError("a regression has no classes to weigh; drop class_weight")
    values = targets.values[:, np.newaxis]
    weights = np.ones(values.shape)
    return Truth(task=targets.task, classes=targets.classes, values=values, weights=weights)


def _encode_classes(targets: Targets, given: dict[str, float] | None) -> Truth:
    classes, codes = np.unique(targets.values, return_inverse=True)
    if given is None:
        by_class = len(codes) / (len(classes) * np.bincount(codes))
    else:
        by_class = np.array([given.get(name, 1.0) for name in classes.tolist()])
    return Truth(
        task=targets.task,
        classes=classes,
        values=codes[:, np.newaxis],
        weights=by_class[codes, np.newaxis],
    )


def _encode_tags(targets: Targets, given: dict[str, float] | None) -> Truth:
    values = targets.values.astype(np.float32)
    if given is None:
        # Half a row that is not there keeps tags that all or none of the rows have finite.
        shares = np.clip(targets.values.mean(axis=0), 0.5 / len(values), 1 - 0.5 / len(values))
        weights = np.where(targets.values, 0.5 / shares, 0.5 / (1 - shares))
    else:
        by_tag = np.array([given.get(name, 1.0) for name in targets.classes.tolist()])
        weights = np.where(targets.values, by_tag, 1.0)
    return Truth(task=targets.task, classes=targets.classes, values=values, weights=weights)


def standardise(truth: Truth, learnt: NDArray[np.int64] | slice = slice(None)) -> Truth:
    """Give the values of a regression mean 0 and variance 1 over the rows that are learnt from."""
    if truth.task != REGRESSION:
        return truth
    centre = float(truth.values[learnt].mean())
    spread = float(truth.values[learnt].std()) or 1.0
    values = ((truth.values - centre) / spread).astype(np.float32)
    return dataclasses.replace(truth, values=values, centre=centre, spread=spread)
