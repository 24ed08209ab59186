"""Arrays derived from a feature set, kept beside its shards, as making them again takes time."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import published
from permafrost.cache.hdf5.checksum import Checksum
from permafrost.cache.hdf5.create import WriteStream, create_file
from permafrost.cache.hdf5.opening import check_storage, open_node
from permafrost.cache.hdf5.sealed import check_seal, read_array, write_chunks
from permafrost.cache.shards.format import RowFormat, choose_chunk
from permafrost.cache.store.folders import mark_used
from permafrost.refusals import find_refusal
from permafrost.warn import warn_once

_log = logging.getLogger(__name__)

_HEX = re.compile(r"[0-9a-f]+")


class Artefacts:
    """Arrays in files ``derived-<name>.h5`` of a folder.

    Nothing depends on them: where one is missing, damaged or cannot be saved, the work is done
    again.

    Parameters
    ----------
    folder : Path or None
        A feature set's, as `Features.folder` gives it; with None nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, name: str) -> NDArray[Any] | None:
        """Load an array; None where there is none, or none that is sound, as the log says."""
        file = self._find(name)
        if file is None or not file.exists():
            return None
        try:
            values = _read(file, name)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            what = "is damaged" if find_refusal(error) is None else "cannot be read"
            _log.warning("%s %s (%s) and is made again", file, what, error)
            return None
        mark_used(file)
        return values

    def save(self, name: str, values: NDArray[Any]) -> None:
        """Keep an array of numbers, at least one; the log warns where that cannot be."""
        file = self._find(name)
        if file is None:
            return
        try:
            _write(file, name, values)
        except OSError as error:
            # Once for each folder and reason: a sweep saves many arrays.
            warn_once(
                f"cannot keep derived arrays in {file.parent} ({error.strerror or error}); they are"
                " made again each time"
            )

    def _find(self, name: str) -> Path | None:
        if not _HEX.fullmatch(name):
            raise ValueError(f"{name!r} is no digest in lower-case hex")
        return self._folder and self._folder / f"derived-{name}.h5"


def _read(file: Path, name: str) -> NDArray[Any]:
    with h5py.File(file, "r", locking=False) as opened:
        if opened.attrs["name"] != name.encode():
            raise ValueError("it has the name of another")
        node = open_node(opened, "values")
        if not isinstance(node, h5py.Dataset):
            raise ValueError("its values are none")  # noqa: TRY004
        return read_array(node)


def _write(file: Path, name: str, values: NDArray[Any]) -> None:
    row = RowFormat(shape=values.shape[1:], dtype=values.dtype.name)
    with published(file, shared=True) as temporary, WriteStream(temporary) as stream:
        with create_file(stream) as opened:
            # Of fixed length: HDF5 does not checksum the heap where it puts other strings, and a
            # flipped bit there can keep it reading for ever (seen with HDF5 1.14).
            opened.attrs["name"] = np.bytes_(name)
            write_chunks(opened, "values", values, chunk=choose_chunk(row, len(values)))
        stream.check()


def check_artefact(path: Path) -> None:
    """Read a derived array with all its checks, some chunks at a time."""
    with h5py.File(path, "r", locking=False) as file:
        if file.attrs["name"] != path.stem.removeprefix("derived-").encode():
            raise ValueError("it has the name of another")
        check_storage(file, "values")
        dataset, total = file["values"], Checksum()
        for start in range(0, len(dataset), dataset.chunks[0]):
            total.add(dataset[start : start + dataset.chunks[0]])
        check_seal(dataset, total.value)
