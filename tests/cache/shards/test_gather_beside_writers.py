"""Reading rows while others write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.shards import gather
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.recipe import recipe_key

RECIPE = {"backbone": "b", "layer": "l", "pooling": "none"}
DIGESTS = np.random.default_rng(0).integers(1, 255, (40, 32), dtype=np.uint8)


def write_shard(folder: Path, value: float, compression: str) -> Path:
    row = RowFormat(shape=(300,), dtype="float32", compression=compression)
    writer = ShardWriter(folder, key=recipe_key(RECIPE), row=row, n_rows=len(DIGESTS))
    writer.append(DIGESTS, np.full((len(DIGESTS), 300), value, np.float32))
    return writer.publish()


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_shard_that_is_replaced_while_it_is_opened_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """By a run that computed the same rows at the same time: in other batches, by other bits."""
    layout = open_cache(tmp_path / "cache")
    folder = open_feature_set_folder(layout, RECIPE)
    write_shard(folder, 1.0, compression)
    with Index() as index:
        features = FeatureSet(layout, RECIPE, index)
    wanted = StoredRows(
        folder=folder,
        key=features.key,
        locations=features.locate(split_digests(DIGESTS)),
        digests=DIGESTS,
    )
    values = iter([2.0, 3.0])
    survey_shard = gather._survey_shard

    def replace_and_survey(path: Path, key: str, stamp: tuple[int, ...]) -> gather._Survey:
        for value in values:
            write_shard(folder, value, compression)
            break
        return survey_shard(path, key, stamp)

    monkeypatch.setattr(gather, "_survey_shard", replace_and_survey)
    out = np.empty((len(DIGESTS), 300), np.float32)
    gather_rows(wanted, out)
    assert np.unique(out).tolist() in ([2.0], [3.0])
