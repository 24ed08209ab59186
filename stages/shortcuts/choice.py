"""Which faster ways a program takes to compute the same activations, rounded otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Puts an array into the graph that is being built, as a tensor.
Hold = Callable[[np.ndarray], Any]

# Of a layer's largest value. A tenth of what the numbers may be off from Keras': the images of a
# probe are not those of the user. It turns down whole maps at the end of MobileNet x0.25, which are
# off by up to 3e-4 on photos, and takes them pooled: 5e-6.
TOLERANCE = 1e-5
_N_PROBE_IMAGES = 8
_PATCHES = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What a program may do otherwise than Keras.

    Attributes
    ----------
    fold : bool
        Normalize within convolutions, by `stages.shortcuts.batchnorm`.
    winograd_axes : int
        On how many axes to convolve by `stages.shortcuts.winograd`, where that gains; 0 for none.
    """

    fold: bool
    winograd_axes: int


NO_SHORTCUTS = Shortcuts(fold=False, winograd_axes=0)


def choose_shortcuts(precision: str, *, normalizes: bool) -> Shortcuts:
    """Choose what gains most in a precision.

    A network that normalizes its activations has many small convolutions, for which Winograd's
    filtering gains nothing in half precision.
    """
    if precision == "float32":
        return Shortcuts(fold=True, winograd_axes=2)
    return Shortcuts(fold=True, winograd_axes=0 if normalizes else 1)


def draw_probe(shape: tuple[int, int, int]) -> np.ndarray:
    """Draw images to compare programs with: patches of colour with noise, always the same.

    Returns
    -------
    ndarray of uint8, shape (8, *shape)
    """
    height, width, channels = shape
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 224, (_N_PROBE_IMAGES, _PATCHES, _PATCHES, channels))
    rows, columns = (np.arange(size) * _PATCHES // size for size in (height, width))
    noise = generator.integers(0, 32, (_N_PROBE_IMAGES, *shape))
    return (patches[:, rows][:, :, columns] + noise).astype(np.uint8)
