"""Where images lie: a folder or a zip archive, listed and read alike.

A source is a small value that travels to workers by pickle; it holds no open file. Paths are
POSIX, relative to its root, and hold undecodable bytes as `os.fsdecode` does (surrogateescape).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from stages.archive import ZipSource, load_members
from stages.errors import InputError
from stages.folder import FolderSource

__all__ = ["FolderSource", "Source", "ZipSource", "find_file", "hash_images", "open_source"]

# A future costs about a kilobyte and a lock; a million images must not make a million of them.
_PATHS_PER_TASK = 64


class Source(Protocol):
    """What every place that holds images can do, safely from many threads at once."""

    @property
    def root(self) -> str:
        """The location as the user named it."""

    def list_images(self) -> list[str]:
        """List the paths with an image suffix, sorted by their bytes."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes; `OSError` for whatever cannot be read."""

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes in blocks of bounded size; raises as `read` does."""

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return each file's absolute identity."""

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return texts that change when the bytes may have; an `OSError` for what is missing."""


def open_source(location: str) -> Source:
    """Choose the source for what lies at a location.

    Parameters
    ----------
    location : str
        A folder, a zip archive, or a CSV file (whose source is the folder it lies in).

    Returns
    -------
    Source
        A `FolderSource` or a `ZipSource`.

    Raises
    ------
    InputError
        When nothing readable of these kinds is there.
    """
    remedy = "name a folder, a .zip or a .csv that exists"
    try:
        mode = Path(location).stat().st_mode
        if stat.S_ISDIR(mode):
            return FolderSource(location)
        if stat.S_ISREG(mode) and location.lower().endswith(".csv"):
            return FolderSource(str(Path(location).parent))
        load_members(location)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot open {location!r}: {reason}; {remedy}") from error
    return ZipSource(location)


def find_file(key: str) -> tuple[Source, str] | None:
    """Find the file that a key means: the inverse of `Source.file_keys`.

    Parameters
    ----------
    key : str
        ``/absolute/path`` or ``/absolute/archive.zip!member``.

    Returns
    -------
    tuple of Source and str, or None
        A source, and the file's path in it; None when there is no such file any more.
    """
    # Names may hold exclamation marks too: the file itself first, then each "!" as the separator.
    folder, name = os.path.split(key)
    places: list[tuple[str, str]] = [(folder, name)]
    places += [(key[: mark.start()], key[mark.end() :]) for mark in re.finditer("!", key)]
    for root, path in places:
        try:
            source = open_source(root)
        except InputError:
            continue
        if isinstance(source.fingerprints([path])[0], str):
            return source, path
    return None


def hash_images(source: Source, paths: Sequence[str], *, workers: int) -> list[bytes | OSError]:
    """Hash images in parallel threads.

    Parameters
    ----------
    source : Source
        Where the paths are read from.
    paths : sequence of str
        Paths as `Source.list_images` gives them.
    workers : int
        Number of threads, at least 1.

    Returns
    -------
    list of bytes or OSError
        For each path, in order, the 32 bytes of its SHA-256, or why it could not be read.
    """
    starts = range(0, len(paths), _PATHS_PER_TASK)
    tasks = [paths[start : start + _PATHS_PER_TASK] for start in starts]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        results = pool.map(lambda task: [_hash_image(source, path) for path in task], tasks)
        return [digest for task in results for digest in task]


def _hash_image(source: Source, path: str) -> bytes | OSError:
    digest = hashlib.sha256()
    try:
        for block in source.read_blocks(path):
            digest.update(block)
    except OSError as error:
        # The traceback would keep the reader's frames alive, and the block they hold.
        return error.with_traceback(None)
    return digest.digest()
