"""Views whose rows lie scattered over the shards: how they are mapped, and what is read."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.views.features import Features
from permafrost.cache.views.writer import MAX_VIRTUAL_RUNS
from tests.helpers.conv_layer import make_digests, make_rows, write_shard, write_whole_view

NAME = "features/conv/1:none"
ONE = RowFormat(shape=(1,), dtype="float32")


def choose_half(n_rows: int, *, shuffled: bool) -> np.ndarray:
    half = np.random.default_rng(7).permutation(n_rows)[: n_rows // 2]
    return half if shuffled else np.sort(half)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_random_half_reads_in_plain_h5py_as_the_shards_do(
    tmp_path: Path, layout: CacheLayout, index: Index, *, shuffled: bool
) -> None:
    digests, rows = make_digests(400), make_rows(400)
    half = choose_half(400, shuffled=shuffled)
    stored = []
    for part in np.split(np.arange(400), [90, 200]):
        with h5py.File(write_shard(layout, digests[part], rows[part]), locking=False) as shard:
            stored.append(shard["features"][()])
    write_whole_view(tmp_path / "f.h5", layout, index, digests[half])
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file[NAME][()], np.concatenate(stored)[half])
        np.testing.assert_array_equal(file[NAME][17:31, 2:4], rows[half][17:31, 2:4])
        n_runs = 1 + np.count_nonzero(np.diff(half) != 1)
        assert n_runs <= len(file[NAME].virtual_sources()) <= n_runs + 2
    with Features(tmp_path / "f.h5") as features:
        np.testing.assert_array_equal(features.read("conv/1:none"), rows[half])


@pytest.mark.parametrize("shuffled", [False, True])
def test_too_many_runs_are_kept_as_pointers_alone_and_warned_of_once(
    tmp_path: Path,
    layout: CacheLayout,
    index: Index,
    caplog: pytest.LogCaptureFixture,
    *,
    shuffled: bool,
) -> None:
    n_rows = 5 * MAX_VIRTUAL_RUNS
    digests, rows = make_digests(n_rows), make_rows(n_rows, (1,))
    write_shard(layout, digests, rows, ONE)
    half = choose_half(n_rows, shuffled=shuffled)
    with caplog.at_level(logging.WARNING):
        write_whole_view(tmp_path / "f.h5", layout, index, digests[half], ONE)
    (warning,) = caplog.messages
    assert "--materialize" in warning
    with h5py.File(tmp_path / "f.h5") as file:
        assert "features" not in file
    with Features(tmp_path / "f.h5") as features:
        np.testing.assert_array_equal(features.read("conv/1:none"), rows[half])


def test_as_many_runs_as_hdf5_can_take_are_mapped(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    n_rows = 2 * MAX_VIRTUAL_RUNS
    digests, rows = make_digests(n_rows), make_rows(n_rows, (1,))
    write_shard(layout, digests, rows, ONE)
    write_whole_view(tmp_path / "f.h5", layout, index, digests[::2], ONE)
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file[NAME][()], rows[::2])


def test_a_cache_in_a_folder_with_a_percent_sign_is_mapped(tmp_path: Path) -> None:
    layout = CacheLayout(tmp_path / "100%b")
    with Index() as index:
        digests, rows = make_digests(6), make_rows(6)
        write_shard(layout, digests, rows)
        write_whole_view(tmp_path / "f.h5", layout, index, digests[::-1])
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file[NAME][()], rows[::-1])
