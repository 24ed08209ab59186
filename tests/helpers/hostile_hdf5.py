"""A small cache and its view, and what somebody may do to either so that reading leaves them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import join_digests, split_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.writer import ViewImages, ViewLayer, write_view

RECIPE: Recipe = {"backbone": "tiny", "layer": "conv/1", "pooling": "none", "dtype": "float32"}
ROW = RowFormat(shape=(5, 7), dtype="float32")
N_ROWS = 12
LAYER = "conv/1:none"
POINTERS, VALUES = f"rows/{LAYER}", f"features/{LAYER}"
SECRET = 42.0

Change = Callable[[h5py.File, Path], None]


def write_cache(folder: Path, *, materialize: bool = False) -> tuple[Path, Path]:
    """Write a cache with one shard and a view over it; return the view and the shard."""
    layout = open_cache(folder / "cache")
    digests = join_digests([hashlib.sha256(bytes([i])).digest() for i in range(N_ROWS)])
    rows = np.random.default_rng(0).standard_normal((N_ROWS, *ROW.shape)).astype(np.float32)
    set_folder = open_feature_set_folder(layout, RECIPE)
    writer = ShardWriter(set_folder, key=recipe_key(RECIPE), row=ROW, n_rows=N_ROWS)
    writer.append(digests, rows)
    shard = writer.publish()
    names = [f"{i}.jpg" for i in range(N_ROWS)]
    images = ViewImages(
        root="photos",
        paths=names,
        labels=names,
        splits=[""] * N_ROWS,
        digests=digests,
        columns={"age": names},
    )
    view = folder / "features.h5"
    with Index(layout.index_file) as index:
        features = FeatureSet(layout, RECIPE, index)
        locations = features.locate(split_digests(digests))
    layer = ViewLayer(spec=LAYER, recipe=RECIPE, folder=set_folder, row=ROW, locations=locations)
    write_view(view, images, [layer], origin="{}", materialize=materialize)
    return view, shard


def change_file(path: Path, change: Change, folder: Path) -> None:
    """Apply a change to an HDF5 file."""
    with h5py.File(path, "r+") as file:
        change(file, folder)


def _write_other(folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> Path:
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = np.full(shape, SECRET).astype(dtype)
    return other


def _replace(name: str, make: Callable[[h5py.Group, str, h5py.Dataset, Path], None]) -> Change:
    """Return a change of one dataset, which is made anew with the attributes of the old one."""

    def change(file: h5py.File, folder: Path) -> None:
        parent, _, leaf = name.rpartition("/")
        group = file[parent] if parent else file["/"]
        group.move(leaf, "old")
        make(group, leaf, group["old"], folder)
        if isinstance(group.get(leaf, getlink=True), h5py.HardLink):
            for attribute, value in group["old"].attrs.items():
                group[leaf].attrs[attribute] = value
        del group["old"]

    return change


def _link_outside(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group[name] = h5py.ExternalLink(_write_other(folder, old.shape, old.dtype), "/data")


def _link_softly(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group.file["elsewhere"] = np.full(old.shape, SECRET).astype(old.dtype)
    group[name] = h5py.SoftLink("/elsewhere")


def _link_nowhere(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group[name] = h5py.SoftLink(group.name)


def _map_outside(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    other = _write_other(folder, old.shape, old.dtype)
    layout[:] = h5py.VirtualSource(other, "data", old.shape, old.dtype)
    group.create_virtual_dataset(name, layout)


def _store_outside(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    n_bytes = int(np.prod(old.shape)) * old.dtype.itemsize
    secret = folder / "secret.bin"
    secret.write_bytes(bytes(n_bytes))
    group.create_dataset(name, old.shape, old.dtype, external=[(str(secret), 0, n_bytes)])


def _declare(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    shape = (2**60, *old.shape[1:])
    group.create_dataset(name, shape, old.dtype, chunks=(1, *old.shape[1:]), fletcher32=True)


def _leave_empty(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group.create_dataset(name, old.shape, old.dtype)


def _pack_a_bomb(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    values = np.zeros((2**21 // max(1, old[0].nbytes) + 1, *old.shape[1:]), old.dtype)
    shape = (64 * len(values), *old.shape[1:])
    bomb = group.create_dataset(name, shape, old.dtype, chunks=shape, compression="gzip")
    bomb[: len(values)] = values


def _filter_strangely(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    import hdf5plugin

    group.create_dataset(name, data=old[()], chunks=old.shape, **hdf5plugin.BZip2())


def _be_of_objects(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group.create_dataset(name, data=np.array([group.ref] * len(old), object), dtype=h5py.ref_dtype)


def _be_a_group(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group.create_group(name)


def _be_a_number(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
    group[name] = 7


_STRANGE = {
    "an external link": _link_outside,
    "a soft link": _link_softly,
    "a link in a circle": _link_nowhere,
    "a virtual dataset": _map_outside,
    "external storage": _store_outside,
    "2^60 rows declared": _declare,
    "nothing written": _leave_empty,
    "a bomb": _pack_a_bomb,
    "a plugin's filter": _filter_strangely,
    "references": _be_of_objects,
    "a group": _be_a_group,
    "a number": _be_a_number,
}


def _set(name: str, attribute: str, value: object) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        for one in (attribute, f"{attribute} (bytes)"):
            if one in file[name].attrs:
                del file[name].attrs[one]
        file[name].attrs[attribute] = value

    return change


def _name_shards(text: str) -> Change:
    def make(group: h5py.Group, name: str, old: h5py.Dataset, folder: Path) -> None:
        group.create_dataset(name, data=np.array([text.encode()] * len(old)), chunks=old.shape)

    def change(file: h5py.File, folder: Path) -> None:
        dtype = h5py.string_dtype("utf-8", len(text.encode()))
        del file[f"{POINTERS}/shards"]
        file[POINTERS].create_dataset("shards", data=np.array([text.encode()]).astype(dtype))

    return change


def _link_layers_in_a_circle(file: h5py.File, folder: Path) -> None:
    file["rows/conv/up"] = file["rows"]
    file["rows/conv/again"] = file["rows/conv"]
    del file[POINTERS].attrs["recipe"]


def _link_outer(name: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.copy(name, "copy")
        with h5py.File(folder / "other.h5", "w") as other:
            file.copy(name, other, "group")
        del file["copy"], file[name]
        file[name] = h5py.ExternalLink(folder / "other.h5", "/group")

    return change


VIEWS: dict[str, Change] = {
    **{
        f"{what} as {name}": _replace(name, make)
        for what, make in _STRANGE.items()
        for name in (
            "images/digest",
            "images/path",
            "images/label",
            f"{POINTERS}/shards",
            f"{POINTERS}/shard",
            f"{POINTERS}/row",
        )
    },
    "images elsewhere": _link_outer("images"),
    "pointers elsewhere": _link_outer("rows"),
    "a layer elsewhere": _link_outer(POINTERS),
    "a shard above": _name_shards("../../../../etc/passwd"),
    "a shard of an absolute name": _name_shards("/etc/shard-0123456789abcdef.h5"),
    "a shard below": _name_shards("x/shard-0123456789abcdef.h5"),
    "layers in a circle": _link_layers_in_a_circle,
    "a row of 2^60 values": _set(POINTERS, "shape", np.array([2**60])),
    "a row of -1 values": _set(POINTERS, "shape", np.array([-1])),
    "a row of a text": _set(POINTERS, "shape", "many"),
    "values of objects": _set(POINTERS, "dtype", "O"),
    "values of no dtype": _set(POINTERS, "dtype", "=)"),
    "a numeric dtype": _set(POINTERS, "dtype", 10**9),
    "a numeric key": _set(POINTERS, "key", 10**12),
    "a numeric folder": _set(POINTERS, "folder", 10**12),
    "a recipe of brackets": _set(POINTERS, "recipe", "[" * 50_000),
    "a recipe that is a list": _set(POINTERS, "recipe", "[]"),
    "a recipe that is no JSON": _set(POINTERS, "recipe", "{'a': 1}"),
}
MATERIALIZED: dict[str, Change] = {
    f"{what} as values": _replace(VALUES, make) for what, make in _STRANGE.items()
}
SHARDS: dict[str, Change] = {
    **{
        f"{what} as {name}": _replace(name, make)
        for what, make in _STRANGE.items()
        for name in ("digest", "features", "xxh3")
    },
    "a numeric key": _set("/", "key", 10**12),
    "no key": lambda file, folder: file.attrs.__delitem__("key"),
}
