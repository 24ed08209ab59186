"""The errors that the cache raises.

::

    CacheError                  exit_status 3: stopped; one line to the user, no traceback
    ├── NotACacheError          exit_status 2: the folder is something else, or from a newer FORMAT
    ├── NotAViewError           exit_status 2: the file is no features.h5, or lacks the layer
    ├── DamagedError            a file of the cache is unreadable, altered or not what it should be
    ├── MissingShardError       a view points at a shard that is gone
    └── UnstorableError         a value that must not be stored: NaN, infinity, float16 overflow
"""

from __future__ import annotations

from typing import ClassVar


class CacheError(Exception):
    """Base of all errors of the cache."""

    exit_status: ClassVar[int] = 3


class NotACacheError(CacheError):
    """The folder is something else, or was written by a newer version."""

    exit_status: ClassVar[int] = 2


class NotAViewError(CacheError):
    """The file is no ``features.h5``, or does not hold the layer asked for."""

    exit_status: ClassVar[int] = 2


class DamagedError(CacheError):
    """A file of the cache is unreadable, altered or not what it should be."""


class MissingShardError(CacheError):
    """A view points at a shard that is gone."""


class UnstorableError(CacheError):
    """A value that must not be stored: in which row of the block that was appended, and why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row
