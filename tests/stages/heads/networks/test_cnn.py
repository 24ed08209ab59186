"""The cnn head against the same layers in plain Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.heads.networks.cnn import CnnDesign
from permafrost.stages.matrices.matrix import ArrayMatrix, RowOrigin

DIGITS = load_digits()
X, Y = DIGITS.data.astype(np.float32) / 16, DIGITS.target.astype(str)
CLASSES = Targets(task="classification", values=Y, classes=np.unique(Y))
VALUES = Targets(task="regression", values=DIGITS.target / 2, classes=np.empty(0, np.str_))
IMAGES = ArrayMatrix(X, RowOrigin(shape=(8, 8, 1), is_image=True))


def fit(targets: Targets = CLASSES, *, n_rows: int = 200, **settings: object) -> Any:
    parsed = parse_settings("cnn", {"filters": "8", "hidden": "16", **settings})
    return fit_head("cnn", parsed, IMAGES, targets, train=np.arange(n_rows), seed=0)


def find_rate(step: int, *, schedule: str) -> float:
    """The rate of one of 21 steps, of which a cosine rises over the first two."""
    if schedule == "constant":
        return 0.05
    if step < 2:
        return 0.05 * (1 + step / 2) / 2
    return 0.05 * (1 + np.cos(np.pi * (step - 2) / 19)) / 2


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_it_trains_as_keras_does(schedule: str) -> None:
    import keras
    from keras import layers

    plain = {"dropout": 0, "hidden_dropout": 0, "patience": 0, "batch_size": 32}
    # Not Adam, which makes steps of one size of gradients that are nothing but rounding.
    plain |= {"optimizer": "sgd"}
    # In float32 the rate is 0, so that the fit leaves what it began with.
    first = fit(**plain, epochs=1, learning_rate=1e-300).network.get_weights()
    ours = fit(**plain, epochs=3, learning_rate=0.05, schedule=schedule)
    same: dict[str, Any] = {"padding": "same", "activation": "relu"}
    theirs = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, **same),
            layers.Conv2D(8, 3, **same),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    theirs.set_weights(first)
    sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    theirs.compile(sgd, "sparse_categorical_crossentropy", jit_compile=False)
    for epoch in range(3):
        order = np.random.default_rng([0, epoch]).permutation(200)
        for batch, rows in enumerate(np.split(order, range(32, 200, 32))):
            sgd.learning_rate.assign(find_rate(7 * epoch + batch, schedule=schedule))
            theirs.train_on_batch(X[rows].reshape(-1, 8, 8, 1), DIGITS.target[rows])
    expected = theirs.predict(X[200:300].reshape(-1, 8, 8, 1), verbose=0)
    assert ours.predict(X[200:300]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "shape", "n_weights"),
    [
        # Conv2D(64, 3) twice, pooling, dropout, Dense(128); on images of CIFAR-10's size.
        (
            {"filters": "64", "hidden": "128"},
            (32, 32, 3),
            (27 + 1) * 64 + (576 + 1) * 64 + (16 * 16 * 64 + 1) * 128 + 129 * 10,
        ),
        # Three blocks of Conv2D(32, 5) and pooling by 4, Dense(64), dropout.
        (
            {"filters": "32,32,32", "convolutions": "1", "kernel": "5", "pool": "4", "hidden": 64},
            (128, 128, 3),
            (75 + 1) * 32 + 2 * (800 + 1) * 32 + (2 * 2 * 32 + 1) * 64 + 65 * 10,
        ),
    ],
)
def test_the_networks_of_the_tutorials_are_settings(
    settings: dict[str, object], shape: tuple[int, ...], n_weights: int
) -> None:
    design = CnnDesign(settings=parse_settings("cnn", settings), origin=RowOrigin(shape=shape))
    assert design.measure(n_outputs=10).n_weights == n_weights


def test_a_saved_one_says_the_same_and_is_made_of_keras_layers(tmp_path: Any) -> None:
    head = fit(epochs=2)
    head.save(tmp_path)
    again = load_head(tmp_path)
    assert np.array_equal(again.predict(X[:50]), head.predict(X[:50]))
    assert again.settings == head.settings
    design = CnnDesign(settings=head.settings, origin=IMAGES.origin)
    assert design.measure(n_outputs=10).n_weights == head.network.count_params()


def test_values_come_in_their_own_units() -> None:
    head = fit(VALUES, n_rows=1000, epochs=10, learning_rate=3e-3, dropout=0, hidden_dropout=0)
    said = head.predict(X[1000:1300])[:, 0]
    assert np.corrcoef(said, DIGITS.target[1000:1300])[0, 1] > 0.8
    assert abs(said.mean() - 2.25) < 0.5


@pytest.mark.parametrize(
    ("matrix", "settings", "message"),
    [
        (ArrayMatrix(X), {}, r"cnn needs a layer with height, width and channels"),
        (IMAGES, {"batch_size": 10**9}, r"this fit takes .* more than the 4GB allowed"),
        (
            ArrayMatrix(X, RowOrigin(shape=(8, 8, 1))),
            {"augment": "flip"},
            "augment=flip changes images, and these are features",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    matrix: ArrayMatrix, settings: dict[str, object], message: str
) -> None:
    parsed = parse_settings("cnn", settings)
    with pytest.raises(InputError, match=message):
        fit_head("cnn", parsed, matrix, CLASSES, train=np.arange(100), seed=0)
