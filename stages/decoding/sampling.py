"""Pixels resized as Keras' own layers resize them, on its TensorFlow backend.

`Resizing` and KerasHub's `ImageConverter` give whole levels for images of whole levels, but take
other pixels than Pillow: unless told to, they do not average over what one output pixel covers, and
they pad before they resize. Written from what the operations of TensorFlow compute, so that
decoding needs no TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import ImageError

# What follows the name of an interpolation that averages over what one output pixel covers.
ANTIALIAS = "-antialias"
# The bicubic operation takes its weights from a table of so many steps between two pixels.
_TABLE_STEPS = 1024
# Which input pixels make each output pixel, and with what weights; both (n, taps).
_Taps = tuple[NDArray[np.int64], NDArray[np.float32]]


def _keys(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weigh as R. Keys, Cubic convolution interpolation (1981), with a = -0.5."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0)).astype(np.float32)


def _triangle(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(distance)).astype(np.float32)
    return weights


def _lanczos(radius: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def weigh(distance: NDArray[np.float32]) -> NDArray[np.float32]:
        window = np.sinc(distance) * np.sinc(distance / radius)
        return np.where(np.abs(distance) <= radius, window, 0).astype(np.float32)

    return weigh


# How far each interpolation reaches, in pixels, and how it weighs.
_KERNELS: Mapping[str, tuple[int, Callable[[NDArray[np.float32]], NDArray[np.float32]]]] = {
    "bilinear": (1, _triangle),
    "bicubic": (2, _keys),
    "lanczos3": (3, _lanczos(3)),
    "lanczos5": (5, _lanczos(5)),
}
INTERPOLATIONS = (*_KERNELS, "nearest")


def resample(
    pixels: NDArray[np.uint8], size: tuple[int, int], interpolation: str
) -> NDArray[np.uint8]:
    """Resize an image as ``keras.layers.Resizing`` does.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, ...)
    size : tuple of int
        Height and width of the result.
    interpolation : str
        One of `INTERPOLATIONS`, with `ANTIALIAS` behind it or not.

    Returns
    -------
    ndarray of uint8, shape (*size, ...)
        Half levels are rounded to even ones.
    """
    if pixels.shape[:2] == size:
        return pixels
    whole: NDArray[np.float32] = _weigh_axis(pixels, size[0], interpolation)
    whole = _weigh_axis(whole.swapaxes(0, 1), size[1], interpolation).swapaxes(0, 1)
    return np.clip(np.round(whole), 0, 255).astype(np.uint8)


def crop(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Keep the centre of an image that is as wide for its height as `size` says, as Keras does."""
    height, width = pixels.shape[:2]
    kept = (
        max(1, min(height, width * size[0] // size[1])),
        max(1, min(width, height * size[1] // size[0])),
    )
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    return pixels[top : top + kept[0], left : left + kept[1]]


def pad(pixels: NDArray[np.uint8], size: tuple[int, int], *, most: int) -> NDArray[np.uint8]:
    """Put black around an image, until it is as wide for its height as `size` says.

    Half of what is missing goes to either side, as in Keras; an odd pixel is left out.

    Raises
    ------
    ImageError
        It would have more than `most` pixels.
    """
    height, width = pixels.shape[:2]
    missing = (width * size[0] // size[1] - height, height * size[1] // size[0] - width)
    sides = [(max(0, n) // 2,) * 2 for n in missing]
    if (height + 2 * sides[0][0]) * (width + 2 * sides[1][0]) > most:
        raise ImageError(f"{width}x{height} pixels are too long and narrow to be padded; crop it")
    return np.pad(pixels, sides + [(0, 0)] * (pixels.ndim - 2))


def _weigh_axis(pixels: NDArray[np.generic], n_out: int, interpolation: str) -> NDArray[np.float32]:
    """Resize the first axis."""
    places, weights = _find_taps(len(pixels), n_out, interpolation)
    shape = (n_out, *(1,) * (pixels.ndim - 1))
    total = np.zeros((n_out, *pixels.shape[1:]), np.float32)
    # One tap after the other: all at once would take as many times the memory.
    for place, weight in zip(places.T, weights.T, strict=True):
        total += pixels[place] * weight.reshape(shape)
    return total


def _find_taps(n_in: int, n_out: int, interpolation: str) -> _Taps:
    name = interpolation.removesuffix(ANTIALIAS)
    scale = np.float32(n_in) / np.float32(n_out)
    centres = (np.arange(n_out, dtype=np.float32) + np.float32(0.5)) * scale
    if name == "nearest":
        places = np.minimum(np.floor(centres).astype(np.int64), n_in - 1)
        return places[:, None], np.ones((n_out, 1), np.float32)
    averages = interpolation.endswith(ANTIALIAS)
    if name == "bicubic" and not averages:
        return _find_cubic_taps(centres - np.float32(0.5), n_in)
    radius, weigh = _KERNELS[name]
    if not averages and name == "bilinear":
        return _find_linear_taps(centres - np.float32(0.5), n_in)
    stretch = max(scale, np.float32(1)) if averages else np.float32(1)
    first = np.ceil(centres - radius * stretch - np.float32(0.5)).astype(np.int64)
    places = first[:, None] + np.arange(2 * math.ceil(radius * stretch) + 1)
    distances = (places.astype(np.float32) + np.float32(0.5) - centres[:, None]) / stretch
    return _normalise(places, weigh(distances), n_in)


def _find_linear_taps(positions: NDArray[np.float32], n_in: int) -> _Taps:
    lower = np.floor(positions)
    upper_weight = (positions - lower).astype(np.float32)
    places = lower.astype(np.int64)[:, None] + np.arange(2)
    weights = np.stack([1 - upper_weight, upper_weight], axis=1)
    # Beyond the edge there is the pixel at the edge.
    return np.clip(places, 0, n_in - 1), weights


def _find_cubic_taps(positions: NDArray[np.float32], n_in: int) -> _Taps:
    lower = np.floor(positions)
    steps = np.rint((positions - lower) * np.float32(_TABLE_STEPS)) / np.float32(_TABLE_STEPS)
    taps = np.arange(-1, 3)
    weights = _keys(taps.astype(np.float32) - steps[:, None].astype(np.float32))
    return _normalise(lower.astype(np.int64)[:, None] + taps, weights, n_in)


def _normalise(places: NDArray[np.int64], weights: NDArray[np.float32], n_in: int) -> _Taps:
    """Leave out what lies beyond the edge, and have the weights of the others add up to one."""
    weights = np.where((places >= 0) & (places < n_in), weights, np.float32(0))
    total = weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, n_in - 1), (weights / total).astype(np.float32)
