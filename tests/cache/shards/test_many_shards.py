"""Rows that come from many small shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.shards import gather
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from tests.helpers.conv_layer import RECIPE, ROW, make_digests, make_rows, write_shard

N_SHARDS, N_ROWS = 100, 200


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the shards that HDF5 is asked about, from now on."""
    names: list[str] = []
    survey_shard = gather._survey_shard

    def count(path: Path, key: str, stamp: tuple[int, ...]) -> gather._Survey:
        names.append(path.name)
        return survey_shard(path, key, stamp)

    monkeypatch.setattr(gather, "_survey_shard", count)
    monkeypatch.setattr(gather, "_surveys", gather._Surveys())
    return names


@pytest.fixture
def stored(layout: CacheLayout, index: Index) -> StoredRows:
    digests, rows = make_digests(N_ROWS), make_rows(N_ROWS)
    for part in np.split(np.arange(N_ROWS), N_SHARDS):
        write_shard(layout, digests[part], rows[part])
    features = FeatureSet(layout, RECIPE, index)
    locations = features.locate(split_digests(digests))
    return StoredRows(
        folder=features.folder, key=features.key, locations=locations, digests=digests
    )


def read_shuffled(stored: StoredRows, n_times: int) -> None:
    rows = make_rows(N_ROWS)
    for seed in range(n_times):
        order = np.random.default_rng(seed).permutation(N_ROWS)
        out = np.empty((N_ROWS, *ROW.shape), np.float32)
        gather_rows(stored.select(order), out)
        np.testing.assert_array_equal(out, rows[order])


def test_hdf5_is_asked_about_each_of_many_shards_once(
    stored: StoredRows, surveyed: list[str]
) -> None:
    read_shuffled(stored, 3)
    assert sorted(surveyed) == stored.locations.shards


def test_no_descriptor_stays_open_after_a_read(stored: StoredRows) -> None:
    read_shuffled(stored, 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    read_shuffled(stored, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_remembered_of_shards_is_bounded_by_its_bytes(
    stored: StoredRows, surveyed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "MOST_SURVEYED_BYTES", 50_000)
    read_shuffled(stored, 2)
    known = gather._surveys._known
    assert 0 < sum(survey.n_bytes for survey in known.values()) <= 50_000
    assert len(known) < N_SHARDS < len(surveyed)
