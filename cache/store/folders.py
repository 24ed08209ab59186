"""When something in the cache was last used: the time of its file, a feature set's recipe.json."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_DAY_S = 24 * 3600


def mark_used(file: Path) -> None:
    """Note that a file of ours, or the feature set in a folder of ours, is used now, if possible.

    A cache that cannot be written to is none that is cleaned up.
    """
    with contextlib.suppress(OSError):
        os.utime(_find_clock(file))


def count_idle_days(file: Path) -> float:
    """Return the days since it was last used."""
    return (time.time() - _find_clock(file).stat().st_mtime) / _DAY_S


def _find_clock(file: Path) -> Path:
    return file / "recipe.json" if file.is_dir() else file
