"""Digests of a dataset's files: looked up where a file is as it was, and hashed otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.index import Index, IndexedFile
from permafrost.refusals import SHORTAGES
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.sources.names import GONE
from permafrost.stages.sources.reading import hash_images, read_fingerprints
from permafrost.stages.sources.source import Source

# Files that are hashed and added to the index together: keys and fingerprints of a million files
# need not be held at once, and an interrupted run need not hash the earlier ones again.
_FILES_PER_BATCH = 5000
_SAMPLED = 100
_SORTED_BYTES = 48


class Hasher:
    """Hashes the files of a source; a row that is asked for again is not hashed again.

    Parameters
    ----------
    index : Index, optional
        Knows the digests of files that have not changed since they were last hashed.
    workers : int
        Threads that hash.
    """

    def __init__(self, index: Index | None, *, workers: int) -> None:
        self._index = index
        self._workers = workers
        self._paths: Texts | None = None
        self._digests = Digests.none(0)
        self._reasons: dict[str, str] = {}
        self._gone: set[str] = set()

    def find_missing(self, source: Source, paths: Sequence[str]) -> list[str]:
        """Return the paths that are no files, once all others are hashed."""
        self.hash(source, paths)
        return [path for path in paths if path in self._gone] if self._gone else []

    def hash(self, source: Source, paths: Sequence[str]) -> Digests:
        """Return the digest of each file, ``b""`` of one that cannot be read.

        Where the same rows are asked for again, only those are hashed that have other paths now.
        """
        before, self._paths = self._paths, Texts.of(paths)
        # Of other rows, as those of some classes, the index knows what was hashed before.
        if before is None or len(before) != len(paths):
            self._digests, todo = Digests.none(len(paths)), np.arange(len(paths))
        elif before is self._paths:
            return self._digests
        else:
            pairs = enumerate(zip(before, paths, strict=True))
            todo = np.fromiter((row for row, (old, new) in pairs if old != new), np.int64)
        todo = todo[_order_by_name(self._paths, todo)]
        for start in range(0, len(todo), _FILES_PER_BATCH):
            batch = todo[start : start + _FILES_PER_BATCH]
            self._digests.array[batch] = self._hash_batch(source, self._paths.pick(batch)).array
        return self._digests

    def list_unreadable(self) -> dict[str, str]:
        """Return path → reason of the rows last asked for that cannot be read, in their order."""
        reasons, paths = self._reasons, self._paths or ()
        return {path: reasons[path] for path in paths if path in reasons} if reasons else {}

    def _hash_batch(self, source: Source, paths: list[str]) -> Digests:
        keys = source.file_keys(paths)
        told = read_fingerprints(source, paths, workers=self._workers)
        found = self._index.digests_of(keys, told) if self._index else [b""] * len(keys)
        digests = Digests.of(found)
        # Zeros are no digest either, and come from a garbled index.
        todo = np.flatnonzero(~digests.known).tolist()
        if not todo:
            return digests
        prints = {keys[row]: text for row in todo if isinstance(text := told[row], str)}
        files = {keys[row]: paths[row] for row in todo if keys[row] in prints}
        hashed = hash_images(source, [*files.values()], workers=self._workers)
        fresh = dict(zip(files, hashed, strict=True))
        if self._index:
            self._index.add_files(
                IndexedFile(key, prints[key], digest)
                for key, digest in fresh.items()
                if isinstance(digest, bytes)
            )
        for row in todo:
            new = fresh.get(keys[row], told[row])
            if isinstance(new, bytes):
                digests.array[row] = np.frombuffer(new, np.uint8)
            elif isinstance(new, OSError):
                self._note_error(paths[row], new)
        return digests

    def _note_error(self, path: str, error: OSError) -> None:
        self._reasons[path] = explain_os_error(error)
        if isinstance(error, GONE):
            self._gone.add(path)


def _order_by_name(paths: Texts, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order in which neighbours of the index and of folders follow each other.

    In any other order files take twice the time. It is by what comes after the start that all of
    them share, as far as some tell, and no further than names mostly differ: in a tenth of the
    memory of the names.
    """
    some = paths.pick(rows[:: len(rows) // _SAMPLED + 1])
    start = len(os.path.commonprefix(some))  # noqa: RUF071 - of characters
    width = min(_SORTED_BYTES, max(map(len, some), default=0) - start + 1)
    names = np.empty(len(rows), f"S{width}")
    for first in range(0, len(rows), _FILES_PER_BATCH):
        block = slice(first, first + _FILES_PER_BATCH)
        names[block] = [
            path[start : start + width].encode(errors="surrogatepass")
            for path in paths.pick(rows[block])
        ]
    return np.argsort(names, kind="stable")


def explain_os_error(error: OSError) -> str:
    """Return the reason alone: the path stands beside it.

    Raises
    ------
    OSError
        The process has no descriptor or memory left, which is no fault of the image.
    """
    if error.errno in SHORTAGES:
        raise error
    return (error.strerror or str(error) or type(error).__name__).lower()
