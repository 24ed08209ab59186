"""From rows to a fitted network: what is the same for all heads that are networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.networks.head import NetworkHead
from permafrost.stages.heads.networks.held_out import hold_out
from permafrost.stages.heads.networks.network import restore_units, seeded
from permafrost.stages.heads.networks.training import Course, Lesson, train_network
from permafrost.stages.heads.truth import encode_targets, standardise
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a network is: its weights, and what its layers give for one row."""

    n_weights: int
    n_activations: int = 0


class Design(Protocol):
    """A network that is to be built and trained."""

    @property
    def kind(self) -> str:
        """The head's."""
        ...

    @property
    def settings(self) -> Any:
        """The head's, with `batch_size`, `patience` and `class_weight` among them."""
        ...

    @property
    def smaller(self) -> str:
        """What to do where it does not fit into memory."""
        ...

    def measure(self, *, n_outputs: int) -> Size:
        """Return how large the network will be."""
        ...

    def build(self, lesson: Lesson, columns: Any, *, memory_bytes: int) -> Any:
        """Return the untrained network, from flat rows to outputs.

        Parameters
        ----------
        lesson : Lesson
        columns : StandardScaler
            Fitted on the rows that are learnt from where the settings standardise them, else on
            none.
        memory_bytes : int
        """
        ...

    def plan(self, network: Any) -> Course:
        """Return how it is trained."""
        ...


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
