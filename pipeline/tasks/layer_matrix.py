"""One layer of a ``features.h5`` as a matrix: stored as it is asked for, or pooled on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.errors import NotAViewError
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.features import Features
from permafrost.stages.backbones.calls import LAST
from permafrost.stages.backbones.layers import SEEN_AS, LayerSpec, parse_layer_spec
from permafrost.stages.backbones.pooling import LAST_BLOCKS, Tokens, is_reduction
from permafrost.stages.backbones.preprocessing import VIEWS
from permafrost.stages.matrices.matrix import (
    ArrayMatrix,
    LayersAbove,
    RowOrigin,
    Rows,
    find_dtype,
    iterate_rows,
    read_stored,
)

# Stands for every layer of a file.
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """One layer of one file, and what is to be made of it.

    Attributes
    ----------
    name : str
        The dataset in it.
    spec : LayerSpec
        What was asked for.
    recipe : Recipe
        Of an extraction that gives what was asked for.
    is_derived : bool
        Whether the pooling is still to be done.
    views : tuple of str
        Those of the images that the file has this layer of, its own first.
    """

    file: int
    name: str
    spec: LayerSpec
    recipe: Recipe
    is_derived: bool
    views: tuple[str, ...]

    def look_at(self, number: int) -> StoredLayer:
        """Return the same of another view, by its place in `views`."""
        if number == 0:
            return self
        view = self.views[number]
        name, recipe = f"{self.name}{SEEN_AS}{view}", {**self.recipe, "view": view}
        return dataclasses.replace(self, name=name, recipe=recipe)

    def pool_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a row, from that of a stored one."""
        if not self.is_derived:
            return stored
        return self.spec.pool_shape(stored, **self._facts)

    def pool(self, maps: np.ndarray) -> np.ndarray:
        """Pool stored maps, shape (n, *shape)."""
        pooled: np.ndarray = self.spec.pool(np, maps, **self._facts)
        return pooled

    @property
    def _facts(self) -> dict[str, Any]:
        """What the recipe tells of the layer's axes."""
        axis, tokens = self.recipe.get("channel_axis", LAST), self.recipe.get("tokens")
        return {
            "channel_axis": axis if isinstance(axis, int) else LAST,
            "tokens": Tokens(n_class=tokens[0], n_before=tokens[1])
            if isinstance(tokens, list) and len(tokens) == 2 and all(type(n) is int for n in tokens)
            else None,
        }


@dataclass(frozen=True, kw_only=True)
class LayerMatrix:
    """A layer of an open ``features.h5`` as a `Matrix`, which reads the rows that are asked for.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_rows,)
        The file's row for each row of the matrix.
    """

    features: Features
    layer: StoredLayer
    rows: Rows
    above: LayersAbove | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""
        stored = self.features.shape(self.layer.name)
        return len(self.rows), math.prod(self.layer.pool_shape(stored))

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features the layer has."""
        return self.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a row is read as."""
        stored = self.features.dtype(self.layer.name)
        return np.dtype(np.float32) if self.layer.is_derived else find_dtype(stored)

    @property
    def origin(self) -> RowOrigin:
        """What a row was before it was flattened."""
        shape = self.layer.pool_shape(self.features.shape(self.layer.name))
        return RowOrigin(shape=shape, above=self.above, is_image=self.layer.spec.is_pixels)

    @cached_property
    def key(self) -> str:
        """Digest of the recipe and of the images."""
        digest = hashlib.sha256(f"{recipe_key(self.layer.recipe)} {self.layer.is_derived}".encode())
        digest.update(self.features.digests[self.rows].tobytes())
        return digest.hexdigest()

    def read(self, rows: Rows) -> np.ndarray:
        """Read rows in the given order."""
        if not self.layer.is_derived:
            stored = self.features.read(self.layer.name, self.rows[rows])
            return read_stored(stored.reshape(len(rows), -1))
        out = np.empty((len(rows), self.shape[1]), np.float32)
        maps = dataclasses.replace(self, layer=dataclasses.replace(self.layer, is_derived=False))
        shape = self.features.shape(self.layer.name)
        for positions, block in iterate_rows(maps, rows):
            # NumPy's float32 sums of thousands of values would differ from the backbone's; the copy
            # of one map at a time stays in the processor's cache.
            maps64 = (row.reshape(1, *shape).astype(np.float64) for row in block)
            out[positions] = [self.layer.pool(one)[0] for one in maps64]
        return out

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[np.ndarray]:
        """Yield the columns from left to right, some of them at a time, for all of `rows`."""
        if self.layer.is_derived:
            pooled = ArrayMatrix(self.read(rows))
            yield from pooled.iterate_columns(np.arange(len(rows)), n_bytes=n_bytes)
        else:
            name = self.layer.name
            # Of what is read, which may be narrower than what is made of it.
            n_stored = n_bytes * self.features.dtype(name).itemsize // self.dtype.itemsize
            blocks = self.features.iterate_columns(name, self.rows[rows], n_bytes=n_stored)
            yield from map(read_stored, blocks)


