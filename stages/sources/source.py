"""Where images lie: a folder, an archive or a URL, listed and read alike.

A source is a small value that travels to workers by pickle; it holds no open file. Paths are
POSIX, relative to its root, and hold undecodable bytes as `os.fsdecode` does (surrogateescape).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource, load_members
from permafrost.stages.sources.folder import FolderSource, Listing, drop_file_scheme
from permafrost.stages.sources.remote import is_url, open_remote, split_url
from permafrost.stages.sources.sharded.pattern import is_pattern
from permafrost.stages.sources.sharded.source import ShardedSource


class Reader(Protocol):
    """Where images are read, by many threads at once."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes; `OSError` for whatever cannot be read."""

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return each file's absolute identity."""


class Source(Reader, Protocol):
    """What every place that holds images can do, safely from many threads at once."""

    @property
    def root(self) -> str:
        """The location as the user named it."""

    def list_images(self) -> list[str]:
        """List the paths with an image suffix, sorted by their bytes."""

    def list_files(self) -> Listing:
        """List the images, and what is left out beside them."""

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes in blocks of bounded size; raises as `read` does."""

    def make_absolute(self) -> Source:
        """Return the same source for workers in another folder."""

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return texts that change when the bytes may have; an `OSError` for what is missing."""


def open_source(location: str) -> Source:
    """Choose the source for what lies at a location.

    Parameters
    ----------
    location : str
        A folder, an archive (zip, tar, npz), a CSV file (whose source is the folder it lies in), a
        Parquet or Arrow file, a pattern of several of these or of tars (`ShardedSource`), or the
        URL of a folder, as ``s3://bucket/photos/``, which is listed at once.

    Returns
    -------
    Source
        A `FolderSource`, an `ArchiveSource`, a `ShardedSource` or a `RemoteSource`.

    Raises
    ------
    InputError
        When nothing readable of these kinds is there.
    """
    location = drop_file_scheme(location)
    try:
        return _open(location)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot open {location!r}: {reason}; name a folder, a .zip, .tar, .npz, .parquet or"
            " .csv that is there and whole, or a URL"
        ) from error


def _open(location: str) -> Source:
    if is_url(location):
        return open_remote(location)
    if Path(location).is_dir():
        return FolderSource(location)
    if location.lower().endswith(".csv") and Path(location).is_file():
        return FolderSource(str(Path(location).parent))
    if is_pattern(location) or location.lower().endswith((".parquet", ".arrow")):
        source = ShardedSource(location)
        source.check()
        return source
    load_members(location)
    return ArchiveSource(location)


def find_file(key: str) -> tuple[Source, str] | None:
    """Find the file that a key means: the inverse of `Source.file_keys`.

    Parameters
    ----------
    key : str
        ``/absolute/path``, ``/absolute/archive.zip!member`` or ``s3://bucket/path``.

    Returns
    -------
    tuple of Source and str, or None
        A source, and the file's path in it; None when there is no such file any more. Of a URL
        that is not asked: reading it tells.
    """
    if is_url(key):
        return split_url(key)
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
