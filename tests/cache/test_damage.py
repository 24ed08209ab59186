"""Whatever becomes of a file of the cache: what was written is read, or an error names the file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from permafrost.cache.errors import DamagedError, MissingShardError, NotACacheError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.layout import open_cache
from permafrost.cache.upkeep.examine import examine_shard
from tests.helpers.damage import (
    Change,
    Sweep,
    blank_all,
    blank_chunks,
    check_index,
    cut_all,
    flip_all,
    flip_some,
    read_features,
    sweep,
    write_features,
    write_index,
    write_shard,
)
from tests.helpers.shards import KEY, SHAPE, make_digests, make_rows

# Every byte, and every bit of many: python -m tests.resilience --only damage.
N_ROWS = 9


def check(found: Sweep, *, at_least: int) -> None:
    assert found.failures == []
    assert found.n_refused >= at_least


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_no_damage_to_a_shard_gives_a_wrong_value(tmp_path: Path, compression: str) -> None:
    path, read = write_shard(tmp_path, n_rows=N_ROWS, compression=compression)
    sound = path.read_bytes()
    flips = flip_all(sound, step=9)
    others = [*cut_all(sound), *blank_all(sound, size=64), *blank_chunks(path)]
    check(sweep(path, read, [*flips, *others]), at_least=len(flips) - 10)


def test_no_damage_to_a_shard_of_many_chunks_gives_a_wrong_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two rows in each: HDF5 lists more than 1,024 chunks on pages of their own.
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 100)
    path, read = write_shard(tmp_path, n_rows=2100)
    changes = flip_some(path.read_bytes(), n=16, seed=0)
    check(sweep(path, read, changes), at_least=12)


@pytest.mark.parametrize("materialize", [False, True])
def test_no_damage_to_a_view_gives_a_wrong_label_path_or_value(
    tmp_path: Path, *, materialize: bool
) -> None:
    path, read = write_features(tmp_path, materialize=materialize)
    sound = path.read_bytes()
    flips = flip_all(sound, step=61)
    others = [*cut_all(sound, step=1024), *blank_all(sound, size=256), *blank_chunks(path)]
    # Text for other readers, and their virtual datasets, are not ours to read.
    check(sweep(path, read, [*flips, *others]), at_least=len(flips) // 3)


def test_no_damage_to_the_index_gives_a_wrong_value(tmp_path: Path) -> None:
    path, read = write_index(tmp_path, n_rows=N_ROWS)
    sound = path.read_bytes()
    changes = [*flip_all(sound, step=301), *cut_all(sound, step=4096), *blank_all(sound, size=1024)]
    found = sweep(path, read, changes)
    assert found.failures == []
    assert found.n_changes > 90


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_garbage_in_the_place_of_the_index_or_its_journals_is_harmless(
    tmp_path: Path, suffix: str
) -> None:
    path, _ = write_index(tmp_path, n_rows=N_ROWS)
    path.with_name(path.name + suffix).write_bytes(random.Random(0).randbytes(70_000))
    assert check_index(N_ROWS, path) is False


def test_a_directory_in_the_place_of_a_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    path, read = write_shard(tmp_path, n_rows=N_ROWS)
    path.unlink()
    path.mkdir()
    assert read(path) is True
    assert examine_shard(path, KEY).damage == "it is no file"


def test_a_shard_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    path, read = write_shard(tmp_path, n_rows=N_ROWS)
    path.unlink()
    assert read(path) is True
    features, _ = write_features(tmp_path / "view", materialize=False)
    (shard,) = tmp_path.glob("view/**/shard-*.h5")
    shard.unlink()
    with pytest.raises(MissingShardError, match=f"{shard.name}.*repeat the extract"):
        read_features(features)


@pytest.mark.parametrize(
    ("key", "reason"), [(KEY, "other rows"), ("ab" * 32, "another feature set")]
)
def test_another_shard_under_its_name_is_an_error_that_names_it(
    tmp_path: Path, key: str, reason: str
) -> None:
    features, _ = write_features(tmp_path, materialize=False)
    (shard,) = tmp_path.glob("cache/*/*/shard-*.h5")
    row = RowFormat(shape=SHAPE, dtype="float32")
    writer = ShardWriter(tmp_path, key=key, row=row, n_rows=N_ROWS)
    first = 50 if key == KEY else 0
    writer.append(make_digests(range(first, first + N_ROWS)), make_rows(range(N_ROWS)))
    writer.publish().replace(shard)
    with pytest.raises(DamagedError, match=f"{shard.name}.*{reason}"):
        read_features(features)


@pytest.mark.parametrize("content", [b"", b'{"form', b"[]", b"null", b'{"format": "x"}', b"\xff"])
def test_a_garbled_format_number_is_one_line_that_says_what_belongs_there(
    tmp_path: Path, content: bytes
) -> None:
    layout = open_cache(tmp_path / "cache")
    layout.format_file.write_bytes(content)
    with pytest.raises((DamagedError, NotACacheError), match=r'format.json.*\{"format": 1\}'):
        open_cache(tmp_path / "cache")


def test_a_sweep_finds_what_hangs_crashes_or_reads_wrong(tmp_path: Path) -> None:
    """That is, the tests above can fail."""
    path = tmp_path / "file"
    path.write_bytes(b"sound")
    found = sweep(path, misread, [Change(0, b"x"), Change(1, b"x"), Change(2, b"x")])
    assert (found.n_refused, found.n_harmless) == (0, 1)
    assert [one.split(": ")[1] for one in found.failures] == [
        "the process ended with 7", "AssertionError",
    ]  # fmt: skip
    assert path.read_bytes() == b"sound"


def misread(path: Path) -> bool:
    position = path.read_bytes().index(b"x")
    if position == 0:
        os._exit(7)
    assert position != 1
    return False
