"""The ``mlp`` head: a small Keras network that takes raw features and scales them inside."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.frameworks.weights_file import check_weights
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.head import HeadRecord, refuse_damage
from permafrost.stages.heads.networks.fitting import Size, fit_network
from permafrost.stages.heads.networks.head import FILE_NAME, NetworkHead
from permafrost.stages.heads.networks.network import MlpSettings, build_network, scale_inputs
from permafrost.stages.heads.networks.training import Course, Lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpDesign:
    """A multi-layer perceptron that is to be built, see `fitting.Design`."""

    kind: ClassVar[str] = "mlp"
    smaller: ClassVar[str] = "fewer units, with --set hidden=32, or pool the layer"
    settings: MlpSettings
    n_features: int

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
            scale_inputs(network, columns)
        return network

    def plan(self, network: Any) -> Course:
        """Return how it is trained: by Adam, all of it alike."""
        rates = [1.0] * len(network.trainable_variables)
        return Course.of(self.kind, self.settings, rates=rates)


def fit_mlp(settings: MlpSettings, rows: FitRows) -> NetworkHead:
    """Fit a network with Adam, see `fit_network`."""
    return fit_network(MlpDesign(settings=settings, n_features=rows.matrix.shape[1]), rows)


def load_mlp(folder: Path, settings: MlpSettings, record: HeadRecord) -> NetworkHead:
    """Load what `NetworkHead.save` wrote; anything else in the file is an InputError.

    The network is built from `settings` and only arrays are read from the file, so that nothing
    it may say about classes to import or code to run is ever looked at.
    """
    start_tensorflow()
    with refuse_damage(folder):
        n_values = check_weights(folder / FILE_NAME)
        sizes = (record.n_features, *settings.hidden, max(1, len(record.classes)))
        if sum(math.prod(pair) for pair in itertools.pairwise(sizes)) > n_values:
            raise ValueError(f"{FILE_NAME} has fewer weights than head.json says")
        network = build_network(
            settings,
            n_features=record.n_features,
            n_outputs=max(1, len(record.classes)),
            task=record.task,
        )
        expected = [_describe(type(layer).__name__, layer.get_config()) for layer in network.layers]
        if _read_layers(folder / FILE_NAME) != expected:
            raise TypeError(f"{FILE_NAME} has other layers than head.json says")
        network.load_weights(folder / FILE_NAME)
    return NetworkHead(
        kind=record.kind,
        settings=settings,
        task=record.task,
        classes=record.classes,
        network=network,
    )


def _read_layers(path: Path) -> list[tuple[str, ...]]:
    with ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    layers = config["config"]["layers"][1:]
    return [_describe(layer["class_name"], layer["config"]) for layer in layers]


def _describe(class_name: str, config: dict[str, Any]) -> tuple[str, ...]:
    return class_name, str(config["name"]), str(config.get("activation"))
