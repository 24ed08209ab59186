"""Photos, and a network for them, made on the spot."""

from __future__ import annotations

from pathlib import Path

SIZE = 32
LAYERS = "first,last:avg"


def write_photos(root: Path, *, n_each: int, side: int = 60) -> Path:
    """Crop scikit-learn's two photographs into ``china/`` and ``flower/``, all different."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    for label in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{label}.jpg"))
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(n_each):
            left, top = 7 * number % (640 - side), 11 * number % (427 - side)
            crop = photo.crop((left, top, left + side, top + side))
            crop.save(folder / f"{number:04d}.jpg", quality=90)
    return root


def write_model(
    file: Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    size: int | None = SIZE,
    exact: bool = False,
) -> Path:
    """Save a small convolutional network, whose model name says its family's preprocessing.

    An exact one has weights of -1 and 1: of pixels from 0 to 255 its sums are whole numbers below
    2^24, which no order of summation rounds, so its features are the same bit for bit in batches
    of any size and on every processor.
    """
    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            layers.Input((size, size, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="first"),
            layers.Conv2D(12, 3, strides=2, activation="relu", name="second"),
            layers.Conv2D(16, 3, name="last"),
        ],
        name="mobilenet_small",
    )
    model.layers[-1].set_weights([weight * scale for weight in model.layers[-1].get_weights()])
    if exact:
        model.set_weights([np.sign(weight) for weight in model.get_weights()])
    model.save(file)
    return file
