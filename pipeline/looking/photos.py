"""Photos as they are shown: the part that the network saw, in the photo's own proportions."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from PIL import Image

from permafrost.pipeline.looking.page import fit_size
from permafrost.pipeline.options import FeatureOptions
from permafrost.stages.backbones.preprocessing import turn
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.formats import read_picture
from permafrost.stages.errors import StageError
from permafrost.stages.sources.remote import is_url
from permafrost.stages.sources.source import Source, open_source

_BLANK = (228, 228, 232)
_STRETCH = "stretch"


def show_photo(
    data: bytes, features: FeatureOptions, *, size: tuple[int, int], side: int
) -> Image.Image:
    """Return what the network saw of an image file, at `side` pixels of the longer side.

    Parameters
    ----------
    data : bytes
    features : FeatureOptions
        How it was decoded, and in which view; the first counts.
    size : tuple of int
        Height and width of the network's input.
    side : int
    """
    height, width = size
    spec = DecodeSpec(height=height, width=width)
    if features.resize_mode == _STRETCH:
        picture = read_picture(data, max_pixels=spec.max_pixels)
        image = picture.image
        if picture.turn is not None and features.orient == "exif":
            image = image.transpose(picture.turn)
        width, height = image.size
    shown = fit_size((width, height), side)
    spec = DecodeSpec(
        height=shown[1],
        width=shown[0],
        resize="bicubic",
        resize_mode=features.resize_mode,
        orient=features.orient,
    )
    pixels = decode_image(data, spec).pixels
    return Image.fromarray(turn(np, pixels[np.newaxis], features.views[0])[0])


class Thumbnails:
    """Small squares of the images of a source; grey ones where those cannot be had.

    Parameters
    ----------
    root : str
        The source's location. Of a URL nothing is read: it would be listed whole.
    side : int
        Pixels.
    """

    def __init__(self, root: str, *, side: int) -> None:
        self._source: Source | None = None
        self._side = side
        if not is_url(root):
            with suppress(StageError):
                self._source = open_source(root)

    def read(self, path: str) -> Image.Image:
        """Return that of one image."""
        spec = DecodeSpec(height=self._side, width=self._side, resize_mode="crop")
        with suppress(OSError, StageError):
            if self._source is not None:
                return Image.fromarray(decode_image(self._source.read(path), spec).pixels)
        return Image.new("RGB", (self._side, self._side), _BLANK)
