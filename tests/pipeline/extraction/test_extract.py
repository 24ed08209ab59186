"""``extract`` against plain Keras and plain h5py, however images and rows are stored."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost.cache.views.features import Features
from tests.helpers.answers import Command
from tests.helpers.extracted import break_image, predict, read_plain, read_texts
from tests.helpers.inputs import write_model, write_photos


def test_features_equal_plain_keras_and_broken_images_shift_nothing(
    extract: Command, photos: Path, backbone: Path, out: Path
) -> None:
    break_image(photos / "china/0002b.jpg")
    whole = (photos / "flower/0003.jpg").read_bytes()
    (photos / "flower/0003.jpg").write_bytes(whole[: len(whole) // 2])
    answer = extract("--batch-size", "5")
    assert (answer.figures["images"], answer.figures["failed"]) == (13, 2)
    good = [f"china/000{n}.jpg" for n in range(6)] + [f"flower/000{n}.jpg" for n in (0, 1, 2, 4, 5)]
    with h5py.File(out) as file:
        assert read_texts(file["images/path"]) == good
        assert read_texts(file["images/label"]) == [name.split("/")[0] for name in good]
        digests = [hashlib.sha256((photos / name).read_bytes()).digest() for name in good]
        assert [bytes(row) for row in file["images/digest"][()]] == digests
    files = [photos / name for name in good]
    first, last = predict(backbone, "first", files), predict(backbone, "last", files)
    assert np.allclose(read_plain(out, "first"), first, rtol=1e-4, atol=1e-5)
    assert np.allclose(read_plain(out, "last:avg"), last.mean((1, 2)), rtol=1e-4, atol=1e-5)
    with Path(f"{out}.failures.csv").open(newline="") as stream:
        failed = list(csv.DictReader(stream))
    assert [row["path"] for row in failed] == ["china/0002b.jpg", "flower/0003.jpg"]
    assert all(row["reason"] for row in failed)


def test_features_h5_has_the_documented_layout(extract: Command, photos: Path, out: Path) -> None:
    assert extract("--split", "test=0.25").status == 0
    with h5py.File(out) as file:
        images: Any = file["images"]
        assert images.attrs["root"] == str(photos)
        for name in ("path", "label", "split"):
            assert images[name].shape == (12,)
            assert h5py.check_string_dtype(images[name].dtype).encoding == "utf-8"
        assert (images["digest"].shape, images["digest"].dtype) == ((12, 32), np.uint8)
        assert sorted(set(read_texts(images["split"]))) == ["test", "train"]
        assert sorted(file["features"]) == ["first", "last:avg"]
        assert file["features/first"].shape == (12, 15, 15, 8)
        assert file["features/last:avg"].shape == (12, 16)
        for layer in file["features"].values():
            assert layer.dtype == np.float32
            assert np.isnan(layer.fillvalue)
            recipe = layer.attrs["recipe"]
            assert layer.attrs["key"] == hashlib.sha256(recipe.encode()).hexdigest()


def test_identical_runs_give_identical_bytes(
    extract: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    extract()
    written = out.read_bytes()
    time.sleep(1.1)  # HDF5's time stamps count seconds.
    # Further shards of the same feature sets are no part of this dataset's view.
    more = write_photos(tmp_path / "more", n_each=8)
    extract(images=more, out=tmp_path / "more.h5")
    extract()
    assert out.read_bytes() == written
    extract("--materialize")
    copied = out.read_bytes()
    time.sleep(1.1)
    extract("--materialize")
    assert out.read_bytes() == copied != written


def test_the_batch_size_changes_no_number(extract: Command, out: Path, tmp_path: Path) -> None:
    extract("--batch-size", "12")
    whole = read_plain(out, "first")
    extract("--batch-size", "1", cache=tmp_path / "other")
    assert np.allclose(read_plain(out, "first"), whole, rtol=1e-5, atol=1e-6)


def test_on_error_fail_stops_and_keeps_what_was_finished(extract: Command, photos: Path) -> None:
    break_image(photos / "flower/0003b.jpg")
    stopped = extract("--on-error", "fail", "--batch-size", "4")
    assert stopped.status == 3
    assert "flower/0003b.jpg" in stopped.err
    assert "--on-error skip" in stopped.err
    assert extract().figures["computed"] == 4
    assert extract("--on-error", "fail").status == 3


def test_an_image_that_vanished_after_the_manifest_is_a_failed_row(
    extract: Command, command: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.csv"
    command("index", photos, "--out", manifest)
    (photos / "china/0001.jpg").unlink()
    figures = extract("--manifest", manifest, images=None).figures
    assert (figures["computed"], figures["failed"]) == (11, 1)
    with Path(f"{out}.failures.csv").open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == ["china/0001.jpg"]
    shutil.copy(photos / "china/0000.jpg", photos / "china/0001.jpg")
    assert extract("--manifest", manifest, images=None).figures["failed"] == 0
    assert not Path(f"{out}.failures.csv").exists()


def test_rows_follow_the_manifest(
    extract: Command, photos: Path, backbone: Path, out: Path, tmp_path: Path
) -> None:
    rows = [("flower/0004.jpg", "a", "test"), ("china/0001.jpg", "", "train")]
    rows += [("flower/0000.jpg", "b", "dev"), ("flower/0004.jpg", "c", "")]
    manifest = photos / "any.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "class", "split"), *rows])
    assert extract("--manifest", manifest, images=None).figures["computed"] == 3
    with Features(out) as features:
        assert features.paths == [path for path, *_ in rows]
        assert features.labels == ["a", "", "b", "c"]
        assert features.splits == ["test", "train", "val", ""]
    expected = predict(backbone, "first", [photos / path for path, *_ in rows])
    assert np.allclose(read_plain(out, "first"), expected, rtol=1e-4, atol=1e-5)


def test_float16_refuses_what_overflows_and_names_it(extract: Command, tmp_path: Path) -> None:
    model = write_model(tmp_path / "loud.keras", scale=1e6)
    refused = extract("--dtype", "float16", model=model)
    assert refused.status == 3
    assert "china/0000.jpg" in refused.err
    assert "last:avg" in refused.err
    assert "--dtype float32" in refused.err
    assert extract("--dtype", "float32", model=model).status == 0


def test_float16_is_float32_rounded(extract: Command, out: Path, tmp_path: Path) -> None:
    extract()
    exact = read_plain(out, "first")
    extract("--dtype", "float16")
    assert np.array_equal(read_plain(out, "first"), exact.astype(np.float16))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_values_are_the_same(
    extract: Command, out: Path, tmp_path: Path, compression: str
) -> None:
    extract()
    plain = read_plain(out, "first")
    extract("--compression", compression, cache=tmp_path / "packed")
    import hdf5plugin  # noqa: F401 - registers the filters, as any reader has to

    assert np.array_equal(read_plain(out, "first"), plain)
    (shard,) = (tmp_path / "packed").glob("*/first-none/shard-*.h5")
    with h5py.File(shard) as file:
        packed = file["features"]
        assert packed.id.get_storage_size() < packed.size * packed.dtype.itemsize


def test_a_materialized_file_needs_no_cache(extract: Command, out: Path, tmp_path: Path) -> None:
    extract()
    linked = read_plain(out, "first")
    extract("--materialize")
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert np.array_equal(read_plain(out, "first"), linked)


def test_strange_names_and_labels_survive_every_step(
    extract: Command, command: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    photo = (photos / "china/0000.jpg").read_bytes()
    names = [
        'comma, "quote" and\nnewline/a,b.jpg',
        "carriage\rreturn/ä b%20%s.jpg",
        f"long/{'x' * 250}.jpg",
        os.fsdecode(b"bytes \xff\xfe/\xe9.jpg"),
        "label-less.jpg",
    ]
    odd = tmp_path / "odd %b 100%"
    for number, name in enumerate(names):
        (odd / name).parent.mkdir(parents=True, exist_ok=True)
        (odd / name).write_bytes(photo + bytes([number]))
    bad = os.fsdecode(b'bytes \xff\xfe/bad\xff,"\n.jpg')
    break_image(odd / bad)
    manifest = tmp_path / "manifest.csv"
    assert command("index", odd, "--out", manifest).status == 0
    assert extract("--manifest", manifest, images=None).figures["failed"] == 1
    with Features(out) as features:
        assert sorted(features.paths) == sorted(names)
        found = dict(zip(features.paths, features.labels, strict=True))
        assert found == {name: name.split("/")[0] if "/" in name else "" for name in names}
        assert len(features.read("first")) == len(names)
    failures = Path(f"{out}.failures.csv")
    with failures.open(newline="", errors="surrogateescape", encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [bad]


@pytest.mark.parametrize("kind", ["folders", "table"])
def test_zip_archives_are_read_in_place(
    extract: Command, photos: Path, out: Path, tmp_path: Path, kind: str
) -> None:
    extract()
    expected = read_plain(out, "first")
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in paths:
            name = path if kind == "folders" else f"images/{path.replace('/', '-')}"
            opened.write(photos / path, name)
        if kind == "table":
            rows = [f"{path.replace('/', '-')},{path[0]}" for path in paths]
            opened.writestr("train.csv", "\n".join(["filename,label", *rows]))
    figures = extract(images=archive).figures
    assert (figures["computed"], figures["reused"]) == (0, 12)
    with Features(out) as features:
        wanted = [path.split("/")[0] if kind == "folders" else path[0] for path in paths]
        assert features.labels == wanted
        assert np.array_equal(features.read("first"), expected)
    assert extract(images=archive, cache=tmp_path / "other").figures["computed"] == 12
    assert np.allclose(read_plain(out, "first"), expected, rtol=1e-5, atol=1e-6)


def test_images_that_ask_to_be_turned_are_counted_and_turned(
    extract: Command, photos: Path, out: Path
) -> None:
    upright = photos / "china/0000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    Image.open(upright).rotate(180).save(photos / "china/0000t.jpg", exif=exif, quality=95)
    assert extract("--orient", "exif").status == 0
    turned = read_plain(out, "first")
    assert extract().figures["rotated"] == 1
    ignored = read_plain(out, "first")
    assert np.abs(turned[0] - turned[1]).mean() * 5 < np.abs(ignored[0] - ignored[1]).mean()
