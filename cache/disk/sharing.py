"""What lies in a cache has the permissions of the folder that it lies in, whoever makes it.

So ``chmod g+rws CACHE`` once lets a group share a cache, whatever umask its users have. That gives
nothing away: who may write in a folder may replace each file in it.
"""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path
from typing import IO

# Reading and writing, for each of owner, group and others.
_OF_FILES = 0o666


def share(path: Path) -> None:
    """Give a file or folder, which this process has just made, the permissions of its folder."""
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    # Some file systems have no permissions.
    with contextlib.suppress(OSError):
        path.chmod(mode if path.is_dir() else mode & _OF_FILES)


def open_shared(file: Path) -> IO[str]:
    """Open a file to append to it; it is made and shared where there is none."""
    is_new = not file.exists()
    opened = file.open("a")
    if is_new:
        share(file)
    return opened
