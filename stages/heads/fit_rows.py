"""What a head is fitted on that goes through its rows many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.matrices.matrix import Matrix, Rows

# The state of a fit: arrays by name.
State = Mapping[str, NDArray[Any]]


class Checkpoint(Protocol):
    """Where a fit keeps its state, so that a killed one goes on where it was."""

    def load(self) -> State | None:
        """Return what was kept of this very fit, if anything was."""
        ...

    def keep(self, state: State) -> None:
        """Put a state in the place of the one before, whole or not at all."""
        ...

    def tell(self, text: str) -> None:
        """Let people know how far a long fit is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRows:
    """Rows of a matrix, the truth about them, and how to go about it.

    Attributes
    ----------
    matrix : Matrix
    targets : Targets
        Of all rows of `matrix`.
    train : ndarray of int64
        The rows that are learnt from.
    groups : ndarray, shape (n_rows,)
        Of all rows of `matrix`; early stopping watches whole groups.
    seed : int
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
