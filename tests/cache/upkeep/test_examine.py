"""What an examination finds, against shards that were damaged on purpose with plain h5py."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.folders import list_set_folders, open_feature_set_folder
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import Recipe, canonical_json, recipe_key
from permafrost.cache.upkeep.examine import ShardExam, examine_set, examine_shard

RECIPE: Recipe = {"backbone": "tiny", "layer": "conv", "pooling": "none"}
KEY = recipe_key(RECIPE)
N_ROWS = 23
SHAPE = (4, 3)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard of a kilobyte have several chunks, of two rows each."""
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 100)
    monkeypatch.setattr("permafrost.cache.upkeep.examine._PIECE_BYTES", 400)


def make_rows(n: int = N_ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *SHAPE)).astype(np.float32)


def make_digests(n: int = N_ROWS) -> np.ndarray:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(n)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def write_shard(folder: Path, *, compression: str = "none", key: str = KEY) -> Path:
    row = RowFormat(shape=SHAPE, dtype="float32", compression=compression)
    writer = ShardWriter(folder, key=key, row=row, n_rows=N_ROWS)
    writer.append(make_digests(), make_rows())
    return writer.publish()


def flip_row(path: Path, row: int) -> None:
    """Flip a bit among the values of a row."""
    content = bytearray(path.read_bytes())
    content[content.index(make_rows()[row].tobytes()) + 5] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_a_sound_shard_is_intact(tmp_path: Path, compression: str) -> None:
    path = write_shard(tmp_path, compression=compression)
    exam = examine_shard(path, KEY)
    assert exam.damage is None
    assert (exam.key, exam.n_bytes) == (KEY, path.stat().st_size)
    assert exam.intact.tolist() == [True] * N_ROWS
    np.testing.assert_array_equal(exam.digests, make_digests())


