"""One shard: plain h5py reads it, and no value is in it that must not be."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import UnstorableError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.layout import CacheLayout
from tests.helpers.conv_layer import RECIPE, ROW, make_digests, make_rows, write_shard


def test_a_shard_opens_with_plain_h5py(layout: CacheLayout) -> None:
    digests, rows = make_digests(10), make_rows(10)
    path = write_shard(layout, digests, rows)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features"][()], rows)
        np.testing.assert_array_equal(file["digest"][()], digests)


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (np.nan, "float32", "the network gave nan"),
        (-np.inf, "float32", "the network gave -inf"),
        (70000.0, "float16", "the value 70000 overflows float16; use --dtype float32"),
    ],
)
def test_what_must_not_be_stored_is_refused_with_its_row(
    layout: CacheLayout, value: float, dtype: str, reason: str
) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    row = RowFormat(shape=ROW.shape, dtype=dtype)
    writer = ShardWriter(folder, key="k", row=row, n_rows=9)
    rows = make_rows(9)
    rows[4, 2, 1] = value
    with pytest.raises(UnstorableError) as caught:
        writer.append(make_digests(9), rows)
    assert (caught.value.row, str(caught.value)) == (4, reason)
    writer.discard()
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]
