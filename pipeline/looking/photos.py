"""Photos as they are shown: the part that the network saw, in the photo's own proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from permafrost.pipeline.looking.page import fit_size
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.backbones.preprocessing import turn
from permafrost.stages.decoding.decode import DecodeSpec, decode_image, decode_whole
from permafrost.stages.errors import StageError
from permafrost.stages.sources.boxes import Box, find_box
from permafrost.stages.sources.source import Reader, open_source

_BLANK = (128, 128, 128)
_STRETCH = "stretch"


def show_photo(
    data: bytes,
    features: FeatureOptions,
    *,
    size: tuple[int, int],
    side: int,
    box: Box | None = None,
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
    box : tuple of int, optional
        The part of the file that is the image.
    """
    if features.resize_mode == _STRETCH:
        whole = decode_whole(data, orient=features.orient, box=box)
        shown = whole.resize(fit_size(whole.size, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(shown)
    else:
        width, height = fit_size(size[::-1], side)
        spec = DecodeSpec(
            height=height,
            width=width,
            resize="bicubic",
            resize_mode=features.resize_mode,
            orient=features.orient,
            box=box,
        )
        pixels = decode_image(data, spec).pixels
    return Image.fromarray(turn(np, pixels[np.newaxis], features.views[0])[0])


@dataclass(frozen=True)
class Photos:
    """The images that paths of a dataset stand for, as people look at them.

    An image is turned as its file asks; a row that is a box is that part, as the network saw it.

    Attributes
    ----------
    roots : sequence of str
        Where paths start from; the first that is there counts.
    orient : {"ignore", "exif"}
        Whether boxes are those of the turned image.
    """

    roots: Sequence[str] = ()
    orient: str = "ignore"

    @cached_property
    def _source(self) -> Reader | None:
        for root in self.roots:
            try:
                return open_source(root)
            except StageError:
                continue
        return None

    def open(self, path: str, side: int) -> Image.Image | None:
        """Return an image at least `side` pixels wide and high, if it is; None if unreadable."""
        if self._source is None:
            return None
        box = find_box(path)
        orient = "exif" if box is None else self.orient
        try:
            return decode_whole(self._source.read(path), orient=orient, box=box, side=side)
        except (OSError, StageError):
            return None

    def cut(self, path: str, side: int) -> Image.Image:
        """Return the middle of an image as a square of `side` pixels; a grey one if unreadable."""
        image = self.open(path, side)
        if image is None:
            return Image.new("RGB", (side, side), _BLANK)
        return ImageOps.fit(image, (side, side))


def find_photos(files: FeatureFiles) -> Photos:
    """Find where the images of files lie now."""
    first = files.opened[0]
    orient = str(first.recipe(first.layers[0]).get("orient", Photos.orient))
    return Photos((first.place,), orient)


def list_places(root: str, folder: Path) -> list[str]:
    """List where a place may be by now: where it was, or beside a folder, or above that."""
    if "://" in root or Path(root).is_absolute():
        return [root]
    return [root, *(str(parent / root) for parent in (folder, *folder.absolute().parents))]
