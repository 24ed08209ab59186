"""Self-contained ``features.h5`` files, written with plain h5py and not with our own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

RECIPE = {"backbone": "digits", "layer": "block", "pooling": "avg"}
LAYER = "block:avg"
ORIGIN = json.dumps({"backbone": "digits.keras", "layers": [LAYER], "size": None})


def number_digests(numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Make a digest of each image's number."""
    digests = np.zeros((len(numbers), 32), np.uint8)
    digests[:, 0], digests[:, 1] = np.divmod(np.asarray(numbers), 256)
    return digests


def write_features(
    path: Path,
    layers: Mapping[str, NDArray[np.float32]],
    *,
    labels: Sequence[str],
    splits: Sequence[str],
    columns: Mapping[str, Sequence[str]] | None = None,
    numbers: Sequence[int] | None = None,
    origin: str = ORIGIN,
) -> Path:
    """Write a view; `numbers` tell images apart, equal ones being one image."""
    numbers = range(len(labels)) if numbers is None else numbers
    with h5py.File(path, "w") as file:
        file.attrs["origin"] = origin
        images = file.create_group("images")
        images.attrs["root"] = "digits"
        images["digest"] = number_digests(numbers)
        images["path"] = [f"{number:04d}.png" for number in numbers]
        for name, texts in (("label", labels), ("split", splits)):
            images[name] = [str(text).encode(errors="surrogateescape") for text in texts]
        for name, texts in (columns or {}).items():
            images[f"columns/{name}"] = [str(text) for text in texts]
        for spec, values in layers.items():
            layer, _, pooling = spec.partition(":")
            dataset = file.create_dataset(f"features/{spec}", data=values)
            recipe = {"backbone": "digits", "layer": layer, "pooling": pooling or "none"}
            dataset.attrs["recipe"] = json.dumps(recipe)
    return path
