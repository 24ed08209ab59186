"""Hashing: once for each file, whatever happens between."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from permafrost.cache.store.index import Index
from permafrost.pipeline.options import DatasetOptions
from permafrost.pipeline.planning import hashing
from permafrost.pipeline.planning.backbone import hash_path
from permafrost.pipeline.planning.dataset import open_dataset
from permafrost.stages.datasets.manifest import read_manifest, write_manifest
from permafrost.stages.errors import InputError
from permafrost.stages.sources.folder import FolderSource
from tests.helpers.answers import Command

N_FILES = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(N_FILES):
        (tmp_path / f"images/{number:02d}.png").write_bytes(b"%d" % number)
    return tmp_path / "images"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths that are read from now on."""
    paths: list[str] = []
    original: Callable[[FolderSource, str], Iterator[bytes]] = FolderSource.read_blocks

    def note(self: FolderSource, path: str) -> Iterator[bytes]:
        paths.append(path)
        return original(self, path)

    monkeypatch.setattr(FolderSource, "read_blocks", note)
    return paths


def hash_all(folder: Path, index_file: Path) -> list[bytes]:
    with Index(index_file) as index:
        options = DatasetOptions(images=str(folder))
        return open_dataset(options, index, workers=2).manifest.digests


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_suffix(".moved"))
    other.rename(one)
    one.with_suffix(".moved").rename(other)


