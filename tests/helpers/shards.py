"""Feature sets of a cache, made of small shards whose rows are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.writer import ViewImages, ViewLayer, write_view

RECIPE: Recipe = {"backbone": "tiny", "layer": "conv", "pooling": "none"}
KEY = recipe_key(RECIPE)
SHAPE = (4, 3)
ROW_BYTES = 48


def make_digests(numbers: Iterable[int]) -> np.ndarray:
    """The digests of the images with these numbers."""
    digests = [hashlib.sha256(str(number).encode()).digest() for number in numbers]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def make_rows(numbers: Iterable[int]) -> np.ndarray:
    """The rows of the images with these numbers."""
    rows = [np.random.default_rng(number).standard_normal(SHAPE) for number in numbers]
    return np.array(rows, np.float32)


def write_set(
    root: Path, shards: Sequence[Sequence[int]], *, compression: str = "none"
) -> tuple[CacheLayout, Path]:
    """Add shards with the rows of these images to a feature set, each a second after the last."""
    layout = open_cache(root)
    folder = open_feature_set_folder(layout, RECIPE)
    row = RowFormat(shape=SHAPE, dtype="float32", compression=compression)
    for second, numbers in enumerate(shards):
        writer = ShardWriter(folder, key=KEY, row=row, n_rows=len(numbers))
        writer.append(make_digests(numbers), make_rows(numbers))
        os.utime(writer.publish(), (1_000_000 + second, 1_000_000 + second))
    return layout, folder


def write_whole_view(out: Path, layout: CacheLayout, numbers: Sequence[int]) -> None:
    """Write a view of the rows of these images, as layer ``conv``."""
    digests = make_digests(numbers)
    with Index() as index:
        rows = FeatureSet(layout, RECIPE, index)
    names = [f"{number}.png" for number in numbers]
    layer = ViewLayer(
        spec="conv",
        recipe=RECIPE,
        folder=rows.folder,
        row=RowFormat(shape=SHAPE, dtype="float32"),
        locations=rows.locate(split_digests(digests)),
    )
    images = ViewImages(root=".", paths=names, labels=names, splits=names, digests=digests)
    write_view(out, images, [layer])


def read_set(folder: Path) -> dict[str, list[bytes]]:
    """Read all rows with plain h5py: the values of each digest, in every shard that has it."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path) as file:
            for digest, row in zip(file["digest"][()], file["features"][()], strict=True):
                found.setdefault(digest.tobytes().hex(), []).append(row.tobytes())
    return found


def expect_set(numbers: Iterable[int]) -> dict[str, list[bytes]]:
    """What `read_set` finds where each of these images has its row once."""
    return {
        digest.tobytes().hex(): [row.tobytes()]
        for number in numbers
        for digest, row in zip(make_digests([number]), make_rows([number]), strict=True)
    }
