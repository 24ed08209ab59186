"""One feature set of a layer ``conv/1``: its shards, and views of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import join_digests, split_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.writer import ViewImages, ViewLayer, write_view

RECIPE: Recipe = {"backbone": "tiny", "layer": "conv/1", "pooling": "none", "dtype": "float32"}
ROW = RowFormat(shape=(5, 7), dtype="float32")


def make_digests(n: int, seed: int = 0) -> np.ndarray:
    return join_digests([hashlib.sha256(f"{seed}-{i}".encode()).digest() for i in range(n)])


def make_rows(n: int, shape: tuple[int, ...] = ROW.shape) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, *shape)).astype(np.float32)


def write_shard(
    layout: CacheLayout, digests: np.ndarray, rows: np.ndarray, row: RowFormat = ROW
) -> Path:
    folder = open_feature_set_folder(layout, RECIPE)
    writer = ShardWriter(folder, key=recipe_key(RECIPE), row=row, n_rows=len(rows) + 3)
    for start in range(0, len(rows), 4):
        writer.append(digests[start : start + 4], rows[start : start + 4])
    return writer.publish()


def write_whole_view(
    out: Path,
    layout: CacheLayout,
    index: Index,
    digests: np.ndarray,
    row: RowFormat = ROW,
    *,
    materialize: bool = False,
    columns: dict[str, list[str]] | None = None,
    base: Path | None = None,
) -> None:
    rows = FeatureSet(layout, RECIPE, index)
    locations = rows.locate(split_digests(digests))
    assert not locations.missing.any()
    names = [f"a/{i}.jpg" for i in range(len(digests))]
    images = ViewImages(
        root="photos",
        paths=names,
        labels=names,
        splits=[""] * len(names),
        digests=digests,
        columns=columns or {},
        base=base,
    )
    layer = ViewLayer(
        spec="conv/1:none", recipe=RECIPE, folder=rows.folder, row=row, locations=locations
    )
    write_view(out, images, [layer], materialize=materialize)
