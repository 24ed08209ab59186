"""Merged shards, against the rows that went in, read with plain h5py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import DamagedError
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.compact import Compaction, compact_set
from permafrost.cache.upkeep.examine import examine_set
from permafrost.cache.upkeep.survey import survey_set
from tests.helpers.shards import KEY, ROW_BYTES, expect_set, make_digests, read_set, write_set


def compact(layout: CacheLayout, folder: Path, *, n_rows: int) -> Compaction:
    return compact_set(survey_set(layout, folder), largest_bytes=n_rows * ROW_BYTES)


def list_sizes(folder: Path) -> list[int]:
    """How many rows each shard has, in the order of their times."""
    paths = sorted(folder.glob("shard-*.h5"), key=lambda path: path.stat().st_mtime_ns)
    sizes = []
    for path in paths:
        with h5py.File(path) as file:
            sizes.append(len(file["digest"]))
    return sizes


def list_filters(folder: Path) -> set[frozenset[str]]:
    """The HDF5 filters that shards have, by their numbers."""
    found = set()
    for path in folder.glob("shard-*.h5"):
        with h5py.File(path) as file:
            found.add(frozenset(file["features"]._filters))
    return found


@pytest.mark.parametrize(
    ("sizes", "n_rows", "expected"),
    [
        ([3, 3, 3, 3], 6, [6, 6]),
        ([3, 3, 3, 3], 5, [3, 3, 3, 3]),
        ([1] * 9, 4, [4, 4, 1]),
        ([9, 1, 1], 4, [9, 2]),
        ([1, 9, 1], 9, [1, 9, 1]),
        ([2, 1], 100, [3]),
        ([2], 100, [2]),
    ],
)
def test_shards_are_filled_up_in_their_order(
    tmp_path: Path, sizes: list[int], n_rows: int, expected: list[int]
) -> None:
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    layout, folder = write_set(tmp_path, [part.tolist() for part in numbers])
    done = compact(layout, folder, n_rows=n_rows)
    assert (done.shards_before, done.shards_after) == (len(sizes), len(expected))
    assert list_sizes(folder) == expected
    assert read_set(folder) == expect_set(range(sum(sizes)))
    assert not list(folder.glob(".tmp-*"))
    exam = examine_set(layout, folder)
    assert [shard.damage for shard in exam.shards] == [None] * len(expected)


def test_rows_stay_in_the_order_in_which_they_were_computed(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[5, 1], [9], [2, 0, 7]])
    compact(layout, folder, n_rows=10)
    (path,) = folder.glob("shard-*.h5")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["digest"][()], make_digests([5, 1, 9, 2, 0, 7]))
        assert file.attrs["key"] == KEY.encode()
    assert path.stat().st_mtime == 1_000_002


def test_done_again_nothing_is_left_to_do(tmp_path: Path) -> None:
    sizes = np.random.default_rng(4).integers(1, 9, 40)
    numbers = np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1])
    layout, folder = write_set(tmp_path, [part.tolist() for part in numbers])
    assert compact(layout, folder, n_rows=10).n_bytes > 0
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    done = compact(layout, folder, n_rows=10)
    assert (done.n_bytes, done.shards_before) == (0, done.shards_after)
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_compression_is_kept_and_not_mixed(tmp_path: Path, compression: str) -> None:
    layout, folder = write_set(tmp_path, [[0], [1]], compression=compression)
    write_set(tmp_path, [[2], [3]], compression="none" if compression == "zstd" else "zstd")
    before = list_filters(folder)
    compact(layout, folder, n_rows=10)
    assert list_sizes(folder) == [2, 2]
    assert read_set(folder) == expect_set(range(4))
    assert list_filters(folder) == before
    assert len(before) == 2


def test_what_a_killed_one_left_is_tidied(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2], [3, 4]])
    old = {path: path.read_bytes() for path in folder.glob("shard-*.h5")}
    times = {path: path.stat().st_mtime_ns for path in old}
    compact(layout, folder, n_rows=4)
    for path, content in old.items():  # as if it had not come to removing them
        path.write_bytes(content)
        os.utime(path, ns=(times[path], times[path]))
    assert len(list(folder.glob("shard-*.h5"))) == 4
    compact(layout, folder, n_rows=4)
    assert list_sizes(folder) == [3, 2]
    assert read_set(folder) == expect_set(range(5))


def test_rows_that_are_there_twice_are_merged_into_one(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1, 2], [1, 2], [2, 3]])
    compact(layout, folder, n_rows=4)
    assert list_sizes(folder) == [4]
    assert read_set(folder) == expect_set(range(4))


def test_damage_stops_it_and_nothing_is_lost(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2, 3], [4, 5], [6, 7]])
    damaged = max(folder.glob("shard-*.h5"), key=lambda path: path.stat().st_mtime)
    with h5py.File(damaged) as file:
        position = file["features"].id.get_chunk_info(0).byte_offset
    content = bytearray(damaged.read_bytes())
    content[position + 7] ^= 16
    damaged.write_bytes(content)
    with pytest.raises(DamagedError, match=damaged.name):
        compact(layout, folder, n_rows=4)
    assert damaged.read_bytes() == content
    damaged.rename(tmp_path / "away")
    assert list_sizes(folder) == [2, 4] or list_sizes(folder) == [4, 2]
    assert read_set(folder) == expect_set(range(6))


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2, 3]])
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        compact(layout, folder, n_rows=4)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
