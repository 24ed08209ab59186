"""Shards, the store and views, against plain h5py and the arrays that went in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import (
    CacheError,
    DamagedError,
    MissingShardError,
    NotAViewError,
    UnstorableError,
)
from permafrost.cache.shards.blocks import split_columns
from permafrost.cache.shards.format import RowFormat, choose_chunk
from permafrost.cache.shards.locations import join_digests, split_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.features import Features
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
    columns: dict[str, list[str]] | None = None,
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


@pytest.mark.parametrize("materialize", [False, True])
@pytest.mark.parametrize(
    ("shape", "n_columns"),
    [((), 5), ((9,), 4), ((5, 7), 3), ((5, 7), 14), ((5, 7), 99), ((2, 30, 120, 40), 60_000)],
)
def test_columns_come_from_left_to_right_for_any_rows(
    tmp_path: Path,
    layout: CacheLayout,
    index: Index,
    *,
    shape: tuple[int, ...],
    n_columns: int,
    materialize: bool,
) -> None:
    row = RowFormat(shape=shape, dtype="float32")
    digests, rows = make_digests(12), make_rows(12, shape)
    write_shard(layout, digests[:5], rows[:5], row)
    write_shard(layout, digests[5:], rows[5:], row)
    write_whole_view(tmp_path / "f.h5", layout, index, digests, row, materialize=materialize)
    flat = rows.reshape(12, -1)
    with Features(tmp_path / "f.h5") as features:
        for wanted in (np.arange(12), np.array([11, 3, 3, 4, 0, 10]), np.array([], np.int64)):
            n_bytes = n_columns * max(1, len(wanted)) * 4
            blocks = list(features.iterate_columns("conv/1:none", wanted, n_bytes=n_bytes))
            np.testing.assert_array_equal(np.hstack(blocks), flat[wanted])
            assert max(block.nbytes for block in blocks) <= n_bytes
        narrowest = next(features.iterate_columns("conv/1:none", np.array([2]), n_bytes=0))
        np.testing.assert_array_equal(narrowest, flat[2:3, :1])


@pytest.mark.parametrize("shape", [(56, 56, 128), (14, 14, 512), (7, 7, 512), (4_000_000,), (512,)])
@pytest.mark.parametrize("n_columns", [7000, 100_000, 450_000, 5_000_000])
def test_blocks_of_columns_follow_each_other_and_split_no_chunk_in_vain(
    shape: tuple[int, ...], n_columns: int
) -> None:
    chunk = choose_chunk(RowFormat(shape=shape, dtype="float32"), 1)[1:]
    flat = np.arange(np.prod(shape)).reshape(shape)
    blocks = list(split_columns(shape, n_columns, chunk=chunk))
    parts = [flat[block].ravel() for block in blocks]
    np.testing.assert_array_equal(np.concatenate(parts), flat.ravel())
    assert max(map(len, parts)) <= n_columns
    chunk_of = np.zeros(shape, np.int64)
    for axis, (length, step) in enumerate(zip(shape, chunk, strict=True)):
        numbers = (np.arange(length) // step).reshape(-1, *[1] * (len(shape) - axis - 1))
        chunk_of = chunk_of * -(-length // step) + numbers
    touched = np.concatenate([np.unique(chunk_of[block]) for block in blocks])
    most = 1 if n_columns >= np.prod(chunk) else 2 * np.prod(chunk) / n_columns + 1
    assert np.bincount(touched).max() <= most


def test_columns_of_a_damaged_or_missing_shard_are_an_error(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests, rows = make_digests(6), make_rows(6)
    path = write_shard(layout, digests, rows)
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    sound = path.read_bytes()
    position = sound.index(rows[3].tobytes())
    path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
    with Features(tmp_path / "f.h5") as features:
        blocks = features.iterate_columns("conv/1:none", np.arange(6), n_bytes=48)
        with pytest.raises(DamagedError, match=path.name):
            next(blocks)
        path.unlink()
        blocks = features.iterate_columns("conv/1:none", np.arange(6), n_bytes=48)
        with pytest.raises(MissingShardError, match="repeat the extract"):
            next(blocks)


@pytest.mark.parametrize("materialize", [False, True])
def test_rows_that_do_not_exist_are_an_error(
    tmp_path: Path, layout: CacheLayout, index: Index, *, materialize: bool
) -> None:
    digests, rows = make_digests(6), make_rows(6)
    write_shard(layout, digests, rows)
    write_whole_view(tmp_path / "f.h5", layout, index, digests, materialize=materialize)
    with Features(tmp_path / "f.h5") as features:
        for wanted in ([6], [0, 7], [-7]):
            with pytest.raises(IndexError):
                features.read("conv/1:none", np.array(wanted))
        np.testing.assert_array_equal(features.read("conv/1:none", np.array([-1])), rows[-1:])
        assert features.read("conv/1:none", np.array([], np.int64)).shape == (0, *ROW.shape)


COLUMNS = {
    "age": ["31", "", "54"],
    "": ["no", "name", ""],
    ".": ["a", "b", "c"],
    "..": ["d", "e", "f"],
    "a/b/../c": ["Größe", "x" * 10_000, "\udce9"],
    "%2F": ["1", "2", "3"],
    "Größe, cm\udce9": ["", "", ""],
    "Label": ["other", "than", "label"],
}


def test_columns_under_any_name_are_kept(tmp_path: Path, layout: CacheLayout, index: Index) -> None:
    digests = make_digests(3)
    write_shard(layout, digests, make_rows(3))
    write_whole_view(tmp_path / "f.h5", layout, index, digests, columns=COLUMNS)
    with Features(tmp_path / "f.h5") as features:
        assert features.columns == sorted(COLUMNS)
        assert {name: features.column(name) for name in features.columns} == COLUMNS
        assert features.column("label") == features.column("path") == features.paths
        assert features.column("split") == ["", "", ""]
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["images/columns/age"].asstr()[()].tolist() == COLUMNS["age"]
        assert file["images/columns/a%2Fb%2F..%2Fc"].asstr()[0] == "Größe"


def test_an_unknown_column_names_those_that_exist(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(2)
    write_shard(layout, digests, make_rows(2))
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    with Features(tmp_path / "f.h5") as features:
        assert features.columns == []
        with pytest.raises(
            NotAViewError, match="no column 'age'; it has: 'path', 'label', 'split'"
        ):
            features.column("age")


def test_the_order_of_the_columns_changes_no_byte(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(3)
    write_shard(layout, digests, make_rows(3))
    contents = []
    for columns in (COLUMNS, dict(reversed(COLUMNS.items()))):
        write_whole_view(tmp_path / "f.h5", layout, index, digests, columns=columns)
        contents.append((tmp_path / "f.h5").read_bytes())
    assert contents[0] == contents[1]


def test_long_texts_beside_short_ones_take_little_room(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(3)[np.arange(9000) % 3]
    write_shard(layout, digests[:3], make_rows(3))
    texts = ["caption " * 300, *[str(row) for row in range(8999)]]
    write_whole_view(tmp_path / "f.h5", layout, index, digests, columns={"caption": texts})
    assert (tmp_path / "f.h5").stat().st_size < 2_000_000
    with Features(tmp_path / "f.h5") as features:
        assert features.column("caption") == texts


def test_the_folder_of_a_layer_is_where_its_shards_lie(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(3)
    shard = write_shard(layout, digests, make_rows(3))
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    write_whole_view(tmp_path / "m.h5", layout, index, digests, materialize=True)
    with Features(tmp_path / "f.h5") as features:
        folder = features.folder("conv/1:none")
        assert folder is not None
        assert folder.samefile(shard.parent)
        layout.root.rename(tmp_path / "elsewhere")
        assert features.folder("conv/1:none") is None
    with Features(tmp_path / "m.h5") as features:
        assert features.folder("conv/1:none") is None


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


def test_an_open_view_follows_its_rows_into_other_shards(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests, rows = make_digests(10), make_rows(10)
    old = [write_shard(layout, digests[part], rows[part]) for part in np.split(np.arange(10), [3])]
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    with Features(tmp_path / "f.h5") as features:
        order = np.random.default_rng(0).permutation(10)
        np.testing.assert_array_equal(features.read("conv/1:none", order), rows[order])
        write_shard(layout, digests[::-1], rows[::-1])
        for path in old:
            path.unlink()
        np.testing.assert_array_equal(features.read("conv/1:none", order), rows[order])
    with Features(tmp_path / "f.h5") as features:
        np.testing.assert_array_equal(features.read("conv/1:none"), rows)


def test_rows_that_are_still_there_are_read_when_others_are_gone(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests, rows = make_digests(10), make_rows(10)
    old = write_shard(layout, digests, rows)
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    write_shard(layout, digests[4:8], rows[4:8])
    old.unlink()
    with Features(tmp_path / "f.h5") as features:
        np.testing.assert_array_equal(features.read("conv/1:none", np.arange(4, 8)), rows[4:8])
        with pytest.raises(MissingShardError, match=r"1 rows are gone from .*; repeat the extract"):
            features.read("conv/1:none", np.arange(3, 8))


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
