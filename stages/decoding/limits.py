"""Refuse image files that would keep a decoder busy for minutes, though they have few pixels.

What is refused depends on the file alone, never on how fast or how busy the machine is.
"""

from __future__ import annotations

import io
import re

from PIL.TiffImagePlugin import TiffImageFile

from permafrost.stages.errors import ImageError

# Pillow reads headers in Python, some bytes at a time, at 0.5 to 2 µs a read with the interpreter
# locked, and 120 MB hold ten million empty chunks of a PNG. Photos take some tens of reads, large
# PNGs four for each 8 KB.
_MOST_READS = 300_000
_BYTES_FOR_ONE_MORE = 1024

# Pillow joins the EXIF segments of a JPEG one by one, copying what it has: 1,000 of 64 KB are
# 30 GB. More than a few are not known to occur.
_MOST_EXIF_SEGMENTS = 256
_EXIF = b"Exif\x00\x00"

# Each scan of a JPEG goes over all blocks of its components, whatever it says about them in ten
# bytes: at 0.1 ns a pixel, or 0.7 where the coding is arithmetic. These are 3 to 20 s. A photo has
# up to some ten scans, which makes 3e9 of the largest that is let through.
_MOST_PIXEL_SCANS = 3 * 10**10
_BLOCK = 16
_MOST_COMPONENTS = 4
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
# All but those that stand in compressed data or have no length: 0 and restarts.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_BARE_MARKERS = {0xD8, _END_OF_IMAGE}

TIFF_TILE_WIDTH = 322
TIFF_TILE_LENGTH = 323
# How many times the pixel limit all tiles may hold; what lies over the edge is decoded too.
_MOST_OVER_THE_EDGE = 2


class MeteredFile(io.BytesIO):
    """A file in memory that refuses to be read in too many pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._n_left = _MOST_READS + len(data) // _BYTES_FOR_ONE_MORE
        self._n_exif_left = _MOST_EXIF_SEGMENTS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file does; ImageError when it has been read too often."""
        self._n_left -= 1
        if self._n_left < 0:
            raise ImageError(f"too much work: more than {_MOST_READS} pieces")
        data = super().read(size)
        if data.startswith(_EXIF):
            self._n_exif_left -= 1
            if self._n_exif_left < 0:
                raise ImageError(f"too much work: more than {_MOST_EXIF_SEGMENTS} EXIF segments")
        return data

    def allow(self, n_reads: int) -> None:
        """Let it be read so many more times."""
        self._n_left += n_reads


def check_scans(data: bytes, size: tuple[int, int]) -> None:
    """Raise ImageError for a JPEG whose scans, each over all pixels, take more than some seconds.

    `size` is width and height in pixels.
    """
    width, height = (-(-length // _BLOCK) * _BLOCK for length in size)
    most = _MOST_PIXEL_SCANS // (width * height)
    # Counts the marker with its length, below 256. Metadata may hold these bytes too, or a film
    # behind the picture; but counting takes 0.7 ns a byte, and walking from marker to marker more.
    n_likely = _MOST_COMPONENTS * data.count(bytes([0xFF, _START_OF_SCAN, 0]))
    if n_likely > most and _has_more_scans(data, most):
        megapixels = size[0] * size[1] / 1e6
        raise ImageError(f"too much work: more than {most} scans of {megapixels:.3g} megapixels")


def _has_more_scans(data: bytes, most: int) -> bool:
    """Whether all scans together go over components more often than that."""
    n_scans, position = 0, 0
    while n_scans <= most and (found := _MARKER.search(data, position)):
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker == _START_OF_SCAN:
            n_scans += int.from_bytes(data[position + 2 : position + 3], "big")
        if marker not in _BARE_MARKERS:
            position += int.from_bytes(data[position : position + 2], "big")
    return n_scans > most


def check_tiles(file: TiffImageFile, *, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles reach far beyond the picture: each is decoded as a whole."""
    if TIFF_TILE_WIDTH not in file.tag_v2:
        return
    tile = file.tag_v2[TIFF_TILE_WIDTH], file.tag_v2[TIFF_TILE_LENGTH]
    width, height = (-(-all_ // one) * one for all_, one in zip(file.size, tile, strict=True))
    if width * height > _MOST_OVER_THE_EDGE * max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels of whole tiles")
