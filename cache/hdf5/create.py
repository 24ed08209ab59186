"""Create HDF5 files whose bytes are the same every time, and that close even on a full disk."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5fd, h5g, h5p, h5s, h5t

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The lowest format with version 2 object headers, checksummed chunk indices and virtual datasets;
# "latest" would change with the library and break "identical inputs give identical bytes".
_FORMAT = h5f.LIBVER_V110


def create_file(stream: WriteStream) -> h5py.File:
    """Start an HDF5 file in a new stream; h5py's own way stamps the root group with the time."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(_FORMAT, _FORMAT)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, stream)
    name = os.fsencode(stream.path)
    return h5py.File(h5f.create(name, h5f.ACC_TRUNC, fcpl=_timeless(h5p.FILE_CREATE), fapl=access))


def create_group(file: h5py.File, name: str) -> h5py.Group:
    """Create a group and those above it, or return the one that exists; without time stamps.

    The name of the root group is empty.
    """
    group: h5py.Group = file["/"]
    for part in filter(None, name.split("/")):
        if part not in group:
            h5g.create(group.id, part.encode(), gcpl=_timeless(h5p.GROUP_CREATE))
        group = group[part]
    return group


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows that follow each other in a virtual dataset and in its source.

    Attributes
    ----------
    source : str
        File, relative to that of the virtual dataset.
    start, place, n_rows : int
        The first row in the source, the first in the virtual dataset, and how many.
    """

    source: str
    start: int
    place: int
    n_rows: int


def create_virtual(
    file: h5py.File,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    pieces: Iterable[Piece],
) -> h5py.Dataset:
    """Create a virtual dataset over the `features` of other files.

    Without them it reads as NaN; bytes, which have none, as 0. h5py's own way takes ten times as
    long for each piece, and leaves a time stamp.
    """
    creation = _timeless(h5p.DATASET_CREATE)
    creation.set_fill_value(np.array(np.nan if dtype.kind == "f" else 0, dtype))
    row, target = shape[1:], h5s.create_simple(shape)
    corner = (0,) * len(row)
    for piece in pieces:
        source = h5s.create_simple((piece.start + piece.n_rows, *row))
        source.select_hyperslab((piece.start, *corner), (piece.n_rows, *row))
        target.select_hyperslab((piece.place, *corner), (piece.n_rows, *row))
        # HDF5 takes "%b" in the name of a source file for a counter.
        path = os.fsencode(piece.source.replace("%", "%%"))
        creation.set_virtual(target, path, b"features", source)
    parent, _, leaf = name.rpartition("/")
    group = create_group(file, parent).id
    space, kind = h5s.create_simple(shape), h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5d.create(group, leaf.encode(), kind, space, dcpl=creation))


def _timeless(kind: h5p.PropClassID) -> h5p.PropOCID:
    creation = h5p.create(kind)
    creation.set_obj_track_times(False)
    return creation


class WriteStream(io.FileIO):
    """A new file for `create_file`, whose failures wait until they are asked for.

    HDF5 keeps what it could not write and tries again when the file is closed, when the object is
    collected and when the process ends; on a full disk that ends in a segmentation fault (seen
    with HDF5 1.14). Told that all is well, it closes its file and is done; whoever writes
    calls `check` after each step and before the file gets its name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.path = path
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first `OSError` there was, if any."""
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, str(self.path))

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
