"""Resize methods and modes: from a picture of any size to the network's.

Without Pillow, as the command line needs the names, and starts faster so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

# And what Pillow calls them.
RESIZE_METHODS: Mapping[str, str] = {
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "nearest": "NEAREST",
    "lanczos": "LANCZOS",
    "area": "BOX",
}
# Before the name of an interpolation of Keras' own layers, see `sampling`: KerasHub's presets ask
# for them. They resize otherwise than Pillow, and pad before and not after.
KERAS = "keras-"

Size = tuple[int, int]
# Left, top, right and lower edge, in pixels.
Box = tuple[int, int, int, int]


def _stretch(size: Size, target: Size) -> tuple[Box, Size]:
    return (0, 0, *size), target


def _crop(size: Size, target: Size) -> tuple[Box, Size]:
    # Keras' integers, so that its pixels are met exactly. The box of a thin line may be empty:
    # Pillow then enlarges the one pixel that it stands on.
    width = min(size[0], size[1] * target[0] // target[1])
    height = min(size[1], size[0] * target[1] // target[0])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return (left, top, left + width, top + height), target


def _pad(size: Size, target: Size) -> tuple[Box, Size]:
    scale = min(target[0] / size[0], target[1] / size[1])
    return (0, 0, *size), (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


RESIZE_MODES: Mapping[str, Callable[[Size, Size], tuple[Box, Size]]] = {
    "stretch": _stretch,
    "crop": _crop,
    "pad": _pad,
}
