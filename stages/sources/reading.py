"""Many images of a source hashed, and read ahead."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import groupby, islice, repeat
from typing import TypeVar

from permafrost.stages.sources.boxes import drop_box, identify_row
from permafrost.stages.sources.folder import FolderSource
from permafrost.stages.sources.remote import REMOTE_READERS, RemoteSource
from permafrost.stages.sources.source import Reader, Source

_Told = TypeVar("_Told")

# A future costs about a kilobyte and a lock; a million images must not make a million of them.
_PATHS_PER_TASK = 64

# Images of one batch that are fetched at once, encoded: some megabytes of photos.
_READ_AHEAD = 8


def hash_images(source: Source, paths: Sequence[str], *, workers: int) -> list[bytes | OSError]:
    """Hash images in parallel threads; several boxes of one image are read once.

    Parameters
    ----------
    source : Source
        Where the paths are read from.
    paths : sequence of str
        Paths as `Source.list_images` gives them.
    workers : int
        Number of threads, at least 1. More are used where reading is waiting.

    Returns
    -------
    list of bytes or OSError
        For each path, in order, the 32 bytes of its SHA-256, or of a box see `identify_row`; or why
        it could not be read.
    """
    files = list(dict.fromkeys(map(drop_box, paths)))
    digests = dict(zip(files, _hash_files(source, files, workers=workers), strict=True))
    found = zip(paths, (digests[drop_box(path)] for path in paths), strict=True)
    return [one if isinstance(one, OSError) else identify_row(path, one) for path, one in found]


def _hash_files(source: Source, paths: Sequence[str], *, workers: int) -> list[bytes | OSError]:
    size = _PATHS_PER_TASK
    if isinstance(source, RemoteSource):
        workers, size = max(workers, REMOTE_READERS), 1
    return _map_parts(
        lambda part: [_hash_image(source, path) for path in part], paths, size, workers
    )


def read_fingerprints(source: Source, paths: Sequence[str], *, workers: int) -> list[str | OSError]:
    """Return what `Source.fingerprints` does, of a folder in parallel threads.

    The system is asked for each file: on a disk by two cores at once, and a file server keeps each
    thread waiting.
    """
    if not isinstance(source, FolderSource):
        return source.fingerprints(paths)
    size = max(_PATHS_PER_TASK, -(-len(paths) // workers))
    return _map_parts(source.fingerprints, paths, size, workers)


def _map_parts(
    function: Callable[[Sequence[str]], list[_Told]], paths: Sequence[str], size: int, workers: int
) -> list[_Told]:
    """Call for so many paths at a time, in parallel threads."""
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return [one for told in pool.map(function, parts) for one in told]


def start_reading(source: Reader, paths: Sequence[str]) -> Iterator[Callable[[], bytes]]:
    """Yield for each path, in order, what returns its bytes or raises as `Source.read` does.

    Boxes of one image that follow each other are given the same bytes, read once.

    From a server the next few are already on their way, because reading them is mostly waiting.
    """
    files = [(file, len([*rows])) for file, rows in groupby(map(drop_box, paths))]
    reading = _start_files(source, [file for file, _ in files])
    for (_, n_rows), read in zip(files, reading, strict=True):
        yield from repeat(read if n_rows == 1 else cache(read), n_rows)


def _start_files(source: Reader, paths: Sequence[str]) -> Iterator[Callable[[], bytes]]:
    if not isinstance(source, RemoteSource):
        yield from (partial(source.read, path) for path in paths)
        return
    rest = iter(paths)
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        coming = deque(pool.submit(source.read, path) for path in islice(rest, _READ_AHEAD))
        while coming:
            yield coming.popleft().result
            coming.extend(pool.submit(source.read, path) for path in islice(rest, 1))


def _hash_image(source: Source, path: str) -> bytes | OSError:
    digest = hashlib.sha256()
    try:
        for block in source.read_blocks(path):
            digest.update(block)
    except OSError as error:
        # The traceback would keep the reader's frames alive, and the block they hold.
        return error.with_traceback(None)
    return digest.digest()
