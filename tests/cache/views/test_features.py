"""Views, against plain h5py and the arrays that went in."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.views.features import Features
from tests.helpers.conv_layer import ROW, make_digests, make_rows, write_shard, write_whole_view


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
