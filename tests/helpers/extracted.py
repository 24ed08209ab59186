"""What ``extract`` left, read with plain h5py, and what plain Keras gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.helpers.inputs import SIZE


def predict(
    model_file: Path,
    layer: str,
    photos: list[Path],
    *,
    turn: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Compute what plain Keras gives: load_img, the family's preprocess_input, predict."""
    import keras

    pixels = [
        keras.utils.img_to_array(
            keras.utils.load_img(photo, target_size=(SIZE, SIZE), interpolation="bilinear")
        )
        for photo in photos
    ]
    model = keras.models.load_model(model_file, compile=False)
    part = keras.Model(model.inputs, model.get_layer(layer).output)
    batch = keras.applications.mobilenet.preprocess_input(turn(np.stack(pixels)))
    activations: np.ndarray = part.predict(batch, verbose=0)
    return activations


def read_texts(dataset: h5py.Dataset) -> list[str]:
    return [text.decode() for text in dataset[()].tolist()]


def read_plain(file: Path, layer: str) -> np.ndarray:
    with h5py.File(file) as opened:
        values: np.ndarray = opened[f"features/{layer}"][()]
        return values


def find_shards(cache: Path, folder: str = "*") -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in cache.glob(f"*/{folder}/shard-*.h5")}


def break_image(file: Path, text: str = "no image") -> Path:
    file.write_text(text)
    return file
