"""features.h5: one dataset's rows, in manifest order, over the shards.

Each layer is kept twice, neither a copy: as a virtual dataset, which any HDF5 reader opens, and
under ``/rows`` as (shard, row) pointers, which our reader follows because HDF5 reads a virtual row
whose shard is missing as its fill value, without a word. A materialized view holds the values.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.disk.publish import published
from permafrost.cache.hdf5.create import WriteStream, create_file, create_group, create_virtual
from permafrost.cache.hdf5.sealed import as_bytes, write_array, write_text
from permafrost.cache.hdf5.strings import escape_name, write_strings
from permafrost.cache.shards.blocks import split_rows
from permafrost.cache.shards.follow import follow_rows
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.shards.writer import FeatureDataset
from permafrost.cache.store.recipe import Recipe, canonical_json, recipe_key

_log = logging.getLogger(__name__)

# Beyond this many pieces, making and opening a virtual dataset takes longer than copying the rows.
MAX_VIRTUAL_PIECES = 20_000
_ROWS_PER_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewImages:
    """The images of a view, n of each.

    Attributes
    ----------
    root : str
        Where `paths` start from.
    paths, labels, splits : sequence of str
    digests : ndarray of uint8, shape (n, 32)
    columns : mapping of str to sequence of str
        Further columns, under any names.
    """

    root: str
    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    digests: np.ndarray
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewLayer:
    """One layer of a view: where its n rows lie."""

    spec: str
    recipe: Recipe
    folder: Path
    row: RowFormat
    locations: RowLocations


def write_view(
    out: Path,
    images: ViewImages,
    layers: Sequence[ViewLayer],
    *,
    origin: str = "",
    materialize: bool = False,
) -> None:
    """Write ``features.h5`` and publish it in one step.

    Parameters
    ----------
    out : Path
    images : ViewImages
    layers : sequence of ViewLayer
        Every row of every layer exists.
    origin : str
        How the features were asked for; kept for whoever wants more of the same.
    materialize : bool
        Copy the values instead of pointing at the shards.
    """
    with published(out) as temporary, WriteStream(temporary) as stream:
        with create_file(stream) as file:
            file.attrs["origin"] = as_bytes(origin)
            _write_images(file, images)
            for layer in layers:
                if materialize:
                    _write_values(file, layer, images.digests, stream)
                else:
                    _write_pointers(file, layer, out.parent)
        stream.check()


def _write_images(file: h5py.File, images: ViewImages) -> None:
    group = create_group(file, "images")
    write_text(group, "root", images.root)
    write_strings(group, "path", images.paths)
    write_strings(group, "label", images.labels)
    write_strings(group, "split", images.splits)
    write_array(group, "digest", images.digests, n_rows=_ROWS_PER_CHUNK)
    for name, texts in sorted(images.columns.items()):
        write_strings(create_group(file, "images/columns"), escape_name(name), texts)


def _write_values(
    file: h5py.File, layer: ViewLayer, digests: np.ndarray, stream: WriteStream
) -> None:
    n_rows, row = len(digests), layer.row
    features = FeatureDataset(file, f"features/{layer.spec}", row=row, n_rows=n_rows)
    _write_recipe(features.dataset, layer.recipe)
    stored = StoredRows(
        folder=layer.folder,
        key=recipe_key(layer.recipe),
        locations=layer.locations,
        digests=digests,
    )
    for start, stop in split_rows(n_rows, row.row_bytes, chunk_rows=features.chunk[0]):
        block = np.empty((stop - start, *row.shape), row.dtype)
        stored = follow_rows(stored, np.arange(start, stop), block)
        features.write(start, block)
        stream.check()
    features.write_sums(f"sums/{layer.spec}")


def _write_recipe(node: h5py.Dataset, recipe: Recipe) -> None:
    write_text(node, "recipe", canonical_json(recipe))
    write_text(node, "key", recipe_key(recipe))


def _write_pointers(file: h5py.File, layer: ViewLayer, base: Path) -> None:
    folder = os.path.relpath(layer.folder.resolve(), base.resolve())
    group = create_group(file, f"rows/{layer.spec}")
    group.attrs["recipe"] = as_bytes(canonical_json(layer.recipe))
    group.attrs["key"] = as_bytes(recipe_key(layer.recipe))
    group.attrs["folder"] = as_bytes(folder)
    group.attrs["dtype"] = as_bytes(layer.row.dtype)
    group.attrs["shape"] = np.array(layer.row.shape, np.int64)
    write_strings(group, "shards", layer.locations.shards)
    write_array(group, "shard", layer.locations.shard, n_rows=_ROWS_PER_CHUNK)
    write_array(group, "row", layer.locations.row, n_rows=_ROWS_PER_CHUNK)
    _write_virtual(file, layer, folder)


def _write_virtual(file: h5py.File, layer: ViewLayer, folder: str) -> None:
    pieces = list(_split_pieces(layer.locations))
    if len(pieces) > MAX_VIRTUAL_PIECES:
        _log.warning(
            "the rows of %s lie in %d pieces: permafrost reads them, other HDF5 readers do not;"
            " for those write the view with --materialize",
            layer.spec,
            len(pieces),
        )
        return
    shape = (len(layer.locations.row), *layer.row.shape)
    layout = h5py.VirtualLayout(shape, layer.row.dtype)
    for number, rows, positions in pieces:
        # HDF5 takes "%b" in the name of a source file for a counter.
        name = os.path.join(folder, layer.locations.shards[number]).replace("%", "%%")  # noqa: PTH118
        n_rows = int(layer.locations.row[positions].max()) + 1
        source = h5py.VirtualSource(name, "features", (n_rows, *layer.row.shape), layer.row.dtype)
        layout[_as_selection(positions)] = source[_as_selection(rows)]
    dataset = create_virtual(file, f"features/{layer.spec}", layout, fill=np.nan)
    _write_recipe(dataset, layer.recipe)


def _split_pieces(locations: RowLocations) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (shard, rows, positions), each piece rising in both: what one mapping can hold."""
    order = np.argsort(locations.shard, kind="stable")
    shards, rows = locations.shard[order], locations.row[order]
    cuts = np.flatnonzero((np.diff(shards) > 0) | (np.diff(rows) <= 0)) + 1
    for start, stop in itertools.pairwise(sorted({0, *cuts.tolist(), len(order)})):
        yield int(shards[start]), rows[start:stop], order[start:stop]


def _as_selection(indices: np.ndarray) -> slice | np.ndarray:
    start, stop = int(indices[0]), int(indices[-1]) + 1
    return slice(start, stop) if stop - start == len(indices) else indices
