"""The compressions that a dataset may have, and the plugins that they need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The command line needs the names below, and should start without it.
    import h5py

COMPRESSIONS = ("none", "lz4", "zstd")

# HDF5's registered numbers of lz4 and zstd, which come with hdf5plugin.
PLUGIN_FILTERS = {32004: "lz4", 32015: "zstd"}


def compression_options(compression: str) -> dict[str, Any]:
    """Return h5py's `create_dataset` options for one of `COMPRESSIONS`."""
    if compression == "none":
        return {}
    import hdf5plugin

    filters = {"lz4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd}
    # Byte shuffling groups the exponents, without which floats hardly compress.
    return {"shuffle": True, **filters[compression]()}


def load_filters(dataset: h5py.Dataset) -> None:
    """Register the compression filters, if this dataset uses one of them."""
    if find_compression(dataset) != "none":
        import hdf5plugin  # noqa: F401


def find_compression(dataset: h5py.Dataset) -> str:
    """Return which of `COMPRESSIONS` a dataset has."""
    found = (PLUGIN_FILTERS.get(one) for one in list_filters(dataset))
    return next(filter(None, found), "none")


def list_filters(dataset: h5py.Dataset) -> list[int]:
    """Return the numbers of a dataset's filters, in the order in which they are applied."""
    pipeline = dataset.id.get_create_plist()
    return [pipeline.get_filter(number)[0] for number in range(pipeline.get_nfilters())]
