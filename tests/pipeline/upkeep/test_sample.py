"""``verify --sample``: rows that are not those of their images are found, and no others."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.writer import ShardWriter
from permafrost.stages.sources.archive import _load_members
from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import write_photos


@pytest.fixture
def cache(extract: Command, tmp_path: Path) -> Path:
    assert extract().status == 0
    return tmp_path / "cache"


def sample(command: Command, cache: Path, *options: object) -> Answer:
    answer = command("verify", "--cache", cache, "--json", *options)
    # Its figures are there whatever it found.
    return Answer(0, answer.out, f"{answer.status}")


def find_shard(cache: Path, layer: str = "first-none") -> Path:
    (shard,) = cache.glob(f"*/{layer}/shard-*.h5")
    return shard


def change_row(shard: Path, row: int, by: float) -> str:
    """Write a shard as if it had been computed so: all its checksums are right."""
    with h5py.File(shard) as file:
        key, digests, values = file.attrs["key"].decode(), file["digest"][()], file["features"][()]
    values[row].flat[0] += by * np.abs(values).max()
    shard.unlink()
    form = RowFormat(shape=values.shape[1:], dtype=values.dtype.name)
    writer = ShardWriter(shard.parent, key=key, row=form, n_rows=len(values))
    writer.append(digests, values)
    assert writer.publish() == shard
    return str(digests[row].tobytes().hex())


def test_a_row_that_is_not_its_images_is_named(
    extract: Command, command: Command, cache: Path
) -> None:
    shard = find_shard(cache)
    change_row(shard, 5, 1e-3)
    assert command("verify", "--cache", cache).status == 0
    answer = sample(command, cache, "--sample", "1")
    (damage,) = answer.figures["damaged"]
    assert (answer.err, damage["file"]) == ("3", str(shard))
    assert "1.0e-03 of the largest value off" in damage["reason"]
    assert ".jpg" in damage["reason"]
    assert "move the file away and repeat extract" in damage["reason"]
    assert command("repair", "--cache", cache).out == "no damage\n"
    shard.rename(cache.parent / "away.h5")
    assert extract().figures["computed"] == 12
    assert sample(command, cache, "--sample", "1").err == "0"


def test_rounding_is_no_damage(command: Command, cache: Path) -> None:
    change_row(find_shard(cache), 5, 5e-5)
    answer = sample(command, cache, "--sample", "1")
    errors = [one["max_error"] for one in answer.figures["sample"]["sets"]]
    assert answer.err == "0"
    assert 4e-5 < max(errors) < 6e-5


def test_half_precision_is_given_its_rounding(
    extract: Command, command: Command, tmp_path: Path
) -> None:
    assert extract("--dtype", "float16").status == 0
    answer = sample(command, tmp_path / "cache", "--sample", "1")
    assert answer.err == "0"
    assert all(0 < one["max_error"] < 1e-3 for one in answer.figures["sample"]["sets"])


def test_a_share_of_every_set_is_computed_of_the_same_images(
    extract: Command, command: Command, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = write_photos(tmp_path / "more", n_each=14)
    assert extract(images=more, layers="first").status == 0
    loaded: list[int] = []
    from permafrost.pipeline.forward import loader as loading

    load = loading.load_batch
    monkeypatch.setattr(
        loading, "load_batch", lambda *a, **k: loaded.append(len(a[1].rows)) or load(*a, **k)
    )
    one = sample(command, cache, "--sample", "0.25", "--seed", "1").figures["sample"]
    assert sorted(found["rows"] for found in one["sets"]) == [3, 7]
    assert (one["rows"], one["skipped"]) == (10, {})
    assert sum(loaded) < 10


def test_the_directory_of_an_archive_is_read_once_for_all_its_images(
    extract: Command, command: Command, tmp_path: Path
) -> None:
    n_archives, n_each = 6, 3
    photos = write_photos(tmp_path / "many", n_each=n_archives * n_each)
    for number in range(n_archives):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            for name in range(number * n_each, (number + 1) * n_each):
                archive.write(photos / f"china/{name:04d}.jpg", f"{name}.jpg")
        out = tmp_path / f"{number}.h5"
        assert extract(images=tmp_path / f"{number}.zip", out=out).figures["computed"] == n_each
    _load_members.cache_clear()
    found = sample(command, tmp_path / "cache", "--sample", "1", "--batch-size", "3").figures
    assert (found["damaged"], found["sample"]["rows"]) == ([], 2 * n_archives * n_each)
    # Once to look whether each image is unchanged, once to compute.
    assert _load_members.cache_info().misses <= 2 * n_archives


@pytest.mark.parametrize(
    ("disturb", "what"),
    [
        (Path.unlink, "is gone"),
        (lambda photo: photo.write_bytes(photo.read_bytes() + b"more"), "changed since"),
    ],
)
def test_rows_without_their_image_are_counted_with_the_reason(
    command: Command, cache: Path, photos: Path, disturb: Callable[[Path], object], what: str
) -> None:
    disturb(photos / "china/0000.jpg")
    answer = sample(command, cache, "--sample", "1")
    found = answer.figures["sample"]
    assert (answer.err, found["rows"], sum(found["skipped"].values())) == ("0", 22, 2)
    assert all(f"0000.jpg' {what}" in reason for reason in found["skipped"])


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        *((share, "write a share of the rows") for share in ("0", "-1", "1.5")),
        ("nan", "'nan' is not a number; write it as 0.5"),
    ],
)
def test_a_share_that_is_none_is_refused(
    command: Command, cache: Path, share: str, reason: str
) -> None:
    answer = command("verify", "--cache", cache, "--sample", share)
    assert answer.status == 2
    assert reason in answer.err
