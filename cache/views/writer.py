"""features.h5: one dataset's rows, in manifest order, over the shards.

Each layer is kept twice, neither a copy: as a virtual dataset, which any HDF5 reader opens, and
under ``/rows`` as (shard, row) pointers, which our reader follows because HDF5 reads a virtual row
whose shard is missing as its fill value, without a word. A materialized view holds the values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.publish import published
from permafrost.cache.hdf5.create import (
    Piece,
    WriteStream,
    create_file,
    create_group,
    create_virtual,
)
from permafrost.cache.hdf5.sealed import as_bytes, write_array, write_text
from permafrost.cache.hdf5.strings import escape_name, write_strings
from permafrost.cache.shards.blocks import split_rows
from permafrost.cache.shards.follow import follow_rows
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.shards.writer import FeatureDataset
from permafrost.cache.store.recipe import Recipe, canonical_json, recipe_key
from permafrost.cache.views.mark import digest_parts, sum_file

_log = logging.getLogger(__name__)

# HDF5 maps each run of rows by itself. So many take it 0.2 s to write, 0.1 s to open and 0.5 s to
# read; from there on the time grows faster than their number: 32,000 took it 2, 0.4 and 4 s.
MAX_VIRTUAL_RUNS = 8000
_ROWS_PER_CHUNK = 4096
# Raised whenever the same rows are written otherwise than before.
_LAYOUT = 2


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
        Further ones, of any names.
    base : Path, optional
        The folder that a relative `root` starts from; None where there is none, as of a URL.
    """

    root: str
    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    digests: np.ndarray
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    base: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewLayer:
    """One layer of a view: where its n rows lie."""

    spec: str
    recipe: Recipe
    folder: Path
    row: RowFormat
    locations: RowLocations


def write_view(  # noqa: PLR0913
    out: Path,
    images: ViewImages,
    layers: Sequence[ViewLayer],
    *,
    origin: str = "",
    materialize: bool = False,
    known: str | None = None,
) -> str:
    """Write ``features.h5`` and publish it in one step, unless it would come out as it is.

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
    known : str, optional
        What an earlier call returned for the same `out`.

    Returns
    -------
    str
        What the file was made of, and the checksum of its bytes.
    """
    made_of = digest_parts(_list_inputs(out, images, layers, origin, materialize=materialize))
    if known and known.startswith(made_of) and known == f"{made_of} {sum_file(out)}":
        remove_orphans(out.parent)
        return known
    n_runs = 0
    with published(out) as temporary, WriteStream(temporary) as stream:
        with create_file(stream) as file:
            file.attrs["origin"] = as_bytes(origin)
            _write_images(file, images, out.parent)
            for layer in layers:
                if materialize:
                    _write_values(file, layer, images.digests, stream)
                else:
                    n_runs = max(n_runs, _write_pointers(file, layer, out.parent))
        stream.check()
        # Of this very file: another run may publish its own under the same name at once.
        mark = f"{made_of} {sum_file(temporary)}"
    if n_runs:
        _log.warning(
            "the rows of %r lie in %d pieces: permafrost reads them, other HDF5 readers do not;"
            " for those write the view with --materialize",
            *(str(out), n_runs),
        )
    return mark


def _list_inputs(
    out: Path, images: ViewImages, layers: Sequence[ViewLayer], origin: str, *, materialize: bool
) -> Iterator[object]:
    """Yield all that the bytes of a view depend on."""
    yield from (_LAYOUT, origin, materialize, images.root)
    yield from _list_content(images, layers)
    yield images.base and _relate(images.base, out.parent)
    for layer in layers:
        row, at = layer.row, layer.locations
        yield _relate(layer.folder, out.parent)
        yield from (row.dtype, row.shape, row.compression, at.shards, at.shard, at.row)


def _list_content(images: ViewImages, layers: Sequence[ViewLayer]) -> Iterator[object]:
    yield from (images.digests, images.paths, images.labels, images.splits)
    for name, texts in sorted(images.columns.items()):
        yield from (name, texts)
    for layer in layers:
        yield from (layer.spec, canonical_json(layer.recipe))


def digest_content(images: ViewImages, layers: Sequence[ViewLayer]) -> str:
    """Return a digest of what a view says, wherever the view, its shards and the images lie."""
    return digest_parts(_list_content(images, sorted(layers, key=lambda layer: layer.spec)))


def _relate(folder: Path, base: Path) -> str:
    return os.path.relpath(folder.resolve(), base.resolve())


def _write_images(file: h5py.File, images: ViewImages, folder: Path) -> None:
    group = create_group(file, "images")
    write_text(group, "root", images.root)
    if images.base is not None:
        write_text(group, "base", _relate(images.base, folder))
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


def _write_pointers(file: h5py.File, layer: ViewLayer, base: Path) -> int:
    """Write where rows lie; return the number of runs where HDF5 is not told of them, or 0."""
    folder = _relate(layer.folder, base)
    group = create_group(file, f"rows/{layer.spec}")
    group.attrs["recipe"] = as_bytes(canonical_json(layer.recipe))
    group.attrs["key"] = as_bytes(recipe_key(layer.recipe))
    group.attrs["folder"] = as_bytes(folder)
    group.attrs["dtype"] = as_bytes(layer.row.dtype)
    group.attrs["shape"] = np.array(layer.row.shape, np.int64)
    write_strings(group, "shards", layer.locations.shards)
    write_array(group, "shard", layer.locations.shard, n_rows=_ROWS_PER_CHUNK)
    write_array(group, "row", layer.locations.row, n_rows=_ROWS_PER_CHUNK)
    n_runs = len(layer.locations.find_runs())
    if n_runs > MAX_VIRTUAL_RUNS:
        return n_runs
    dataset = create_virtual(
        file,
        f"features/{layer.spec}",
        shape=(len(layer.locations.row), *layer.row.shape),
        dtype=np.dtype(layer.row.dtype),
        pieces=_list_pieces(layer.locations, folder),
    )
    _write_recipe(dataset, layer.recipe)
    return 0


def _list_pieces(locations: RowLocations, folder: str) -> Iterator[Piece]:
    starts = locations.find_runs()
    sizes = np.diff(starts, append=len(locations.row)).tolist()
    shards, rows = locations.shard[starts].tolist(), locations.row[starts].tolist()
    for shard, row, start, size in zip(shards, rows, starts.tolist(), sizes, strict=True):
        source = os.path.join(folder, locations.shards[shard])  # noqa: PTH118
        yield Piece(source=source, start=row, place=start, n_rows=size)