def test_a_shard_without_sums_of_ours_is_intact(tmp_path: Path) -> None:
    path = write_shard(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["xxh3"]
    exam = examine_shard(path, KEY)
    assert exam.damage is None
    assert exam.intact.all()


def test_flipped_bits_cost_the_rows_of_their_chunks_only(tmp_path: Path) -> None:
    path = write_shard(tmp_path)
    flip_row(path, 7)
    flip_row(path, 22)
    exam = examine_shard(path, KEY)
    assert np.flatnonzero(~exam.intact).tolist() == [6, 7, 22]
    assert exam.damage is not None
    assert exam.damage.startswith("3 of its 23 rows are damaged: ")


def change_values(file: h5py.File) -> None:
    """Write through HDF5, whose own checksum then is right."""
    file["features"][3, 0, 0] += 1


def write_nan(file: h5py.File) -> None:
    values = file["features"][()]
    values[5, 1, 1] = np.nan
    del file["features"], file["xxh3"]
    file.create_dataset("features", data=values, chunks=(2, *SHAPE), fletcher32=True)


@pytest.mark.parametrize(
    ("change", "rows", "reason"),
    [
        (change_values, [2, 3], "differs from its checksum"),
        (write_nan, [4, 5], "not finite"),
    ],
)
def test_values_that_nobody_wrote_are_found(
    tmp_path: Path, change: Callable[[h5py.File], None], rows: list[int], reason: str
) -> None:
    path = write_shard(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    exam = examine_shard(path, KEY)
    assert np.flatnonzero(~exam.intact).tolist() == rows
    assert reason in str(exam.damage)


def link_elsewhere(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["features"] = file["features"][()]
    del file["features"]
    file["features"] = h5py.ExternalLink("other.h5", "features")


def make_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((N_ROWS, *SHAPE), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "features", (N_ROWS, *SHAPE), np.float32)
    del file["features"]
    file.create_virtual_dataset("features", layout)


def make_external(file: h5py.File) -> None:
    del file["features"]
    place = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("features", (N_ROWS, *SHAPE), np.float32, external=place)


def drop_checksums(file: h5py.File) -> None:
    values = file["features"][()]
    del file["features"]
    file["features"] = values


def leave_a_gap(file: h5py.File) -> None:
    del file["features"], file["xxh3"]
    options = {"chunks": (2, *SHAPE), "fletcher32": True}
    dataset = file.create_dataset("features", (N_ROWS, *SHAPE), np.float32, **options)
    dataset[:4] = 1


def shift_sums(file: h5py.File) -> None:
    sums = file["xxh3"][()]
    del file["xxh3"]
    file.create_dataset("xxh3", data=sums[1:], chunks=(4,), fletcher32=True)


def add_member(file: h5py.File) -> None:
    file["more"] = [1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link_elsewhere, "its 'features' is a link to elsewhere"),
        (make_virtual, "its 'features' lies elsewhere"),
        (make_external, "its 'features' lies elsewhere"),
        (drop_checksums, "its 'features' has no checksums"),
        (leave_a_gap, "chunks of its 'features' are missing"),
        (shift_sums, "its checksums are not those of its chunks"),
        (add_member, "it holds 'more', which no shard has"),
        (lambda file: file.attrs.__delitem__("key"), "attribute"),
    ],
)
def test_another_structure_is_damage(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    path = write_shard(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    exam = examine_shard(path, KEY)
    assert reason in str(exam.damage)
    assert not exam.intact.any()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [cut_off, make_folder, make_pipe, os.unlink])
def test_what_cannot_be_read_is_damage(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = write_shard(tmp_path)
    change(path)
    exam = examine_shard(path, KEY)
    assert exam.damage is not None
    assert exam.digests is None
    assert len(exam.intact) == 0


def test_a_shard_of_another_set_or_under_another_name_says_so(tmp_path: Path) -> None:
    path = write_shard(tmp_path, key="ab" * 32)
    exam = examine_shard(path, KEY)
    assert exam.damage == f"it holds rows of another feature set ({'ab' * 32})"
    assert exam.key == "ab" * 32
    assert exam.intact.all()
    exam = examine_shard(path.rename(tmp_path / "shard-0123456789abcdef.h5"), None)
    assert exam.damage == "its name is not that of its rows"
    assert exam.intact.all()


@pytest.fixture
def layout(tmp_path: Path) -> CacheLayout:
    return open_cache(tmp_path / "cache")


def test_a_set_is_examined_with_all_its_shards(layout: CacheLayout) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    path = write_shard(folder)
    told: list[ShardExam] = []
    (found,) = list_set_folders(layout)
    exam = examine_set(layout, found, advance=told.append)
    assert (exam.folder, exam.recipe, exam.key, exam.damage) == (folder, RECIPE, KEY, None)
    assert [shard.path for shard in exam.shards] == [path]
    assert told == exam.shards


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (canonical_json(RECIPE)[:-4], "it is no recipe"),
        ("", "it is no recipe"),
        ("[" * 100_000, "it is no recipe"),
        ("[]", "it is no recipe"),
        ('{"backbone":"tiny"}', "it is no recipe"),
        (json.dumps(RECIPE), "it is not the canonical JSON of its recipe"),
        (canonical_json({**RECIPE, "layer": "other"}), "it is the recipe of another folder, tiny-"),
        (None, "it is missing"),
    ],
)
def test_a_recipe_that_is_not_its_folders_is_damage(
    layout: CacheLayout, text: str | None, reason: str
) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    write_shard(folder)
    if text is None:
        (folder / "recipe.json").unlink()
    else:
        (folder / "recipe.json").write_text(text)
    exam = examine_set(layout, folder)
    assert str(exam.damage).startswith(reason)
    assert exam.key is None
    (shard,) = exam.shards
    assert shard.damage is None
    assert shard.key == KEY


def test_a_folder_without_anything_is_no_damage(layout: CacheLayout) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    (folder / "recipe.json").unlink()
    exam = examine_set(layout, folder)
    assert (exam.damage, exam.shards) == (None, [])


def test_shards_that_are_replaced_meanwhile_are_followed(
    layout: CacheLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    old = write_shard(folder)
    row = RowFormat(shape=SHAPE, dtype="float32")
    names: list[str] = []

    def examine_then_replace(path: Path, key: str | None) -> ShardExam:
        exam = examine_shard(path, key)
        names.append(path.name)
        if path == old:
            writer = ShardWriter(folder, key=KEY, row=row, n_rows=2)
            writer.append(make_digests(2), make_rows(2))
            names.append(writer.publish().name)
            old.unlink()
        return exam

    monkeypatch.setattr("permafrost.cache.upkeep.examine.examine_shard", examine_then_replace)
    exam = examine_set(layout, folder)
    assert [shard.path.name for shard in exam.shards] == names[1:2] == names[2:]
    assert all(shard.damage is None for shard in exam.shards)


def test_an_examination_changes_nothing(layout: CacheLayout) -> None:
    folder = open_feature_set_folder(layout, RECIPE)
    flip_row(write_shard(folder), 3)
    shutil.copy(next(folder.glob("shard-*")), folder / "shard-0123456789abcdef.h5")
    before = {path: path.stat() for path in layout.root.rglob("*")}
    examine_set(layout, folder)
    after = {path: path.stat() for path in layout.root.rglob("*")}
    assert {path: (s.st_mtime_ns, s.st_size) for path, s in before.items()} == {
        path: (s.st_mtime_ns, s.st_size) for path, s in after.items()
    }
