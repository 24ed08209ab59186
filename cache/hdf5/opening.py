"""Open what lies inside an HDF5 file, and nothing that it points to.

A file from someone else may answer with the content of other files: through links of three kinds,
virtual datasets and external storage. It may name filters, which HDF5 looks for as plugins, and
declare terabytes that it does not hold. Asking h5py whether a name exists follows its link
already, so links are looked at before anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
from h5py import h5l, h5o, h5z

from permafrost.cache.hdf5.compression import PLUGIN_FILTERS, list_filters

# A dataset or a group; h5py has no types.
Node = Any

# Those that HDF5 has itself, and those of our compressions.
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, *PLUGIN_FILTERS}
# Ours take a megabyte. HDF5 unpacks a chunk as a whole, whatever part of it is read.
_LARGEST_CHUNK_BYTES = 64 * 1024 * 1024


def has_node(file: h5py.File, name: str) -> bool:
    """Tell whether a file has a node of that name, without opening a dataset."""
    parent, _, leaf = name.rpartition("/")
    if parent and not has_node(file, parent):
        return False
    group = open_node(file, parent) if parent else file["/"]
    return isinstance(group, h5py.Group) and _has_link(group, leaf)


def open_node(file: h5py.File, name: str) -> Node:
    """Open a group or dataset by its path.

    Raises
    ------
    KeyError
        There is none.
    ValueError
        It is elsewhere, or a dataset that does not hold what it declares.
    """
    node: Node = file["/"]
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not _has_link(node, part):
            raise KeyError(f"it has no /{name}")
        node = _follow_link(node, part)
    if isinstance(node, h5py.Dataset):
        _check_storage(node)
    return node


def walk_nodes(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the nodes below a group with their paths, groups first; each once, even in a circle."""
    pending, seen = [(prefix, group)], {h5o.get_info(group.id).addr}
    while pending:
        path, parent = pending.pop()
        for name in parent:
            node = _follow_link(parent, name)
            address = h5o.get_info(node.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield path + name, node
            if isinstance(node, h5py.Group):
                pending.append((f"{path}{name}/", node))


def _has_link(group: h5py.Group, name: str) -> bool:
    return name not in ("", ".") and bool(group.id.links.exists(_encode(name)))


def _follow_link(group: h5py.Group, name: str) -> Node:
    if group.id.links.get_info(_encode(name)).type != h5l.TYPE_HARD:
        raise ValueError(f"its {name!r} is a link to elsewhere")
    node = group[name]
    if not isinstance(node, h5py.Dataset | h5py.Group):
        raise ValueError(f"its {name!r} is neither data nor a group")  # noqa: TRY004
    return node


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _check_storage(dataset: h5py.Dataset) -> None:
    """Check that the values lie in this file, all of them, as this package may have written them.

    HDF5 reads what was never written as zeros.
    """
    name, filters = repr(dataset.name[1:]), list_filters(dataset)
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its {name} lies elsewhere")
    if not _FILTERS.issuperset(filters):
        raise ValueError(f"its {name} takes a filter that is not ours ({max(filters)})")
    if dataset.shape is None:
        raise ValueError(f"its {name} is empty")
    if dataset.chunks is None:
        n_bytes = math.prod(dataset.shape) * dataset.id.get_type().get_size()
        if dataset.id.get_storage_size() < n_bytes:
            raise ValueError(f"values of its {name} are missing")
        return
    if math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK_BYTES:
        raise ValueError(f"its {name} has chunks of {dataset.chunks}")
    sizes = zip(dataset.shape, dataset.chunks, strict=True)
    if dataset.id.get_num_chunks() != math.prod(math.ceil(n / step) for n, step in sizes):
        raise ValueError(f"chunks of its {name} are missing")


def check_kind(
    node: Node, dtypes: tuple[str, ...], *, row_shape: tuple[int, ...] | None = None
) -> None:
    """Raise ValueError unless a node is a dataset of one of these dtypes, with such rows."""
    if not isinstance(node, h5py.Dataset) or node.ndim == 0 or node.dtype.name not in dtypes:
        raise ValueError(f"its {node.name[1:]!r} is not of {' or '.join(dtypes)}")
    if row_shape not in (None, node.shape[1:]):
        raise ValueError(f"its {node.name[1:]!r} is of shape {node.shape}")


def check_storage(file: h5py.File, name: str) -> None:
    """Check that a dataset lies whole in this file, in chunks with HDF5's checksum."""
    dataset = open_node(file, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None or not dataset.fletcher32:
        raise ValueError(f"its {name!r} has no checksums")
