"""The rows of a feature set: found by their digests, in whichever shards are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.shards.reader import read_digests_or_none
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import recipe_key
from tests.helpers.conv_layer import RECIPE, ROW, make_digests, make_rows, write_shard


def write_shards(folder: Path, shards: list[np.ndarray]) -> None:
    for digests in shards:
        row = RowFormat(shape=(1,), dtype="float32")
        writer = ShardWriter(folder, key=recipe_key(RECIPE), row=row, n_rows=len(digests))
        writer.append(digests, np.zeros((len(digests), 1), np.float32))
        writer.publish()


# Random digests; and few different ones, which share their first word: duplicates and collisions.
@pytest.mark.parametrize("first_byte", [0, 8, 14])
def test_rows_are_found_as_a_dictionary_finds_them(tmp_path: Path, first_byte: int) -> None:
    random = np.random.default_rng(first_byte)
    digests = random.integers(0, 4, (400, 32), dtype=np.uint8) + np.uint8(1)
    digests[:, :first_byte] = 1
    digests[:, 16:] = 1
    known, unknown = digests[:300], digests[300:]
    layout = open_cache(tmp_path / "cache")
    write_shards(open_feature_set_folder(layout, RECIPE), np.split(known, [50, 51, 180]))
    with Index() as index:
        features = FeatureSet(layout, RECIPE, index)
        places: dict[bytes, tuple[str, int]] = {}
        for name in sorted(index.stamps_of(features.key)):
            for row, digest in enumerate(split_digests(index.rows_of(features.key, name))):
                places.setdefault(digest, (name, row))
    assert len(features) == len(places)
    wanted = [*split_digests(known[::-1]), b"", *split_digests(unknown)]
    found = features.locate(wanted)
    for digest, shard, row in zip(wanted, found.shard, found.row, strict=True):
        place = None if shard < 0 else (found.shards[shard], int(row))
        assert place == places.get(digest)
    assert found.missing.any()


def test_a_digest_of_which_only_half_is_a_rows_gets_no_values(
    layout: CacheLayout, index: Index
) -> None:
    digests, other = make_digests(9), make_digests(9).copy()
    other[4, -1] ^= 1
    write_shard(layout, digests, make_rows(9))
    features = FeatureSet(layout, RECIPE, index)
    stored = StoredRows(
        folder=features.folder,
        key=features.key,
        locations=features.locate(split_digests(other)),
        digests=other,
    )
    with pytest.raises((DamagedError, MissingShardError)):
        gather_rows(stored, np.empty((9, *ROW.shape), np.float32))


def test_an_empty_set_has_no_rows(tmp_path: Path) -> None:
    with Index() as index:
        features = FeatureSet(open_cache(tmp_path / "cache"), RECIPE, index)
    assert len(features) == 0
    assert features.locate([bytes(32), b""]).missing.all()
    assert len(features.locate([]).row) == 0


def test_a_truncated_shard_counts_as_missing_rows(
    layout: CacheLayout, index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    digests = make_digests(9)
    path = write_shard(layout, digests, make_rows(9))
    path.write_bytes(path.read_bytes()[:-100])
    rows = FeatureSet(layout, RECIPE, index)
    assert rows.locate(split_digests(digests)).missing.all()
    assert path.name in caplog.text


def test_a_shard_under_another_name_is_refused(layout: CacheLayout, index: Index) -> None:
    path = write_shard(layout, make_digests(4), make_rows(4))
    path.rename(path.with_name("shard-0123456789abcdef.h5"))
    assert len(FeatureSet(layout, RECIPE, index)) == 0


def test_the_shards_are_the_truth_whatever_the_index_says(layout: CacheLayout) -> None:
    digests = make_digests(8)
    path = write_shard(layout, digests, make_rows(8))
    with Index(layout.index_file) as index:
        assert len(FeatureSet(layout, RECIPE, index)) == 8
    layout.index_file.write_bytes(b"garbage" * 1000)
    with Index(layout.index_file) as index:
        assert len(FeatureSet(layout, RECIPE, index)) == 8
    path.unlink()
    with Index(layout.index_file) as index:
        assert len(FeatureSet(layout, RECIPE, index)) == 0


@pytest.mark.parametrize("most_recent", [0, 60, 10_000])
def test_shards_that_come_one_by_one_are_found_as_if_all_had_been_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_recent: int
) -> None:
    monkeypatch.setattr("permafrost.cache.store.featureset._MOST_RECENT", most_recent)
    random = np.random.default_rng(0)
    digests = random.integers(1, 256, (400, 32), dtype=np.uint8)
    layout = open_cache(tmp_path / "cache")
    folder = open_feature_set_folder(layout, RECIPE)
    wanted = [*split_digests(digests), b"", bytes(range(32))]
    with Index() as index:
        features = FeatureSet(layout, RECIPE, index)
        for start in range(0, 400, 40):
            # The half of each is there already.
            write_shards(folder, [digests[max(0, start - 20) : start + 40]])
            features.refresh()
            found = features.locate(wanted)
            expected = FeatureSet(layout, RECIPE, index).locate(wanted)
            np.testing.assert_array_equal(found.missing, expected.missing)
            for number in np.flatnonzero(~found.missing).tolist():
                name, row = found.shards[found.shard[number]], found.row[number]
                stored = index.rows_of(features.key, name)
                assert stored is not None
                assert stored[row].tobytes() == wanted[number]
            assert found.shards == sorted(set(found.shards))
        features.settle()
        assert features.locate(wanted).shards == expected.shards
        assert len(features) == 400
        next(folder.glob("shard-*.h5")).unlink()
        features.refresh()
        expected = FeatureSet(layout, RECIPE, index).locate(wanted)
        np.testing.assert_array_equal(features.locate(wanted).missing, expected.missing)


def test_a_new_shard_is_read_without_those_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    digests = random.integers(1, 256, (100, 32), dtype=np.uint8)
    layout = open_cache(tmp_path / "cache")
    folder = open_feature_set_folder(layout, RECIPE)
    write_shards(folder, np.split(digests, 10)[:9])
    with Index() as index:
        features = FeatureSet(layout, RECIPE, index)
        read: list[str] = []
        rows_of = index.rows_of
        monkeypatch.setattr(
            index, "rows_of", lambda key, name: read.append(name) or rows_of(key, name)
        )
        monkeypatch.setattr(
            "permafrost.cache.store.featureset.read_digests_or_none",
            lambda file, key: read.append(file.name) or read_digests_or_none(file, key),
        )
        write_shards(folder, [digests[90:]])
        features.refresh()
        assert len(read) == 1
        assert not features.locate(split_digests(digests)).missing.any()
