"""Rows that are a box in an image: how their paths are written, and what they are known by.

The path is that of the image with a fragment, as ``photo.jpg#xywh=10,20,30,40``: pixels from the
left and from the top, width and height (W3C, Media Fragments URI 1.0, section 4.2.2). Every source
reads the image's bytes at such a path.
"""

from __future__ import annotations

import hashlib
import re

# Left, top, width and height in pixels.
Box = tuple[int, int, int, int]
_MARK = "#xywh="
_FRAGMENT = re.compile(r"#xywh=(-?[0-9]{1,9}),(-?[0-9]{1,9}),(-?[0-9]{1,9}),(-?[0-9]{1,9})\Z")


def add_box(path: str, box: Box) -> str:
    """Return the path of a box in an image."""
    return path + _write(box)


def find_box(path: str) -> Box | None:
    """Return the box that a path tells; None where the row is the whole image."""
    found = _FRAGMENT.search(path) if _MARK in path else None
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4])) if found else None


def drop_box(path: str) -> str:
    """Return the path of the image itself."""
    return _FRAGMENT.sub("", path) if _MARK in path else path


def identify_row(path: str, digest: bytes) -> bytes:
    """Return the id of a row, given its path and the SHA-256 of its image's bytes.

    That is the image's own; and of a box the SHA-256 of it and of the box, so that two boxes of
    one image are two rows, and one box is the same row wherever the image lies.
    """
    box = find_box(path)
    return digest if box is None else hashlib.sha256(digest + _write(box).encode()).digest()


def _write(box: Box) -> str:
    return _MARK + ",".join(map(str, box))
