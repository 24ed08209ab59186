"""Read what features.h5 says of a layer's rows (where they lie, shape, dtype), with every check."""

from __future__ import annotations

import h5py
import numpy as np

from permafrost.cache.hdf5.opening import Node, check_kind, open_node
from permafrost.cache.hdf5.sealed import read_array, read_text
from permafrost.cache.hdf5.strings import read_strings
from permafrost.cache.shards.format import SHARD_NAME, STORED_DTYPES
from permafrost.cache.shards.locations import RowLocations

_LARGEST_AXIS = 2**31


def read_pointers(file: h5py.File, name: str, *, n_rows: int) -> RowLocations:
    """Read where the rows of a layer lie, one for each image; ValueError where that cannot be.

    `name` is that of the layer's group, as ``rows/block5_pool:avg``.
    """
    shards = read_texts(file, f"{name}/shards")
    strange = [shard for shard in shards if not SHARD_NAME.fullmatch(shard)]
    if strange:
        raise ValueError(f"it names {strange[0][:80]!r}, which is no shard")
    shard, row = (open_node(file, f"{name}/{part}") for part in ("shard", "row"))
    for node in (shard, row):
        check_kind(node, ("int32", "int64"), row_shape=())
        check_length(node, n_rows)
    found = RowLocations(shards=shards, shard=read_array(shard), row=read_array(row))
    if (found.shard >= len(shards)).any() or (found.row[~found.missing] < 0).any():
        raise ValueError("it points at rows that cannot be")
    return found


def read_shape(node: Node) -> tuple[int, ...]:
    """Read the shape of a layer's rows; ValueError where it is none."""
    shape = tuple(int(n) for n in np.atleast_1d(node.attrs["shape"]))
    if not all(0 < n <= _LARGEST_AXIS for n in shape):
        raise ValueError(f"its rows are of shape {shape}")
    return shape


def read_dtype(node: Node) -> str:
    """Read the dtype of a layer's values; ValueError where it is none of ours."""
    name = read_text(node, "dtype")
    if name not in STORED_DTYPES:
        raise ValueError(f"its values are {name[:40]!r}")
    return name


def read_texts(file: h5py.File, name: str, *, n_rows: int | None = None) -> list[str]:
    """Read a dataset of texts; ValueError where it is none, or not of that length."""
    node = open_node(file, name)
    if not isinstance(node, h5py.Dataset) or h5py.check_string_dtype(node.dtype) is None:
        raise ValueError(f"its {name!r} holds no texts")
    if n_rows is not None:
        check_length(node, n_rows)
    return read_strings(node)


def check_length(node: Node, n_rows: int) -> None:
    """Raise ValueError unless a dataset has so many rows."""
    if len(node) != n_rows:
        raise ValueError(f"its {node.name[1:]!r} has {len(node)} rows of {n_rows}")
