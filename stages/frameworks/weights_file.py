"""Weights in HDF5, alone or inside a ``.keras`` archive, checked before Keras opens them.

HDF5 files can send their reader elsewhere: links, virtual datasets and external storage name other
files, filters name plugins, and a few bytes may declare terabytes. Keras checks some of that from
some version on; here all of it is refused, whatever Keras does.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from permafrost.stages.errors import WeightsError

MODEL_SUFFIX = ".keras"
HDF5_SUFFIXES = (".h5", ".hdf5")
_HDF5_START = b"\x89HDF\r\n\x1a\n"
_ZIP_START = b"PK\x03\x04"
# What Keras writes, and what our own export adds. Assets are others: files that layers read.
_MEMBERS = {"metadata.json", "config.json", "model.weights.h5", "classifier.json"}
# Real weights hardly compress; Keras does not compress at all.
_LARGEST_EXPANSION = 100
# So much may expand more than that, as a header or a network of zeros does.
_FREE_BYTES = 16 * 1024 * 1024
# HDF5's own (deflate to scale-offset, 32000 is h5py's LZF), none of which is loaded as a plugin.
_OWN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def check_weights(path: Path) -> int:
    """Refuse a weights file that is anything but numbers in this one file.

    Parameters
    ----------
    path : Path
        Ends in ``.h5``, ``.hdf5`` or ``.keras``.

    Returns
    -------
    int
        How many numbers.

    Raises
    ------
    WeightsError
        The reason, in one line.
    OSError, zipfile.BadZipFile
        It is no such file at all.
    """
    _check_kind(path)
    if path.suffix in HDF5_SUFFIXES:
        with path.open("rb") as stream:
            return _check_hdf5(stream, path.stat().st_size)
    if path.suffix == MODEL_SUFFIX:
        content = read_member(path, "model.weights.h5")
        return _check_hdf5(io.BytesIO(content), len(content))
    wanted = ", ".join((*HDF5_SUFFIXES, MODEL_SUFFIX))
    raise WeightsError(f"its name does not end in {wanted}; save weights as one such file")


def _check_kind(path: Path) -> None:
    """Refuse a file that is named like another kind than it is."""
    with path.open("rb") as stream:
        start = stream.read(len(_HDF5_START))
    if not start:
        raise WeightsError("the file is empty; save it again")
    is_archive = path.suffix == MODEL_SUFFIX
    if is_archive and start == _HDF5_START:
        raise WeightsError(f"it is an HDF5 file; rename it to {path.stem}{HDF5_SUFFIXES[0]}")
    if path.suffix in HDF5_SUFFIXES and start.startswith(_ZIP_START):
        raise WeightsError(f"it is a zip archive; rename it to {path.stem}{MODEL_SUFFIX}")


def list_saved_layers(path: Path) -> set[str]:
    """List what Keras 3 calls the layers in a checked weights file, those without weights too.

    Returns
    -------
    set of str
        As ``conv2d_1``: their classes, numbered; empty for a file in the format of Keras 2.
    """
    import h5py

    is_archive = path.suffix == MODEL_SUFFIX
    content = read_member(path, "model.weights.h5") if is_archive else b""
    with io.BytesIO(content) if is_archive else path.open("rb") as stream:
        file = h5py.File(stream, "r")
        return set(file.get("layers", ()))


def read_member(path: Path, name: str) -> bytes:
    """Read a member of a ``.keras`` archive in which there is nothing strange.

    Raises
    ------
    WeightsError
        The archive holds something else, or no such member.
    """
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        strange = [one for one in archive.namelist() if one not in _MEMBERS]
        if strange:
            raise WeightsError(
                f"the archive holds {strange[0][:80]!r}, which is not loaded: a backbone consists"
                f" of {', '.join(sorted(_MEMBERS - {'classifier.json'}))}"
            )
        if name not in archive.namelist():
            raise WeightsError(f"the archive has no {name}")
        return archive.read(name)


def check_archive(path: Path) -> None:
    """Raise WeightsError where a zip archive expands to far more than it is."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > _LARGEST_EXPANSION * member.compress_size + _FREE_BYTES:
                raise WeightsError(f"{member.filename[:80]!r} expands to {member.file_size} bytes")


def _check_hdf5(stream: IO[bytes], n_bytes: int) -> int:
    import h5py

    n_values = declared = 0
    with h5py.File(stream, "r") as file:
        for name, dataset in _walk_datasets(file):
            _check_dataset(name, dataset)
            n_values += math.prod(dataset.shape or ())
            declared += math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    if declared > _LARGEST_EXPANSION * n_bytes + _FREE_BYTES:
        raise WeightsError(f"its {n_bytes} bytes of HDF5 expand to {declared}")
    return n_values


def _walk_datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield each dataset once, following hard links alone, and none of them in circles."""
    import h5py

    pending, seen = [file["/"]], set()
    while pending:
        group = pending.pop()
        for name in group:
            # Of user-defined links h5py has no class, and says so with a TypeError.
            if group.get(name, getlink=True, getclass=True) is not h5py.HardLink:
                raise WeightsError(f"{group.name}/{name} is a link to somewhere else")
            node = group[name]
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(node, h5py.Dataset):
                yield node.name, node
            elif isinstance(node, h5py.Group):
                pending.append(node)


def _check_dataset(name: str, dataset: Any) -> None:
    pipeline = dataset.id.get_create_plist()
    filters = {pipeline.get_filter(number)[0] for number in range(pipeline.get_nfilters())}
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"the values of {name} lie in another file")
    if filters - _OWN_FILTERS:
        raise WeightsError(f"{name} is compressed with a plugin; save it without")
    if dataset.dtype.kind == "O":
        raise WeightsError(f"{name} holds references or texts, not numbers")
