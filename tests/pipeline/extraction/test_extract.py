"""``extract`` against plain Keras and plain h5py, and against what the cache promises."""

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

from permafrost.cache.errors import MissingShardError
from permafrost.cache.views.features import Features
from permafrost.pipeline.forward.loader import choose_ahead
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.planning.missing import choose_batch_size
from tests.helpers.answers import Command
from tests.helpers.inputs import SIZE, write_model, write_photos


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features.h5"


def predict(model_file: Path, layer: str, photos: list[Path]) -> np.ndarray:
    """Compute what plain Keras gives: load_img, the family's preprocess_input, predict."""
    import keras

    pixels = [
        keras.utils.img_to_array(
            keras.utils.load_img(photo, target_size=(SIZE, SIZE), interpolation="bilinear")
        )
        for photo in photos
    ]
    model = keras.models.load_model(model_file, compile=False)
    part = keras.Model(model.inputs, model.get_layer(layer).output)
    batch = keras.applications.mobilenet.preprocess_input(np.stack(pixels))
    activations: np.ndarray = part.predict(batch, verbose=0)
    return activations


def read_texts(dataset: h5py.Dataset) -> list[str]:
    return [text.decode() for text in dataset[()].tolist()]


def read_plain(file: Path, layer: str) -> np.ndarray:
    with h5py.File(file) as opened:
        values: np.ndarray = opened[f"features/{layer}"][()]
        return values


def find_shards(cache: Path, folder: str = "*") -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in cache.glob(f"*/{folder}/shard-*.h5")}


def break_image(file: Path, text: str = "no image") -> Path:
    file.write_text(text)
    return file


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


def test_nothing_is_computed_twice(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_image(photos / "china/bad.jpg")
    assert extract().figures["computed"] == 12
    (tmp_path / "moved").mkdir()
    renamed = photos.rename(tmp_path / "moved/elsewhere")
    shutil.copy(renamed / "china/0000.jpg", renamed / "flower/copy.jpg")
    monkeypatch.setattr(
        "permafrost.pipeline.extraction.extract.compute_missing", None
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


def test_the_batch_size_fits_the_memory() -> None:
    for memory_bytes in (10**7, 10**9, 4 * 10**9):
        for activation_bytes, kept_bytes in ((12_845_056, 2048), (12_845_056, 25_690_112)):
            n = choose_batch_size(
                activation_bytes, kept_bytes=kept_bytes, memory_bytes=memory_bytes, largest=32
            )
            assert 1 <= n <= 32
            assert n == 1 or 3 * n * (activation_bytes + kept_bytes) <= memory_bytes
    assert choose_batch_size(1, kept_bytes=1, memory_bytes=10**9, largest=32) == 32


def test_what_loads_ahead_fits_the_memory() -> None:
    run = RunOptions(workers=8, memory_bytes=100_000_000)
    assert choose_ahead(1, run) == 17
    assert choose_ahead(5_000_000, run) * 5_000_000 <= run.memory_bytes / 4
    assert choose_ahead(10**9, run) == 2