@pytest.mark.usefixtures("settled")
def test_only_what_is_new_or_edited_is_hashed(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    expected = [hashlib.sha256(b"%d" % number).digest() for number in range(N_FILES)]
    assert hash_all(folder, tmp_path / "index") == expected
    assert sorted(read) == [f"{number:02d}.png" for number in range(N_FILES)]
    read.clear()
    assert hash_all(folder, tmp_path / "index") == expected
    assert read == []
    (folder / "03.png").write_bytes(b"edited")
    (folder / "zz.png").write_bytes(b"new")
    hash_all(folder, tmp_path / "index")
    assert sorted(read) == ["03.png", "zz.png"]


@pytest.mark.usefixtures("settled")
def test_an_interrupted_run_hashes_nothing_again(
    folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_FILES_PER_BATCH", 8)
    original = hashing.hash_images

    def stop(source: FolderSource, paths: list[str], *, workers: int) -> list[bytes | OSError]:
        if "10.png" in paths:
            raise KeyboardInterrupt
        return original(source, paths, workers=workers)

    with monkeypatch.context() as patch:
        patch.setattr(hashing, "hash_images", stop)
        with pytest.raises(KeyboardInterrupt):
            hash_all(folder, tmp_path / "index")
    assert len(read) == 8
    read.clear()
    hash_all(folder, tmp_path / "index")
    assert len(read) == N_FILES - 8


def write_csv_of(folder: Path, *names: str) -> Path:
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label", *(f"{name},a" for name in names), ""]))
    return table


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths whose files the system is asked about from now on."""
    paths: list[str] = []
    original = FolderSource.fingerprints

    def note(self: FolderSource, some: list[str]) -> list[str | OSError]:
        paths.extend(some)
        return original(self, some)

    monkeypatch.setattr(FolderSource, "fingerprints", note)
    return paths


@pytest.mark.parametrize("option", ["images", "manifest"])
def test_the_files_of_a_table_are_asked_about_once_and_other_names_only_for_what_is_missing(
    folder: Path, asked: list[str], option: str
) -> None:
    names = ["03.png", "02.png", "04", "none.png", "./01.png", "01.png"]
    options = DatasetOptions(**{option: write_csv_of(folder, *names)})
    found = open_dataset(options, None, workers=2)
    assert sorted(asked) == sorted([*names, "04.png"])
    assert found.manifest.paths == ["03.png", "02.png", "04.png", *names[3:]]
    numbers = [b"3", b"2", b"4", b"", b"1", b"1"]
    assert found.manifest.digests == [
        hashlib.sha256(number).digest() if number else b"" for number in numbers
    ]
    assert found.unreadable == {"none.png": "no such file or directory"}


def test_labels_of_a_table_that_cannot_be_had_are_refused_before_anything_is_hashed(
    folder: Path, read: list[str]
) -> None:
    options = DatasetOptions(images=str(write_csv_of(folder, "01.png")), labels="filename:(")
    with pytest.raises(InputError, match="bad regular expression"):
        open_dataset(options, None, workers=2)
    assert read == []


@pytest.mark.usefixtures("settled")
def test_two_files_of_one_size_and_time_that_change_places_are_hashed_again(
    folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        os.utime(file, (1_000_000, 1_000_000))
    before = hash_all(folder, tmp_path / "index")
    swap(folder / "10.png", folder / "11.png")
    after = hash_all(folder, tmp_path / "index")
    assert [after[10], after[11]] == [before[11], before[10]]
    assert after != before


@pytest.mark.usefixtures("settled")
def test_an_edit_in_place_that_keeps_size_and_time_is_hashed_again(
    folder: Path, tmp_path: Path
) -> None:
    hash_all(folder, tmp_path / "index")
    photo = folder / "10.png"
    times = photo.stat().st_atime_ns, photo.stat().st_mtime_ns
    time.sleep(0.05)  # some steps of the clock
    photo.write_bytes(b"xx")
    os.utime(photo, ns=times)
    assert hash_all(folder, tmp_path / "index")[10] == hashlib.sha256(b"xx").digest()


@pytest.mark.usefixtures("settled")
def test_two_archives_of_one_size_and_time_that_change_places_are_hashed_again(
    tmp_path: Path,
) -> None:
    for name, content in (("a", b"one"), ("b", b"two")):
        member = tarfile.TarInfo("photo.png")
        member.size = len(content)
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.addfile(member, io.BytesIO(content))
        os.utime(tmp_path / f"{name}.tar", (1_000_000, 1_000_000))
    archive_a = tmp_path / "a.tar"
    assert hash_all(archive_a, tmp_path / "index") == [hashlib.sha256(b"one").digest()]
    swap(archive_a, tmp_path / "b.tar")
    assert hash_all(archive_a, tmp_path / "index") == [hashlib.sha256(b"two").digest()]


@pytest.mark.usefixtures("settled")
def test_two_weights_files_of_one_size_and_time_that_change_places_are_hashed_again(
    folder: Path, tmp_path: Path
) -> None:
    """Weights of one architecture always have one size."""
    files = [folder / "10.png", folder / "11.png"]
    for file in files:
        os.utime(file, (1_000_000, 1_000_000))
    with Index(tmp_path / "index") as index:
        before = [hash_path(file, index) for file in files]
        swap(*files)
        assert [hash_path(file, index) for file in files] == before[::-1]


def test_a_file_that_was_just_written_is_hashed_again_by_the_next_run(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    """Within one step of the file system's clock nothing else tells a second edit."""
    hash_all(folder, tmp_path / "index")
    read.clear()
    hash_all(folder, tmp_path / "index")
    assert len(read) == N_FILES


def test_a_file_named_twice_is_hashed_once_and_a_missing_one_costs_no_other(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    names = ["00.png", "gone.png", "./00.png", "01.png"]
    (tmp_path / "list.csv").write_text("path,root\n" + "".join(f"{n},images\n" for n in names))
    with Index() as index:
        options = DatasetOptions(manifest=tmp_path / "list.csv")
        found = open_dataset(options, index, workers=2)
    zero, one = (hashlib.sha256(text).digest() for text in (b"0", b"1"))
    assert found.manifest.digests == [zero, b"", zero, one]
    assert list(found.unreadable) == ["gone.png"]
    assert len(read) == 2


def test_the_bytes_decide_and_not_the_digests_of_a_manifest(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "manifest.csv"
    write_manifest(open_dataset(DatasetOptions(images=str(folder)), None, workers=1).manifest, file)
    (folder / "05.png").write_bytes(b"edited")
    digests = open_dataset(DatasetOptions(manifest=file), None, workers=1).manifest.digests
    assert digests[5] == hashlib.sha256(b"edited").digest() != read_manifest(file).digests[5]
    assert caplog.messages == ["1 images changed since the manifest was written"]


@pytest.mark.usefixtures("settled")
def garble_digest(index_file: Path, key: str, digest: bytes) -> None:
    with sqlite3.connect(index_file) as index:
        wrong = (digest, key)
        assert index.execute("UPDATE files SET digest = ? WHERE key = ?", wrong).rowcount == 1
    index.close()


@pytest.mark.usefixtures("settled")
def test_zeros_in_the_index_are_no_digest(folder: Path, tmp_path: Path, read: list[str]) -> None:
    expected = hash_all(folder, tmp_path / "index")
    garble_digest(tmp_path / "index", str(folder / "03.png"), bytes(32))
    read.clear()
    assert hash_all(folder, tmp_path / "index") == expected
    assert read == ["03.png"]


@pytest.mark.usefixtures("settled")
def test_a_wrong_digest_in_the_index_costs_one_run_and_is_forgotten(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    """As after a flipped bit."""
    extract("--on-error", "fail", layers="first")
    garble_digest(tmp_path / "cache/index.sqlite", str(photos / "china/0003.jpg"), b"\1" * 32)
    refused = extract(layers="second").figures
    assert (refused["failed"], refused["computed"]) == (1, 11)
    mended = extract(layers="second").figures
    assert (mended["failed"], mended["computed"]) == (0, 1)
