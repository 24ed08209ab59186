"""The ``mlp`` head: a small Keras network that takes raw features and scales them inside.

It is trained on a stream of its rows; see `stages.heads.mlp.training`.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.frameworks.weights_file import check_weights
from permafrost.stages.heads.head import HeadRecord, predict_by_batch, refuse_damage, write_record
from permafrost.stages.heads.mlp.network import (
    MlpSettings,
    build_network,
    restore_units,
    scale_inputs,
    seeded,
)
from permafrost.stages.heads.mlp.training import Lesson, train_network
from permafrost.stages.heads.truth import Truth, encode_targets, standardise
from permafrost.stages.matrices.matrix import Matrix, Rows
from permafrost.stages.matrices.stream import (
    count_least_bytes,
    learn_columns,
    leave_for_rows,
    open_stream,
)

FILE_NAME = "head.keras"
HELD_OUT_SHARE = 0.1
# Where groups are too large to hold out a tenth, one may be, of at most this share.
LARGEST_SHARE = 0.25
# Fewer held-out rows than this say more about chance than about when to stop.
MIN_HELD_OUT = 10
# Weights, gradient, moments, best weights, and what Adam makes on the way; measured.
BYTES_PER_WEIGHT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpHead:
    """A fitted network: a Keras Sequential from raw features to outputs."""

    kind: ClassVar[str] = "mlp"
    settings: MlpSettings
    task: str
    classes: NDArray[np.str_]
    network: Any

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return int(self.network.input_shape[1])

    def predict(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return what `stages.heads.Head.predict` says."""
        return predict_by_batch(self, features, predict=self._predict_batch)

    def _predict_batch(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        # Called eagerly: Model.predict would trace a graph anew for every head and batch size.
        outputs: NDArray[np.float64] = np.array(self.network(batch, training=False), np.float64)
        if self.task == CLASSIFICATION:
            outputs /= outputs.sum(axis=1, keepdims=True)
        return outputs

    def save(self, folder: Path) -> None:
        """Write `head.json` and the network into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save(folder / FILE_NAME)
        write_record(folder, self, packages=("keras",))


def fit_mlp(  # noqa: PLR0913
    settings: MlpSettings,
    matrix: Matrix,
    targets: Targets,
    *,
    train: Rows,
    groups: NDArray[Any],
    seed: int,
    memory_bytes: int,
) -> MlpHead:
    """Fit a network with Adam; the same `seed` gives the same weights.

    The loss is the cross-entropy of the classes, or of each tag, or the squared error of a value.

    Parameters
    ----------
    settings : MlpSettings
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

    Raises
    ------
    InputError
        There is too little memory, a row holds NaN or infinity, or the fit diverges.
    """
    rows = np.sort(train)
    truth = encode_targets(targets.select(rows), settings.class_weight)
    n_bytes = _leave_for_rows(settings, memory_bytes, matrix.shape[1], truth.n_outputs)
    held_out = _hold_out(settings, truth, groups[rows], seed=seed)
    kept = np.setdiff1d(np.arange(len(rows)), held_out)
    truth = standardise(truth, kept)
    stream = open_stream(matrix, rows, n_bytes=n_bytes)
    columns = learn_columns(stream, kept)
    start_tensorflow()
    with seeded(seed):
        network = build_network(
            settings, n_features=stream.n_features, n_outputs=truth.n_outputs, task=truth.task
        )
    if settings.scale == "standard":
        scale_inputs(network, columns)
    lesson = Lesson(stream=stream, truth=truth, kept=kept, held_out=held_out)
    train_network(network, lesson, settings, seed=seed)
    restore_units(network, truth)
    return MlpHead(settings=settings, task=truth.task, classes=truth.classes, network=network)


def _leave_for_rows(
    settings: MlpSettings, memory_bytes: int, n_features: int, n_outputs: int
) -> int:
    widths = [n_features, *settings.hidden, n_outputs]
    n_weights = sum((n + 1) * m for n, m in itertools.pairwise(widths))
    return leave_for_rows(
        memory_bytes,
        taken_bytes=BYTES_PER_WEIGHT * n_weights,
        least_bytes=count_least_bytes(n_features, batch_rows=settings.batch_size),
        remedy="fewer units, with --set hidden=32, or pool the layer",
    )


def _hold_out(settings: MlpSettings, truth: Truth, groups: NDArray[Any], *, seed: int) -> Rows:
    """Choose the rows to watch; those with tags or values as if they were of one class."""
    if not settings.patience:
        return np.empty(0, np.int64)
    is_classification = truth.task == CLASSIFICATION
    codes = truth.values[:, 0] if is_classification else np.zeros(len(truth.values), np.int64)
    return choose_held_out(codes, groups, seed=seed)


def choose_held_out(codes: NDArray[np.int64], groups: NDArray[Any], *, seed: int) -> Rows:
    """Choose the rows on which early stopping watches the loss.

    Parameters
    ----------
    codes : ndarray of int64, shape (n_rows,)
        The class of every row.
    groups : ndarray, shape (n_rows,)
        Rows of equal keys are held out together or not at all.
    seed : int

    Returns
    -------
    ndarray of int64
        About a tenth of every class, and never all of a class; where groups are too large for
        that, one of them. Empty where there are too few rows, or only groups of more than a
        quarter of them.
    """
    _, firsts, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(group_of_row)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    # A group counts as one of its first row's class.
    by_class = shuffled[np.argsort(codes[firsts][shuffled], kind="stable")]
    is_held = np.zeros(len(sizes), np.bool_)
    is_held[by_class[_draw_share(sizes[by_class])]] = True
    if not is_held.any():
        is_held[shuffled[sizes[shuffled] <= LARGEST_SHARE * len(codes)][:1]] = True
    is_lost = ~np.isin(codes, codes[~is_held[group_of_row]])
    is_held[group_of_row[is_lost]] = False
    held_out = np.flatnonzero(is_held[group_of_row])
    return held_out if len(held_out) >= MIN_HELD_OUT else held_out[:0]


def _draw_share(sizes: NDArray[np.int64]) -> list[int]:
    """Choose groups in passing, so that of those passed about a tenth of the rows is chosen."""
    chosen, n_passed, n_chosen = [], 0, 0
    for number, size in enumerate(sizes.tolist()):
        n_passed += size
        if n_chosen + size / 2 < HELD_OUT_SHARE * n_passed:
            chosen.append(number)
            n_chosen += size
    return chosen


def load_mlp(folder: Path, settings: MlpSettings, record: HeadRecord) -> MlpHead:
    """Load what `MlpHead.save` wrote; anything else in the file is an InputError.

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
    return MlpHead(settings=settings, task=record.task, classes=record.classes, network=network)


def _read_layers(path: Path) -> list[tuple[str, ...]]:
    with ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    layers = config["config"]["layers"][1:]
    return [_describe(layer["class_name"], layer["config"]) for layer in layers]


def _describe(class_name: str, config: dict[str, Any]) -> tuple[str, ...]:
    return class_name, str(config["name"]), str(config.get("activation"))
