"""Tables with a row for each box: several rows of one image, each with a label of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from permafrost.stages.datasets.groups import GROUP_COLUMN
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError
from permafrost.stages.numbers import parse_number
from permafrost.stages.sources.boxes import Box, add_box, drop_box

_SEPARATORS = re.compile(r"[\s,;]+")
# Of pixels; no image is as large.
_MOST = 10**9


def place_boxes(paths: Sequence[str], boxes: Sequence[str], *, name: str) -> Texts:
    """Return the paths of rows, given those of their images and a column ``box``.

    Parameters
    ----------
    paths : sequence of str
    boxes : sequence of str
        ``x,y,width,height`` in pixels; "" is the whole image.
    name : str
        What messages call the table.

    Raises
    ------
    InputError
        A cell is written in another way.
    """
    return Texts.of(
        add_box(path, _parse_box(box, name)) if box else path
        for path, box in zip(paths, boxes, strict=True)
    )


def _parse_box(text: str, name: str) -> Box:
    """Read a box; edges are rounded to whole pixels, as Pillow's ``crop`` does."""
    try:
        numbers = [*map(parse_number, _SEPARATORS.split(text.strip(" \t[]()")))]
        x, y, width, height = numbers
    except ValueError:
        numbers = []
    if not numbers or max(map(abs, numbers)) >= _MOST:
        raise InputError(
            f"{name!r} has the box {text!r}; write x,y,width,height in pixels, leave it empty for"
            " the whole image, or rename the column"
        )
    left, top = round(x), round(y)
    return left, top, round(x + width) - left, round(y + height) - top


def keep_images_together(
    paths: Sequence[str], extra: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Return the further columns with a column ``group``: the image that each row is a box of.

    Rows of one image then are on one side of every split. Where there is such a column, it stays.
    """
    if any(name.casefold() == GROUP_COLUMN for name in extra):
        return dict(extra)
    return {**extra, GROUP_COLUMN: [*map(drop_box, paths)]}
