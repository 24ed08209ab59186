"""Arrays and texts in HDF5 files, with a checksum of our own where HDF5's would miss damage.

To Fletcher-32, a chunk of which nothing but zeros is left is as good as any, and that is just what
a power cut or a bad sector leaves. And strings of no fixed length lie in HDF5's global heap, which
has no checksum at all: a flipped bit there is another text, or keeps HDF5 looking for ever (seen
with HDF5 1.14). What is written here comes back as it was, or reading it is an error.
"""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.hdf5.checksum import SUM_DTYPE, SUM_NAME, sum_values

# The twin, of fixed length, of an attribute that is text.
_TWIN = "{} (bytes)"


def write_array(group: h5py.Group, name: str, values: NDArray[Any], *, n_rows: int) -> None:
    """Store an array as a dataset in chunks of at most `n_rows` rows."""
    write_chunks(group, name, values, chunk=(max(1, min(len(values), n_rows)), *values.shape[1:]))


def write_chunks(
    group: h5py.Group, name: str, values: NDArray[Any], *, chunk: tuple[int, ...]
) -> None:
    """Store an array as a dataset in chunks of that shape."""
    dataset = group.create_dataset(name, data=values, chunks=chunk, fletcher32=True)
    seal(dataset, sum_values(values))


def read_array(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read what `write_array` or `write_chunks` wrote.

    Raises
    ------
    OSError
        It is damaged.
    """
    values: NDArray[Any] = dataset[()]
    check_seal(dataset, sum_values(values))
    return values


def seal(dataset: h5py.Dataset, total: int) -> None:
    """Note the checksum of all values of a dataset in its attributes, which HDF5 itself checks."""
    dataset.attrs[SUM_NAME] = np.dtype(SUM_DTYPE).type(total)


def check_seal(dataset: h5py.Dataset, total: int) -> None:
    """Raise OSError if the values that were read have another checksum than `seal` noted.

    Files of the first versions have none.
    """
    if dataset.attrs.get(SUM_NAME, total) != total:
        raise OSError(f"the values of {dataset.name} differ from their checksum")


def write_text(node: h5py.HLObject, name: str, text: str) -> None:
    """Store an attribute as other readers expect it, and once more for `read_text`."""
    raw = as_bytes(text)
    # A file name that is no UTF-8 goes in as its bytes.
    node.attrs[name] = text if raw.decode(errors="ignore") == text else bytes(raw)
    node.attrs[_TWIN.format(name)] = raw


def as_bytes(text: str) -> np.bytes_:
    """Return a text as the value of an attribute of fixed length, which `read_text` reads."""
    return np.bytes_(os.fsencode(text))


def read_text(node: h5py.HLObject, name: str) -> str:
    """Return an attribute that `write_text` wrote, or whose value `as_bytes` made."""
    twin = _TWIN.format(name)
    return decode(node.attrs[twin if twin in node.attrs else name])


def decode(text: bytes | str) -> str:
    """Return the text of an attribute or of an element, as h5py gave it.

    Raises
    ------
    ValueError
        It is something else.
    """
    if not isinstance(text, bytes | str):
        raise ValueError(f"a text is of {type(text).__name__}")  # noqa: TRY004
    return text if isinstance(text, str) else text.decode(errors="surrogateescape")
