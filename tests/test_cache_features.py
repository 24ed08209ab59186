"""Shards, the store and views, against plain h5py and the arrays that went in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CacheError, DamagedError, MissingShardError, UnstorableError
from cache.features import Features
from cache.index import Index
from cache.key import Recipe, recipe_key
from cache.layout import CacheLayout, open_cache, open_feature_set_folder
from cache.shard import RowFormat, ShardWriter, choose_chunk
from cache.store import FeatureSet, join_digests, split_digests
from cache.view import ViewImages, ViewLayer, write_view

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


@pytest.fixture
def layout(tmp_path: Path) -> CacheLayout:
    return open_cache(tmp_path / "100%b cache")


@pytest.fixture
def index(layout: CacheLayout) -> Index:
    return Index(layout.index_file)


def write_whole_view(
    out: Path,
    layout: CacheLayout,
    index: Index,
    digests: np.ndarray,
    row: RowFormat = ROW,
    *,
    materialize: bool = False,
) -> None:
    rows = FeatureSet(layout, RECIPE, index)
    locations = rows.locate(split_digests(digests))
    assert not locations.missing.any()
    names = [f"a/{i}.jpg" for i in range(len(digests))]
    images = ViewImages(
        root="photos", paths=names, labels=names, splits=[""] * len(names), digests=digests
    )
    layer = ViewLayer(
        spec="conv/1:none", recipe=RECIPE, folder=rows.folder, row=row, locations=locations
    )
    write_view(out, images, [layer], materialize=materialize)


def test_a_shard_opens_with_plain_h5py(layout: CacheLayout) -> None:
    digests, rows = make_digests(10), make_rows(10)
    path = write_shard(layout, digests, rows)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features"][()], rows)
        np.testing.assert_array_equal(file["digest"][()], digests)


@pytest.mark.parametrize("materialize", [False, True])
def test_a_view_gives_rows_in_manifest_order(
    tmp_path: Path, layout: CacheLayout, index: Index, *, materialize: bool
) -> None:
    digests, rows = make_digests(40), make_rows(40)
    write_shard(layout, digests[:25], rows[:25])
    write_shard(layout, digests[25:], rows[25:])
    order = np.random.default_rng(1).integers(40, size=90)
    out = tmp_path / "features.h5"
    write_whole_view(out, layout, index, digests[order], materialize=materialize)
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["features/conv/1:none"][()], rows[order])
        assert file["images/path"].asstr()[3] == "a/3.jpg"
    with Features(out) as features:
        assert features.layers == ["conv/1:none"]
        assert features.shape("conv/1:none") == ROW.shape
        np.testing.assert_array_equal(features.read("conv/1:none"), rows[order])
        some = np.array([80, 3, 3, 41, 0])
        np.testing.assert_array_equal(features.read("conv/1:none", some), rows[order[some]])
        np.testing.assert_array_equal(
            np.concatenate(list(features.iterate("conv/1:none"))), rows[order]
        )


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_shards_hold_the_same_values(
    tmp_path: Path, layout: CacheLayout, index: Index, compression: str
) -> None:
    row = RowFormat(shape=ROW.shape, dtype="float32", compression=compression)
    digests, rows = make_digests(30), make_rows(30)
    write_shard(layout, digests, rows, row)
    write_whole_view(tmp_path / "f.h5", layout, index, digests, row)
    with Features(tmp_path / "f.h5") as features:
        np.testing.assert_array_equal(features.read("conv/1:none"), rows)


def test_a_view_is_the_same_to_the_byte_when_written_twice(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(12)
    write_shard(layout, digests, make_rows(12))
    contents = []
    for _ in range(2):
        write_whole_view(tmp_path / "f.h5", layout, index, digests)
        contents.append((tmp_path / "f.h5").read_bytes())
    assert contents[0] == contents[1]


def test_no_flipped_byte_of_a_shard_gives_a_wrong_value(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests, rows = make_digests(6), make_rows(6)
    path = write_shard(layout, digests, rows)
    out = tmp_path / "f.h5"
    write_whole_view(out, layout, index, digests)
    sound = path.read_bytes()
    refused = 0
    for position in range(0, len(sound), 5):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with Features(out) as features:
            try:
                values = features.read("conv/1:none")
            except DamagedError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                np.testing.assert_array_equal(values, rows)
    assert refused > 100


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


def test_a_missing_shard_is_an_error_for_us_and_nan_for_others(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(4)
    path = write_shard(layout, digests, make_rows(4))
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    path.unlink()
    with h5py.File(tmp_path / "f.h5") as file:
        assert np.isnan(file["features/conv/1:none"][()]).all()
    with Features(tmp_path / "f.h5") as features, pytest.raises(MissingShardError, match="repeat"):
        features.read("conv/1:none")


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


@pytest.mark.parametrize(
    ("shape", "n_rows", "chunk"),
    [
        ((512,), 100_000, (256, 512)),
        ((512,), 10, (10, 512)),
        ((7, 7, 512), 1000, (5, 7, 7, 512)),
        ((56, 56, 128), 1000, (1, 28, 56, 128)),
        ((4_000_000,), 3, (1, 250_000)),
        ((), 1_000_000, (131_072,)),
    ],
)
def test_chunks_are_hundreds_of_kilobytes(
    shape: tuple[int, ...], n_rows: int, chunk: tuple[int, ...]
) -> None:
    assert choose_chunk(RowFormat(shape=shape, dtype="float32"), n_rows) == chunk


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"holiday.txt": "x"}, "is not a cache"),
        ({"format.json": '{"format": 99}'}, "newer"),
        ({"format.json": "{"}, "damaged"),
    ],
)
def test_a_folder_that_is_no_cache_is_refused(
    tmp_path: Path, content: dict[str, str], words: str
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CacheError, match=words):
        open_cache(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(content)


def test_the_key_of_a_recipe_never_changes() -> None:
    assert (
        recipe_key({"b": 1, "a": "é", "c": [224, 224]})
        == hashlib.sha256(b'{"a":"\\u00e9","b":1,"c":[224,224]}').hexdigest()
    )
    assert recipe_key(RECIPE) == "0af801abb011adf3341a04bf5c7d7c2435d66bf5a5b2d224dba168dd0ab79968"
