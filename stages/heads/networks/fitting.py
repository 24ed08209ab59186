"""From rows to a fitted network: what is the same for all heads that are networks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.heads.fit_rows import FitRows, encode_targets, standardise
from permafrost.stages.heads.networks.augment import build_augment
from permafrost.stages.heads.networks.head import NetworkHead
from permafrost.stages.heads.networks.held_out import hold_out
from permafrost.stages.heads.networks.network import restore_units, seeded
from permafrost.stages.heads.networks.training import Course, Lesson, train_network
from permafrost.stages.matrices.matrix import RowOrigin
from permafrost.stages.matrices.stream import (
    count_least_bytes,
    learn_columns,
    leave_for_rows,
    open_stream,
)

# Weights, gradient, moments, best weights, what an optimizer makes on the way, and a copy of what
# is kept; measured, but for the copy.
BYTES_PER_WEIGHT = 32 + 12
# What is computed of a row is kept for the gradient, which is computed of it in its turn.
BYTES_PER_ACTIVATION = 8


class Size(NamedTuple):
    """How large a network is: its weights, and what its layers give for one row."""

    n_weights: int
    n_activations: int = 0


@dataclass(frozen=True, kw_only=True)
class Design(ABC):
    """A network that is to be built and trained.

    Attributes
    ----------
    kind : str
        The head's.
    smaller : str
        What to do where it does not fit into memory.
    settings : dataclass
        The head's, with `batch_size`, `patience` and `class_weight` among them.
    origin : RowOrigin
        Of the rows that it is fitted on.
    """

    kind: ClassVar[str]
    smaller: ClassVar[str]
    settings: Any
    origin: RowOrigin

    @property
    def n_features(self) -> int:
        """The length of one row."""
        return math.prod(self.origin.shape)

    @abstractmethod
    def measure(self, *, n_outputs: int) -> Size:
        """Return how large the network will be."""

    @abstractmethod
    def build(self, lesson: Lesson, columns: Any, *, memory_bytes: int) -> Any:
        """Return the untrained network, from flat rows to outputs.

        Parameters
        ----------
        columns : StandardScaler
            Fitted on the rows that are learnt from where the settings standardise them, else on
            none.
        """

    def plan(self, network: Any) -> Course:
        """Return how it is trained: by default all of it alike."""
        augment = build_augment(getattr(self.settings, "augment", "none"), self.origin)
        rates = [1.0] * len(network.trainable_variables)
        return Course(kind=self.kind, settings=self.settings, rates=rates, augment=augment)


def fit_network(design: Design, rows: FitRows) -> NetworkHead:
    """Build a network and train it; the same seed gives the same weights.

    The loss is the cross-entropy of the classes, or of each tag, or the squared error of a value.

    Raises
    ------
    InputError
        There is too little memory, a row holds NaN or infinity, or the fit diverges.
    """
    start_tensorflow()
    settings = design.settings
    learnt = np.sort(rows.train)
    truth = encode_targets(rows.targets.select(learnt), settings.class_weight)
    size = design.measure(n_outputs=truth.n_outputs)
    n_features = rows.matrix.shape[1]
    n_bytes = leave_for_rows(
        rows.memory_bytes,
        taken_bytes=BYTES_PER_WEIGHT * size.n_weights
        + BYTES_PER_ACTIVATION * settings.batch_size * size.n_activations,
        least_bytes=count_least_bytes(n_features, batch_rows=settings.batch_size),
        remedy=design.smaller,
    )
    held_out = hold_out(truth, rows.groups[learnt], patience=settings.patience, seed=rows.seed)
    kept = np.setdiff1d(np.arange(len(learnt)), held_out)
    truth = standardise(truth, kept)
    stream = open_stream(rows.matrix, learnt, n_bytes=n_bytes)
    # In any case every row is looked at; wide ones take long to sum up by column.
    standardises = getattr(settings, "scale", "none") == "standard"
    columns = learn_columns(stream, kept if standardises else kept[:0])
    lesson = Lesson(stream=stream, truth=truth, kept=kept, held_out=held_out)
    with seeded(rows.seed):
        network = design.build(lesson, columns, memory_bytes=n_bytes)
        course = design.plan(network)
    history = train_network(network, lesson, course, seed=rows.seed, checkpoint=rows.checkpoint)
    restore_units(network, truth)
    return NetworkHead(
        kind=design.kind,
        settings=settings,
        task=truth.task,
        classes=truth.classes,
        network=network,
        history=history,
    )
