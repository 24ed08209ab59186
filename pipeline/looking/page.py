"""A picture made of tiles with lines of text beside and below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from permafrost.cache.disk.publish import make_folder, published

MARGIN = 16
LINE = 20
_INK, _FAINT, _PAPER = (20, 20, 24), (96, 96, 104), (255, 255, 255)
_SIZE = 15


@dataclass(slots=True, kw_only=True)
class Page:
    """A sheet that is as large as what is put on it."""

    _tiles: list[tuple[int, int, Image.Image]] = field(default_factory=list)
    _texts: list[tuple[int, int, str, bool]] = field(default_factory=list)
    _right: int = 0
    _bottom: int = 0

    def put(self, x: int, y: int, tile: Image.Image) -> None:
        """Put a tile's upper left corner at a place."""
        self._tiles.append((x, y, tile))
        self._reach(x + tile.width, y + tile.height)

    def write(
        self, x: int, y: int, text: str, *, width: int | None = None, faint: bool = False
    ) -> None:
        """Write a line, cut to a width in pixels."""
        shown = shorten(text, width) if width else text
        self._texts.append((x, y, shown, faint))
        self._reach(x + measure(shown), y + LINE)

    def save(self, out: Path) -> None:
        """Write the sheet as a PNG, in one step."""
        sheet = Image.new("RGB", (self._right + MARGIN, self._bottom + MARGIN), _PAPER)
        for x, y, tile in self._tiles:
            sheet.paste(tile, (x, y))
        pen = ImageDraw.Draw(sheet)
        for x, y, text, faint in self._texts:
            pen.text((x, y), text, fill=_FAINT if faint else _INK, font=_load_font())
        make_folder(out.absolute().parent)
        with published(out) as temporary:
            sheet.save(temporary, "PNG", optimize=True)

    def _reach(self, right: int, bottom: int) -> None:
        self._right, self._bottom = max(self._right, right), max(self._bottom, bottom)


def _load_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_SIZE)


def measure(text: str) -> int:
    """Return how wide a line is, in pixels."""
    return int(_load_font().getlength(text)) + 1


def shorten(text: str, width: int) -> str:
    """Cut a line in its middle to a width in pixels: of a path, both ends tell."""
    if measure(text) <= width:
        return text
    for n in range(len(text) - 1, 1, -1):
        cut = f"{text[: n // 2]}…{text[len(text) - (n - n // 2) :]}"
        if measure(cut) <= width:
            return cut
    return text[:1]


def fit_size(size: Sequence[int], side: int) -> tuple[int, int]:
    """Return a size of the same shape, whose longer side is `side`, width and height in order."""
    largest = max(size)
    width, height = (max(1, round(side * one / largest)) for one in size)
    return width, height
