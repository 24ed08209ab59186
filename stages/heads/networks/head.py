"""A head that is a Keras network: what it says of rows, and its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.frameworks.model_file import load_model
from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.heads.head import Head, HeadRecord, refuse_damage

FILE_NAME = "head.keras"
# What the layers of a network may give for one batch of rows.
_ACTIVATION_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkHead(Head):
    """A fitted network: a Keras model from raw, flat features to outputs."""

    network: Any

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return int(self.network.input_shape[1])

    def make_predictor(self) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
        """Return the function from a batch of rows to outputs."""
        return self._predict_batch

    def _predict_batch(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        # Called eagerly: Model.predict would trace a graph anew for every head and batch size.
        n_rows = max(1, _ACTIVATION_BYTES // (4 * count_activations(self.network)))
        parts = [batch[start : start + n_rows] for start in range(0, len(batch), n_rows)]
        said = [np.array(self.network(part, training=False), np.float64) for part in parts]
        outputs: NDArray[np.float64] = np.concatenate(said)
        if self.task == CLASSIFICATION:
            outputs /= outputs.sum(axis=1, keepdims=True)
        return outputs

    def write_fitted(self, folder: Path) -> Sequence[str]:
        """Write the network."""
        self.network.save(folder / FILE_NAME)
        return ("keras",)


def count_activations(network: Any) -> int:
    """Return how many values the layers of a network give for one row."""
    import keras

    n_values = 0
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            n_values += count_activations(layer)
        elif hasattr(layer, "output") and hasattr(layer.output, "shape"):
            n_values += math.prod(axis or 1 for axis in layer.output.shape[1:])
    return max(1, n_values)


def load_network(folder: Path, record: HeadRecord) -> NetworkHead:
    """Load what `NetworkHead.save` wrote, if nothing but Keras' own layers are in it.

    Anything else is an InputError.
    """
    start_tensorflow()
    with refuse_damage(folder):
        network = load_model(folder / FILE_NAME)
        n_outputs = max(1, len(record.classes))
        shapes = getattr(network, "input_shape", None), getattr(network, "output_shape", None)
        if shapes != ((None, record.n_features), (None, n_outputs)):
            raise ValueError(f"{FILE_NAME} and head.json are not of one head")
    return NetworkHead(**record.facts, network=network)
