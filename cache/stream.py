"""The file that HDF5 writes into."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class WriteStream(io.FileIO):
    """A new file for ``h5py.File``, whose failures wait until they are asked for.

    HDF5 keeps what it could not write and tries again when the file is closed, when the object is
    collected and when the process ends; on a full disk that ends in a segmentation fault (seen
    with HDF5 1.14). Told that all is well, it closes its file and is done; whoever writes
    calls `check` after each step and before the file gets its name.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._path = path
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first `OSError` there was, if any."""
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, str(self._path))

    def write(self, data: ReadableBuffer) -> int:
        """Write all of `data`, or remember why not."""
        view = memoryview(data).cast("B")
        try:
            # A nearly full disk takes a part, and gives the reason only when asked again.
            while view:
                view = view[super().write(view) :]
        except OSError as error:
            self._failure = self._failure or error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size, or remember why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size or 0
