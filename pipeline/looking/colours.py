"""Numbers as colours: one ramp, whose steps look equally large."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From dark to light, so that more is lighter also in grey and for the colour-blind; between them
# colours are mixed in proportion.
ANCHORS = (
    (22, 16, 68),
    (92, 28, 124),
    (176, 46, 112),
    (236, 98, 72),
    (252, 170, 60),
    (252, 246, 170),
)
# What the strongest covers of the photo below.
_COVER = 0.85
# Below 1, what is weak is seen sooner.
_HASTE = 0.8


def colour(strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the ramp's colours: ndarray of uint8, shape (*shape, 3).

    Parameters
    ----------
    strength : ndarray of float, any shape
        From 0, dark, to 1, light; what is beyond is cut off.
    """
    places = np.linspace(0, 1, len(ANCHORS))
    channels = [np.interp(strength, places, channel) for channel in zip(*ANCHORS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def spread_map(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return a map, shape (h, w), for each pixel of a picture, whose width comes first."""
    image = Image.fromarray(values.astype(np.float32))
    spread: NDArray[np.float64] = np.asarray(image.resize(size, Image.Resampling.BICUBIC), float)
    return spread


def lay_over(photo: Image.Image, strength: NDArray[np.float64]) -> Image.Image:
    """Lay colours over a photo, the more of them the stronger.

    Parameters
    ----------
    photo : Image
    strength : ndarray of float, shape (height, width)
        That of each pixel, from 0 to 1; from 0 down the photo stays as it is.
    """
    clipped = np.clip(strength, 0, 1)
    alpha = Image.fromarray((255 * _COVER * clipped**_HASTE).round().astype(np.uint8))
    # In grey, so that no colour is mistaken for the photo's.
    grey = photo.convert("L").convert("RGB")
    return Image.composite(Image.fromarray(colour(clipped)), grey, alpha)
