"""What the cache promises: nothing is computed twice, and nothing stale is served."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from permafrost.cache.errors import MissingShardError
from permafrost.cache.store.records import Cost, read_record
from permafrost.cache.views.features import Features
from tests.helpers.answers import Command
from tests.helpers.extracted import break_image, find_shards, predict, read_plain
from tests.helpers.inputs import write_model


def test_nothing_is_computed_twice(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_image(photos / "china/bad.jpg")
    assert extract().figures["computed"] == 12
    (tmp_path / "moved").mkdir()
    renamed = photos.rename(tmp_path / "moved/elsewhere")
    shutil.copy(renamed / "china/0000.jpg", renamed / "flower/copy.jpg")
    monkeypatch.setattr(
        "permafrost.pipeline.computing.compute.compute_missing", None
    )  # Calling it would be a bug.
    again = extract(images=renamed).figures
    assert (again["images"], again["computed"], again["reused"], again["failed"]) == (14, 0, 13, 1)
    assert again["bytes_written"] == 0


def test_only_new_and_edited_photos_are_computed(
    extract: Command, photos: Path, backbone: Path, out: Path
) -> None:
    extract()
    new = photos / "flower/0000b.jpg"
    Image.open(photos / "flower/0000.jpg").rotate(90).save(new)
    assert extract().figures["computed"] == 1
    edited = photos / "china/0001.jpg"
    Image.open(edited).rotate(180).save(edited)
    assert extract().figures["computed"] == 1
    files = sorted(photos.rglob("*.jpg"))
    expected = predict(backbone, "first", files)
    assert np.allclose(read_plain(out, "first"), expected, rtol=1e-4, atol=1e-5)


def test_what_rows_cost_is_summed_over_the_runs_that_computed_some(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    took = [extract(layers="first").figures["seconds"]]
    Image.open(photos / "flower/0000.jpg").rotate(90).save(photos / "flower/new.jpg")
    took += [extract(layers="first").figures["seconds"] for _ in range(2)]
    (folder,) = {Path(shard).parent for shard in find_shards(tmp_path / "cache")}
    cost = read_record(folder, Cost)
    assert cost is not None
    assert (cost.images, cost.runs) == (13, 2)
    parts = cost.building + cost.loading + cost.backbone + cost.disk
    assert 0 < parts <= cost.seconds <= took[0] + took[1] + 0.002


def test_an_added_layer_computes_only_that_layer(extract: Command, tmp_path: Path) -> None:
    extract(layers="first")
    before = find_shards(tmp_path / "cache")
    added = extract(layers="first,last:avg,second").figures
    assert added["computed"] == 12
    after = find_shards(tmp_path / "cache")
    assert before.items() <= after.items()
    new = after.keys() - before.keys()
    assert added["bytes_written"] == sum(Path(shard).stat().st_size for shard in new)
    assert {Path(shard).parent.name for shard in new} == {"last-avg", "second-none"}


@pytest.mark.parametrize(
    "options",
    [
        ("--resize", "nearest"),
        ("--resize-mode", "crop"),
        ("--preprocess", "torch"),
        ("--view", "hflip"),
        ("--dtype", "float16"),
        ("--orient", "exif"),
    ],
    ids=lambda options: options[0],
)
def test_what_changes_the_numbers_misses(extract: Command, options: tuple[str, str]) -> None:
    extract()
    assert extract(*options).figures["computed"] == 12
    assert extract(*options).figures["computed"] == 0
    assert extract().figures["computed"] == 0


def test_what_does_not_change_the_numbers_hits(
    extract: Command, backbone: Path, tmp_path: Path
) -> None:
    extract()
    moved = shutil.copy(backbone, tmp_path / "renamed.keras")
    for options in (
        ("--batch-size", "3"),
        ("--workers", "1"),
        ("--compression", "lz4"),
        ("--memory", "100MB"),
        ("--materialize",),
        ("--split", "test=0.5"),
    ):
        assert extract(*options, model=moved).figures["computed"] == 0, options


def test_changed_weights_and_size_miss(extract: Command, out: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "any.keras", seed=1, size=None)
    assert extract("--size", "32", model=model).figures["computed"] == 12
    small = read_plain(out, "first")
    assert extract("--size", "40x48", model=model).figures["computed"] == 12
    assert read_plain(out, "first").shape == (12, 19, 23, 8)
    write_model(model, seed=2, size=None)
    assert extract("--size", "32", model=model).figures["computed"] == 12
    assert not np.allclose(read_plain(out, "first"), small)


@pytest.mark.parametrize("harm", ["deleted", "garbage", "scrambled", "unusable"])
def test_without_its_index_the_cache_is_as_right(
    extract: Command, photos: Path, out: Path, tmp_path: Path, harm: str
) -> None:
    break_image(photos / "china/bad.jpg")
    extract()
    values, written = read_plain(out, "first"), out.read_bytes()
    index = tmp_path / "cache/index.sqlite"
    if harm == "garbage":
        index.write_bytes(b"garbage" * 1000)
    elif harm == "scrambled":
        raw = index.read_bytes()
        index.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))
    else:
        index.unlink()
        if harm == "unusable":
            index.mkdir()
    for _ in range(2):
        again = extract().figures
        assert (again["computed"], again["reused"], again["failed"]) == (0, 12, 1)
        assert out.read_bytes() == written
    assert np.array_equal(read_plain(out, "first"), values)


def test_a_scrambled_index_is_replaced(
    extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract()
    index = tmp_path / "cache/index.sqlite"
    raw = index.read_bytes()
    index.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))
    extract()
    extract()
    monkeypatch.setattr(
        "permafrost.pipeline.planning.backbone.Backbone._load", None
    )  # Calling it would be a bug.
    assert extract().figures["computed"] == 0


def test_deleted_shards_are_noticed_and_computed_again(
    extract: Command, out: Path, tmp_path: Path
) -> None:
    extract()
    values = read_plain(out, "first")
    (shard,) = find_shards(tmp_path / "cache", "first-none")
    Path(shard).unlink()
    with Features(out) as features, pytest.raises(MissingShardError, match="repeat the extract"):
        features.read("first")
    assert extract().figures["computed"] == 12
    with Features(out) as features:
        assert np.array_equal(features.read("first"), values)
