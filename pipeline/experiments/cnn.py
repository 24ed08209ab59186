"""A small convolutional network for the digits, trained from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.pipeline.experiments.digits import Digits
from permafrost.stages.frameworks.start import start_tensorflow

# The same for any number of images: few images are no reason to train for less long.
TRAINING_STEPS = 800
IMAGES_PER_STEP = 32
# The last layer before the classifier of this network.
FEATURE_LAYER = "pool"


def train_cnn(digits: Digits, *, seed: int) -> Any:
    """Train a new network to tell the labels of `digits` apart.

    Parameters
    ----------
    seed : int
        The same seed and digits give the same weights on one machine.

    Returns
    -------
    keras.Model
        From pixels, 0 to 255, to the probability of each label in sorted order.
    """
    start_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    classes, codes = np.unique(digits.labels, return_inverse=True)
    network = build_cnn(n_classes=len(classes))
    # XLA takes longer to compile so small a network than it saves.
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    generator = np.random.default_rng(seed)
    for _ in range(TRAINING_STEPS):
        rows = generator.integers(len(digits), size=IMAGES_PER_STEP)
        network.train_on_batch(digits.pixels[rows], codes[rows])
    return network


def build_cnn(*, n_classes: int) -> Any:
    """Return the untrained network: two convolutions and a pooling, then a classifier."""
    from keras import Input, Sequential, layers

    features = [
        layers.Rescaling(1 / 255, name="rescaling"),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2"),
        layers.MaxPooling2D(name=FEATURE_LAYER),
    ]
    classifier = [
        layers.Dropout(0.25, name="dropout_1"),
        layers.Flatten(name="flatten"),
        layers.Dense(128, activation="relu", name="hidden"),
        layers.Dropout(0.5, name="dropout_2"),
        layers.Dense(n_classes, activation="softmax", name="probabilities"),
    ]
    return Sequential([Input((8, 8, 1), name="pixels"), *features, *classifier], name="digits_cnn")


def measure_cnn(network: Any, digits: Digits) -> float:
    """Return the share of `digits`, of the labels it was trained on, that it names rightly."""
    _, codes = np.unique(digits.labels, return_inverse=True)
    return float(np.mean(network.predict_on_batch(digits.pixels).argmax(axis=1) == codes))
