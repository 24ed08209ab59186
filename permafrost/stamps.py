"""What tells one version of a file from the next, as the cache's index remembers it."""

from __future__ import annotations

import os


def write_stamp(status: os.stat_result) -> str:
    """Return ``size:mtime_ns`` of a file."""
    return f"{status.st_size}:{status.st_mtime_ns}"