def expand_layer(file: Features, spec: LayerSpec) -> list[LayerSpec]:
    """Return what ``all`` or ``all:avg`` stands for in a file; any other spec is itself.

    That is every layer but the images themselves; with a pooling, each once, and as it is where it
    has no height and width.

    Raises
    ------
    NotAViewError
        One of them was extracted with another pooling alone.
    """
    held = [parse_layer_spec(name) for name in list_layers(file)]
    if spec.layer != ALL or any(one.layer == ALL for one in held):
        return [spec]
    held = [one for one in held if not one.is_pixels]
    if spec.pooling == "none":
        return held
    flat = {one.layer for one in held if one.pooling == "none" and len(file.shape(str(one))) == 1}
    pooled = [LayerSpec(one.layer, "none" if one.layer in flat else spec.pooling) for one in held]
    for one in pooled:
        if find_layer(0, file, one) is None:
            raise NotAViewError(
                f"{str(file.path)!r} has no layer {str(one)!r} for"
                f" {str(spec)!r}, nor its full map; extract it, or name the layers"
            )
    return list(dict.fromkeys(pooled))


def find_layer(number: int, file: Features, spec: LayerSpec) -> StoredLayer | None:
    """Find a layer in a file as it is, or the full map that it can be derived from."""
    layers = list_layers(file)
    if str(spec) in layers:
        name, is_derived = str(spec), False
    else:
        sources = [LayerSpec(spec.layer), LayerSpec(spec.layer, "flatten")]
        # Of one layer's map there is no telling what several give.
        n_usable = {"none": 2, LAST_BLOCKS: 0}.get(spec.pooling, 1)
        usable = [str(one) for one in sources[:n_usable]]
        held = [name for name in usable if name in layers]
        if not held:
            return None
        name, is_derived = held[0], is_reduction(spec.pooling)
    recipe = {**file.recipe(name), "pooling": spec.pooling}
    others = [view for view in VIEWS if f"{name}{SEEN_AS}{view}" in file.layers]
    layer = StoredLayer(
        file=number,
        name=name,
        spec=spec,
        recipe=recipe,
        is_derived=is_derived,
        views=(str(recipe.get("view", VIEWS[0])), *others),
    )
    layer.pool_shape(file.shape(name))  # refuses what has no height and width
    return layer


def list_layers(file: Features) -> list[str]:
    """Return the layer specs of a file, each once, whatever the number of views."""
    return [name for name in file.layers if SEEN_AS not in name]


def list_own_names(file: Path, term: str) -> list[str]:
    """Return what a term calls a layer of this file, where it names the file: ``vgg16/fc1``."""
    names = {f"{file.stem}/", f"{file.absolute().parent.name}/"}
    return [term.removeprefix(name) for name in names if term.startswith(name)]
