"""The ``mlp`` head: a small Keras network that takes raw features and scales them inside."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from stages.errors import InputError
from stages.heads.head import (
    HeadRecord,
    predict_by_batch,
    refuse_damage,
    write_record,
)
from stages.heads.scaling import SCALES_WANTED, fit_standard_scaler, parse_scale
from stages.heads.settings import layer_sizes, number, setting, whole
from stages.start import start_tensorflow

FILE_NAME = "head.keras"
HELD_OUT_EVERY = 10
# Fewer held-out rows than this say more about chance than about when to stop.
MIN_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSettings:
    """Settings of a multi-layer perceptron.

    Parameters
    ----------
    hidden : tuple of int
        Units of the hidden layers, from the features on; empty is a softmax regression.
    dropout : float
        Part of every hidden layer's units that is dropped while training.
    learning_rate : float
        Step size of Adam.
    epochs : int
        Most passes over the training rows.
    batch_size : int
        Rows a step.
    patience : int
        Epochs without a lower loss on the held-out tenth of the training rows before the fit
        stops and goes back to the best ones; 0 holds nothing out and runs all epochs.
    scale : {"standard", "l2", "none"}
        Columns to mean 0 and variance 1, rows to length 1, or nothing.
    """

    hidden: tuple[int, ...] = setting(
        (256,), layer_sizes, "whole numbers from 1 on, as in 256 or 256,128"
    )
    dropout: float = setting(0.5, number(lambda d: 0 <= d < 1), "a number from 0 to below 1")
    learning_rate: float = setting(1e-3, number(lambda r: 0 < r < np.inf), "a number above 0")
    epochs: int = setting(50, whole(1), "a whole number from 1 on")
    batch_size: int = setting(64, whole(1), "a whole number from 1 on")
    patience: int = setting(10, whole(0), "a whole number from 0 on")
    scale: str = setting("standard", parse_scale, SCALES_WANTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpHead:
    """A fitted network: a Keras Sequential from raw features to probabilities."""

    kind: ClassVar[str] = "mlp"
    settings: MlpSettings
    classes: NDArray[np.str_]
    network: Any

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return int(self.network.input_shape[1])

    def predict_proba(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of every class for every row, as `Head` says."""
        return predict_by_batch(self, features, predict=self._predict_batch)

    def _predict_batch(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        # Called eagerly: Model.predict would trace a graph anew for every head and batch size.
        outputs = self.network(batch, training=False)
        probabilities: NDArray[np.float64] = np.array(outputs, np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities

    def save(self, folder: Path) -> None:
        """Write `head.json` and the network into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save(folder / FILE_NAME)
        write_record(folder, self, packages=("keras",))


def fit_mlp(
    settings: MlpSettings, features: NDArray[Any], labels: NDArray[np.str_], *, seed: int
) -> MlpHead:
    """Fit a network with Adam on the cross-entropy; the same `seed` gives the same weights."""
    start_tensorflow()
    classes, codes = np.unique(labels, return_inverse=True)
    held_out = choose_held_out(codes, seed=seed) if settings.patience else codes[:0]
    kept = np.setdiff1d(np.arange(len(codes)), held_out)
    with _seeded(seed):
        network = build_network(settings, n_features=features.shape[1], n_classes=len(classes))
        if settings.scale == "standard":
            _standardise(network, features[kept])
        _train(network, settings, (features, codes), kept=kept, held_out=held_out)
    return MlpHead(settings=settings, classes=classes, network=network)


def build_network(settings: MlpSettings, *, n_features: int, n_classes: int) -> Any:
    """Return the untrained Keras Sequential of `settings`; its scaling is part of it."""
    from keras import Input, Sequential, layers

    scaling = {
        "standard": [layers.Normalization(name="standard")],
        "l2": [layers.UnitNormalization(name="l2")],
        "none": [],
    }
    hidden = [
        layer
        for i, units in enumerate(settings.hidden)
        for layer in (
            layers.Dense(units, activation="relu", name=f"hidden_{i}"),
            layers.Dropout(settings.dropout, name=f"dropout_{i}"),
        )
    ]
    output = layers.Dense(n_classes, activation="softmax", name="probabilities")
    inputs = Input((n_features,), name="features")
    return Sequential([inputs, *scaling[settings.scale], *hidden, output], name="mlp")


def choose_held_out(codes: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Choose the rows on which early stopping watches the loss.

    Parameters
    ----------
    codes : ndarray of int64, shape (n_rows,)
        The class of every row.
    seed : int

    Returns
    -------
    ndarray of int64
        A tenth of every class, give or take one row, and never its only row; empty where there
        are too few rows to hold any out.
    """
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    firsts = by_class[np.unique(codes[by_class], return_index=True)[1]]
    held_out = np.setdiff1d(by_class[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY], firsts)
    return held_out if len(held_out) >= MIN_HELD_OUT else held_out[:0]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Keras, which has only global seeds, and give Python and numpy their state back."""
    import keras

    before = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _standardise(network: Any, features: NDArray[Any]) -> None:
    """Give the network's first layer the columns' mean and variance, 1 where constant."""
    scaler = fit_standard_scaler(features)
    layer = network.get_layer("standard")
    layer.set_weights([scaler.mean_, scaler.scale_**2, np.array(len(features))])
    layer.finalize_state()


def _train(
    network: Any,
    settings: MlpSettings,
    data: tuple[NDArray[Any], NDArray[np.int64]],
    *,
    kept: NDArray[np.int64],
    held_out: NDArray[np.int64],
) -> None:
    import keras

    features, codes = data
    stop = keras.callbacks.EarlyStopping(patience=settings.patience, restore_best_weights=True)
    # The optimiser stays with this model of the same layers: saved, it would triple the head.
    trainer = keras.Model(network.inputs, network.outputs)
    # XLA takes longer to compile a head than most heads take to train.
    trainer.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,
    )
    history = trainer.fit(
        features[kept],
        codes[kept],
        validation_data=(features[held_out], codes[held_out]) if len(held_out) else None,
        callbacks=[stop] if len(held_out) else None,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        verbose=0,
    ).history
    if not np.isfinite(history["loss"]).all():
        raise InputError(
            f"mlp diverged with learning_rate={settings.learning_rate}: give a lower one, with"
            f" --set learning_rate={settings.learning_rate / 10:g}"
        )


def load_mlp(folder: Path, settings: MlpSettings, record: HeadRecord) -> MlpHead:
    """Load what `MlpHead.save` wrote; anything else in the file is an InputError.

    The network is built from `settings` and only arrays are read from the file, so that nothing
    it may say about classes to import or code to run is ever looked at.
    """
    start_tensorflow()
    with refuse_damage(folder):
        network = build_network(
            settings, n_features=record.n_features, n_classes=len(record.classes)
        )
        if _read_layer_types(folder / FILE_NAME) != [type(x).__name__ for x in network.layers]:
            raise TypeError(f"{FILE_NAME} has other layers than head.json says")
        network.load_weights(folder / FILE_NAME)
    return MlpHead(settings=settings, classes=record.classes, network=network)


def _read_layer_types(path: Path) -> list[str]:
    with ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    return [str(layer["class_name"]) for layer in config["config"]["layers"][1:]]
