"""Read the layers of features.h5, whose pointers lead into shards, checking all that is read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from permafrost.cache.errors import MissingShardError, NotAViewError
from permafrost.cache.hdf5.chunks import StoredChunks, match_chunks
from permafrost.cache.hdf5.direct import RawFile, read_chunks
from permafrost.cache.hdf5.opening import check_kind, has_node, walk_nodes
from permafrost.cache.hdf5.sealed import read_array, read_text
from permafrost.cache.shards.blocks import Block, flatten_block, split_columns
from permafrost.cache.shards.follow import follow_rows
from permafrost.cache.shards.format import STORED_DTYPES, RowFormat, choose_chunk
from permafrost.cache.shards.gather import StoredRows, identify_file, read_rows
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.store.folders import mark_used
from permafrost.cache.store.recipe import Recipe
from permafrost.cache.views.images import ImageTable
from permafrost.cache.views.pointers import check_length, read_dtype, read_pointers, read_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the rows of some layers of a file lie: in shards, or in chunks of its own.

    Finding that out reads the digests and pointers of all rows.
    """

    rows: dict[str, StoredRows] = field(default_factory=dict)
    chunks: dict[str, StoredChunks | None] = field(default_factory=dict)


class Features(ImageTable):
    """An open ``features.h5``: its images, and the layers' values of each.

    Attributes
    ----------
    located : Located
        What is known so far; may be set to that of the same file when it was opened before.

    Raises
    ------
    NotAViewError
        There is no such file, or it is something else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.located = Located()
        self._nodes: dict[str, h5py.Dataset | h5py.Group] = {}

    @property
    def stamp(self) -> tuple[int, ...]:
        """What tells the open file from another one of its name."""
        return identify_file(os.fstat(self._file.id.get_vfd_handle()))

    @cached_property
    def layers(self) -> list[str]:
        """The layer specs, sorted."""
        with self._naming_damage():
            # A view has pointers or values. The virtual datasets beside pointers are not opened:
            # HDF5 keeps the names of their sources in its heap, which has no checksum.
            top, holds = ("rows", h5py.Group) if self._has_pointers else ("features", h5py.Dataset)
            if not has_node(self._file, top):
                return []
            nodes = walk_nodes(self._open(top))
            return sorted(
                name for name, node in nodes if isinstance(node, holds) and "recipe" in node.attrs
            )

    @cached_property
    def _has_pointers(self) -> bool:
        return has_node(self._file, "rows")

    def recipe(self, layer: str) -> Recipe:
        """Return what the layer's numbers were computed with."""
        with self._naming_damage():
            recipe: Recipe = json.loads(read_text(self._node(layer), "recipe"))
            if not isinstance(recipe, dict):
                raise ValueError(f"its recipe of {layer} is no JSON object")  # noqa: TRY004
            return recipe

    def shape(self, layer: str) -> tuple[int, ...]:
        """Return the shape of one row."""
        node = self._node(layer)
        if isinstance(node, h5py.Dataset):
            return tuple(node.shape[1:])
        with self._naming_damage():
            return read_shape(node)

    def dtype(self, layer: str) -> np.dtype[Any]:
        """Return the dtype of the stored values."""
        node = self._node(layer)
        if isinstance(node, h5py.Dataset):
            return np.dtype(str(node.dtype))
        with self._naming_damage():
            return np.dtype(read_dtype(node))

    def row_format(self, layer: str) -> RowFormat:
        """Return shape and dtype of one row."""
        return RowFormat(shape=self.shape(layer), dtype=self.dtype(layer).name)

    def read(self, layer: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Read rows of a layer into memory.

        Parameters
        ----------
        layer : str
            As in `layers`.
        rows : ndarray of int, shape (m,), optional
            Which rows, in which order; all of them by default.

        Returns
        -------
        ndarray, shape (m, *shape)

        Raises
        ------
        MissingShardError, DamagedError
            A value could not be read as it was written.
        """
        return self._read(layer, self._choose_rows(rows))

    def _choose_rows(self, rows: np.ndarray | None) -> np.ndarray:
        n_rows = len(self)
        if rows is None:
            return np.arange(n_rows)
        # Not by indexing all rows, of which there may be ten million, for each few.
        chosen = np.asarray(rows, np.int64)
        if len(chosen) and not -n_rows <= chosen.min() <= chosen.max() < n_rows:
            raise IndexError(f"{str(self.path)!r} has {n_rows} rows; one asked for is none of them")
        return np.where(chosen < 0, chosen + n_rows, chosen)

    def _read(self, layer: str, rows: np.ndarray, block: Block = ()) -> np.ndarray:
        shape = self.shape(layer)
        part = [len(range(n)[cut]) for n, cut in zip(shape, block, strict=False)]
        out = np.empty((len(rows), *part, *shape[len(part) :]), self.dtype(layer))
        stored = self._locate(layer)
        if stored is None:
            with self._naming_damage():
                self._read_values(layer, rows, out, block)
        else:
            self.located.rows[layer] = self._follow(stored, rows, out, block)
        return out

    def iterate_columns(
        self, layer: str, rows: np.ndarray, *, n_bytes: int
    ) -> Iterator[np.ndarray]:
        """Yield the values of rows from left to right, some columns of all rows at a time.

        Whole chunks are read and checked: where a block is narrower than one, each chunk is read as
        often as blocks share it, so that the largest `n_bytes` one can afford is the fastest.

        Parameters
        ----------
        layer : str
            As in `layers`; its rows count as flattened in C order.
        rows : ndarray of int, shape (m,)
            Which rows, in which order.
        n_bytes : int
            What one block may take; at least one column comes each time.

        Yields
        ------
        ndarray, shape (m, k)

        Raises
        ------
        MissingShardError, DamagedError
            As `read` does.
        """
        wanted, row = self._choose_rows(rows), self.row_format(layer)
        n_columns = max(1, n_bytes // max(1, len(wanted) * self.dtype(layer).itemsize))
        for block in split_columns(row.shape, n_columns, chunk=choose_chunk(row, 1)[1:]):
            values = self._read(layer, wanted, block)
            yield values.reshape(len(wanted), math.prod(values.shape[1:]))

    def folder(self, layer: str) -> Path | None:
        """Return where the layer's shards lie; None for a materialized layer or a lost cache."""
        folder = self.named_folder(layer)
        return folder if folder is not None and folder.is_dir() else None

    def named_folder(self, layer: str) -> Path | None:
        """Return where the layer's shards should lie; None for a materialized layer."""
        node = self._node(layer)
        return None if isinstance(node, h5py.Dataset) else self._shard_folder(node)

    def is_virtual(self, layer: str) -> bool:
        """Tell whether other HDF5 readers, too, are told where the layer's shards are."""
        return self._has_pointers and has_node(self._file, f"features/{layer}")

    def locations(self, layer: str) -> RowLocations | None:
        """Return where the layer's rows lie; None for a materialized layer."""
        stored = self._locate(layer)
        return None if stored is None else stored.locations

    def _locate(self, layer: str) -> StoredRows | None:
        """Return all rows of a layer; None for a materialized one."""
        node = self._node(layer)
        if isinstance(node, h5py.Dataset):
            return None
        if layer not in self.located.rows:
            with self._naming_damage():
                locations = read_pointers(self._file, f"rows/{layer}", n_rows=len(self))
                self.located.rows[layer] = StoredRows(
                    folder=self._shard_folder(node),
                    key=read_text(node, "key"),
                    locations=locations,
                    digests=self.digests,
                )
            if self.folder(layer) is not None:
                mark_used(self._shard_folder(node))
        return self.located.rows[layer]

    def _read_values(self, layer: str, rows: np.ndarray, out: np.ndarray, block: Block) -> None:
        """Read rows of a layer whose values this file holds itself."""
        node, positions = self._node(layer), np.arange(len(rows))
        if layer not in self.located.chunks:
            # Compressed chunks have no checksums of ours, as they cannot be unpacked when they are
            # zeros; nor have the chunks of the first versions. HDF5 reads these.
            sums, name = None, f"sums/{layer}"
            if has_node(self._file, name):
                sums = read_array(self._open(name))
            self.located.chunks[layer] = None if sums is None else match_chunks(node, sums)
        chunks = self.located.chunks[layer]
        if chunks is None or not len(rows):
            read_rows(node, rows, positions=positions, out=out, block=block)
            return
        read_chunks(
            RawFile(descriptor=self._file.id.get_vfd_handle(), chunks=chunks),
            rows,
            positions=positions,
            columns=flatten_block(block, node.shape[1:]),
            out=out.reshape(len(out), -1),
        )

    def _shard_folder(self, node: h5py.Group) -> Path:
        with self._naming_damage():
            folder = read_text(node, "folder")
        places = [base / folder for base in self._list_folders()]
        return next(filter(Path.is_dir, places), places[0])

    def _follow(
        self, stored: StoredRows, rows: np.ndarray, out: np.ndarray, block: Block
    ) -> StoredRows:
        try:
            return follow_rows(stored, rows, out, block=block)
        except MissingShardError as error:
            if not stored.folder.is_dir():
                raise MissingShardError(
                    f"{str(self.path)!r} holds no values but points to shards in"
                    f" {os.path.normpath(stored.folder)!r}, which is not there: where it was moved,"
                    " linked or copied from, it may be; repeat the extract that wrote it with --out"
                    " here, or with --materialize, whose file needs no cache"
                ) from error
            raise MissingShardError(
                f"{error}; repeat the extract that wrote {str(self.path)!r}:"
                " it computes only what is missing"
            ) from error

    def _node(self, layer: str) -> h5py.Dataset | h5py.Group:
        """Return the pointers of a layer, or the dataset with its values."""
        if layer not in self.layers:
            raise NotAViewError(
                f"{str(self.path)!r} has no layer {layer!r}; it has: {', '.join(self.layers)}"
            )
        if layer not in self._nodes:
            with self._naming_damage():
                node = self._open(f"{'rows' if self._has_pointers else 'features'}/{layer}")
                if not self._has_pointers:
                    check_kind(node, STORED_DTYPES)
                    check_length(node, len(self))
                self._nodes[layer] = node
        return self._nodes[layer]
