"""Digests of a dataset's files: looked up where a file is as it was, and hashed otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from permafrost.cache.store.index import Index, IndexedFile
from permafrost.refusals import SHORTAGES
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.sources.names import GONE
from permafrost.stages.sources.reading import hash_images, read_fingerprints
from permafrost.stages.sources.source import Source

# Files that are hashed and added to the index together: keys and fingerprints of a million files
# need not be held at once, and an interrupted run need not hash the earlier ones again.
_FILES_PER_BATCH = 5000


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
        self._paths: Sequence[str] | None = None
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
        # Of other rows, as those of some classes, the index knows what was hashed before.
        if self._paths is None or len(paths) != len(self._paths):
            self._digests, rows = Digests.none(len(paths)), iter(range(len(paths)))
        else:
            pairs = enumerate(zip(self._paths, paths, strict=True))
            rows = (row for row, (old, new) in pairs if old != new)
        self._paths = paths
        # Neighbours together, as the index and folders have them: files in any order take twice
        # the time.
        order = np.fromiter(sorted(rows, key=paths.__getitem__), np.int64)
        for start in range(0, len(order), _FILES_PER_BATCH):
            batch = order[start : start + _FILES_PER_BATCH]
            found = self._hash_batch(source, [paths[row] for row in batch.tolist()])
            self._digests.array[batch] = found.array
        return self._digests

    def list_unreadable(self) -> dict[str, str]:
        """Return path → reason of the rows last asked for that cannot be read, in their order."""
        reasons, paths = self._reasons, self._paths or ()
        return {path: reasons[path] for path in paths if path in reasons} if reasons else {}

    def _hash_batch(self, source: Source, paths: list[str]) -> Digests:
        keys = source.file_keys(paths)
        told = read_fingerprints(source, paths, workers=self._workers)
        prints = {key: text for key, text in zip(keys, told, strict=True) if isinstance(text, str)}
        known = self._index.digests_of(prints) if self._index else {}
        # Zeros are no digest, and come from a garbled index.
        digests = {key: digest for key, digest in known.items() if any(digest)}
        todo = prints.keys() - digests
        files = {key: path for key, path in zip(keys, paths, strict=True) if key in todo}
        fresh = dict(
            zip(files, hash_images(source, [*files.values()], workers=self._workers), strict=True)
        )
        hashed = {key: digest for key, digest in fresh.items() if isinstance(digest, bytes)}
        if self._index:
            self._index.add_files(IndexedFile(key, prints[key], hashed[key]) for key in hashed)
        digests |= hashed
        if len(digests) < len(keys):
            self._note_errors(paths, map((dict(zip(keys, told, strict=True)) | fresh).get, keys))
        return Digests.of(digests.get(key, b"") for key in keys)

    def _note_errors(self, paths: list[str], found: Iterable[object]) -> None:
        for path, error in zip(paths, found, strict=True):
            if isinstance(error, OSError):
                self._reasons[path] = explain_os_error(error)
                if isinstance(error, GONE):
                    self._gone.add(path)


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
