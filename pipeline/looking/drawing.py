"""The pictures of ``show --image``: class maps over a photo, and activation maps in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from permafrost.pipeline.looking.class_view import ClassView, Look
from permafrost.pipeline.looking.colours import colour, lay_over, spread_map
from permafrost.pipeline.looking.nearest import Neighbour
from permafrost.pipeline.looking.page import LINE, MARGIN, Page, fit_size
from permafrost.pipeline.looking.photos import Photos, show_photo
from permafrost.stages.sources.remote import is_url

PHOTO_SIDE = 280
_THUMB, _GAP, _PER_ROW = 160, 10, 8
_RAMP = (220, 12)


def draw_look(look: Look, out: Path) -> None:
    """Draw a photo, a map of each class over it, and the nearest images of each class."""
    page = Page()
    image = look.image
    photo = show_photo(image.data, look.features, size=look.size, side=PHOTO_SIDE, box=image.box)
    page.put(MARGIN, MARGIN, photo)
    right = MARGIN + photo.width + 2 * _GAP
    _write_title(page, look, x=right)
    fields = [add_maps(one, photo.size) for one in look.classes]
    # One scale for all, so that what says little for a class looks so.
    strongest = max((float(field.max()) for field in fields), default=0.0)
    # Of a URL nothing is read: it would be listed whole.
    photos = Photos() if is_url(look.root) else look.photos
    y = MARGIN + max(photo.height, 5 * LINE) + 2 * _GAP
    for view, field in zip(look.classes, fields, strict=True):
        page.write(MARGIN, y, _name(view), width=photo.width)
        y += LINE + _GAP // 2
        page.put(MARGIN, y, lay_over(photo, field / strongest if strongest > 0 else 0 * field))
        _put_neighbours(page, view.neighbours, photos, x=right, y=y)
        y += max(photo.height, _THUMB + 2 * LINE if view.neighbours else 0) + 2 * _GAP
    page.save(out)


def add_maps(view: ClassView, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return what each pixel says for a class: the maps of all layers, whatever their size.

    Parameters
    ----------
    view : ClassView
    size : tuple of int
        Width and height in pixels.

    Returns
    -------
    ndarray of float64, shape (height, width)
        Its mean is the score, but for rounding.
    """
    first, *others = (spread_map(one * one.size, size) for one in view.maps)
    return sum(others, start=first)


def _name(view: ClassView) -> str:
    share = "" if view.probability is None else f"  {view.probability:.1%}"
    return f"{view.name}{share}  (score {view.score:+.2f})"


def _write_title(page: Page, look: Look, *, x: int) -> None:
    width = 4 * (_THUMB + _GAP)
    lines = [
        (look.image.file.name, False),
        (f"{look.head} on {look.layer}", True),
        (f"says {_name(look.classes[0])}", False),
        ("what speaks for a class, and where: none … most", True),
    ]
    for number, (text, faint) in enumerate(lines):
        page.write(x, MARGIN + number * LINE, text, width=width, faint=faint)
    width, height = _RAMP
    steps = np.tile(np.linspace(0, 1, width), (height, 1))
    page.put(x, MARGIN + len(lines) * LINE + 2, lay_over(Image.new("RGB", _RAMP, "white"), steps))


def _put_neighbours(
    page: Page, neighbours: Sequence[Neighbour], photos: Photos, *, x: int, y: int
) -> None:
    for number, one in enumerate(neighbours):
        left = x + number * (_THUMB + _GAP)
        page.put(left, y, photos.cut(one.path, _THUMB))
        page.write(left, y + _THUMB + 2, f"{one.similarity:.3f}  {one.split}")
        page.write(left, y + _THUMB + 2 + LINE, one.path, width=_THUMB, faint=True)


def draw_grids(
    photo: Image.Image, grids: Sequence[tuple[str, NDArray[np.float64], Sequence[int]]], out: Path
) -> None:
    """Draw a photo, and below it the maps of each layer in a grid.

    Parameters
    ----------
    photo : Image
    grids : sequence of (str, ndarray of shape (h, w, n), sequence of int)
        Of each layer, what it is called, maps of some channels from 0 to 1, and their numbers.
    out : Path
    """
    page = Page()
    page.put(MARGIN, MARGIN, photo)
    y = MARGIN + photo.height + 2 * _GAP
    width, height = fit_size(photo.size, _THUMB * 3 // 4)
    for name, maps, numbers in grids:
        page.write(MARGIN, y, name)
        y += LINE + _GAP // 2
        for place, number in enumerate(numbers):
            row, column = divmod(place, _PER_ROW)
            tile = Image.fromarray(colour(maps[..., place]))
            left, top = MARGIN + column * (width + _GAP), y + row * (height + LINE + _GAP)
            # The positions themselves, and nothing between them.
            page.put(left, top, tile.resize((width, height), Image.Resampling.NEAREST))
            page.write(left, top + height, str(number), faint=True)
        y += -(-len(numbers) // _PER_ROW) * (height + LINE + _GAP) + _GAP
    page.save(out)
