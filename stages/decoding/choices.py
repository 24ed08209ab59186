"""What can be chosen of decoding: without Pillow, as the command line starts faster so."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from permafrost.stages.errors import InputError

ORIENT_MODES = ("ignore", "exif")
# How many channels an image has, and what that is called.
_COLORS: Mapping[int, str] = {
    1: "grayscale",
    3: "rgb",
    **{n: f"{n} channels" for n in (2, *range(4, 65))},
}
COLOR_MODES = tuple(_COLORS.values())
DECODE_MODES = ("exact", "fast")


def name_color(n_channels: int) -> str:
    """Return the one of `COLOR_MODES` that has so many channels."""
    return _COLORS[n_channels]


def count_channels(color: str) -> int:
    """Return how many channels one of `COLOR_MODES` has."""
    return next(n_channels for n_channels, name in _COLORS.items() if name == color)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What one image may take.

    Parameters
    ----------
    timeout_s : float
        Of the wall clock.
    memory_bytes : int
        Of address space. The largest picture that is let through takes 0.8 to 1.9 GB as JPEG, PNG,
        GIF and BMP, 2.9 GB as WebP and 3.1 GB as floating-point TIFF.

    Raises
    ------
    InputError
        If the time is not positive.
    """

    timeout_s: float = 60
    memory_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < threading.TIMEOUT_MAX:
            raise InputError(f"image timeout {self.timeout_s:g}: give some seconds, as 60")
