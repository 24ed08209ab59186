"""What a features.h5 is made of, and whether what it needs is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from permafrost.cache.views.features import Features

VALUES = "self-contained"
VIRTUAL = "virtual pieces"
POINTERS = "pointers only"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """One layer of a file.

    Attributes
    ----------
    layer : str
    kind : str
        `VALUES`, which needs nothing; `VIRTUAL` pieces of shards, for any HDF5 reader; or
        `POINTERS` to rows of shards, for our reader.
    shape : tuple of int
        Of one row.
    dtype : str
    folder : str or None
        Where its shards should lie.
    shards, shards_there : int
        How many it names, and how many of them are there.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    folder: str | None
    shards: int
    shards_there: int

    @property
    def is_whole(self) -> bool:
        """Whether all is there that any reader needs."""
        return self.shards == self.shards_there

    def describe(self) -> str:
        """Say what the layer is, what it needs, and whether that is there."""
        if self.folder is None:
            return f"{self.kind}: needs no cache"
        there = "all there"
        if not self.is_whole:
            there = f"{self.shards_there} there; repeat extract, or write it with --materialize"
        shards = f"{self.shards:,} shard{'' if self.shards == 1 else 's'}"
        return f"{self.kind}: needs {shards} in {self.folder}, {there}"


def describe_layers(file: Path) -> tuple[int, list[LayerState]]:
    """Return how many images a features.h5 has, and the state of its layers; reads no values.

    Raises
    ------
    NotAViewError, DamagedError
        It is none, or cannot be read.
    """
    with Features(file) as features:
        return len(features), [_describe(features, layer) for layer in features.layers]


def _describe(features: Features, layer: str) -> LayerState:
    folder, located = features.named_folder(layer), features.locations(layer)
    kind = VIRTUAL if features.is_virtual(layer) else POINTERS
    names = [] if located is None else list(located.shards)
    return LayerState(
        layer=layer,
        kind=VALUES if folder is None else kind,
        shape=features.shape(layer),
        dtype=features.dtype(layer).name,
        folder=None if folder is None else os.path.normpath(folder),
        shards=len(names),
        shards_there=sum(folder is not None and (folder / name).is_file() for name in names),
    )
