"""Resize methods and modes: from a picture of any size to the network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import Image
from PIL.Image import Transpose

RESIZE_METHODS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}

# Turns that exchange width and height.
_ON_SIDE = {Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90}
# Turns that bring what was the right or lower edge to the left, and to the top.
FROM_RIGHT = {
    Transpose.FLIP_LEFT_RIGHT,
    Transpose.ROTATE_180,
    Transpose.ROTATE_270,
    Transpose.TRANSVERSE,
}
FROM_BELOW = {
    Transpose.ROTATE_180,
    Transpose.FLIP_TOP_BOTTOM,
    Transpose.TRANSVERSE,
    Transpose.ROTATE_90,
}

Size = tuple[int, int]
Box = tuple[int, int, int, int]


def center(image: Image.Image, size: Size) -> Image.Image:
    """Put a picture in the middle of a black canvas."""
    if image.size == size:
        return image
    canvas = Image.new(image.mode, size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def turn_size(size: Size, turn: Transpose | None) -> Size:
    """Return the size of a picture after a turn."""
    return size[::-1] if turn in _ON_SIDE else size


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
