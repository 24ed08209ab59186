from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource
from permafrost.stages.sources.folder import FolderSource
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.remote import RemoteSource
from permafrost.stages.sources.source import Source, find_file, open_source
from tests.helpers import packing
from tests.helpers.packing import encode_digits
from tests.helpers.serving import serve_bucket, serve_folder


def fill(folder: Path, files: dict[str, bytes]) -> FolderSource:
    return FolderSource(packing.fill(folder, files))


def pack(
    archive: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED
) -> ArchiveSource:
    return ArchiveSource(packing.pack_zip(archive, files, method=method))


@pytest.fixture
def files() -> dict[str, bytes]:
    names = ["b/2.png", "a/1.PNG", "a/é.jpeg", "a/B.webp", "a/a b,c.tiff", "z.gif"]
    return dict(zip(names, encode_digits(len(names)), strict=True))


@pytest.fixture(params=["folder", "zip", "tar", "memory", "http", "s3"])
def source(
    request: pytest.FixtureRequest, tmp_path: Path, files: dict[str, bytes]
) -> Iterator[Source]:
    noise = dict.fromkeys(
        [".hidden.png", ".git/x.png", "__MACOSX/a/1.png", "a/._1.png", "png", "notes.txt"], b"no"
    )
    files = files | noise
    pack_it: dict[str, Callable[[], str | AbstractContextManager[str]]] = {
        "folder": lambda: packing.fill(tmp_path / "photos", files),
        "zip": lambda: packing.pack_zip(tmp_path / "photos.zip", files),
        "tar": lambda: packing.pack_tar(tmp_path / "photos.tar", files),
        "memory": lambda: packing.pack_url(tmp_path.name, files),
        "http": lambda: serve_folder(Path(packing.fill(tmp_path / "photos", files))),
        "s3": lambda: serve_bucket(files),
    }
    packed = pack_it[request.param]()
    with nullcontext(packed) if isinstance(packed, str) else packed as location:
        yield open_source(location)


def test_images_are_listed_by_suffix_in_the_order_of_their_bytes(source: Source) -> None:
    expected = ["a/1.PNG", "a/B.webp", "a/a b,c.tiff", "a/é.jpeg", "b/2.png", "z.gif"]
    assert source.list_images() == expected


def test_every_listed_image_is_read_back_byte_for_byte(
    source: Source, files: dict[str, bytes]
) -> None:
    assert {path: source.read(path) for path in source.list_images()} == files


def test_a_pickled_source_reads_the_same(source: Source, files: dict[str, bytes]) -> None:
    travelled = pickle.loads(pickle.dumps(source))
    assert travelled == source
    assert travelled.read("b/2.png") == files["b/2.png"]


def test_a_key_finds_its_file_again_as_long_as_it_is_there(
    source: Source, files: dict[str, bytes]
) -> None:
    paths = source.list_images()
    for path, key in zip(paths, source.file_keys(paths), strict=True):
        found = find_file(key)
        assert found is not None
        assert found[0].read(found[1]) == files[path]
        assert found[0].file_keys([found[1]]) == [key]
    found = find_file(*source.file_keys(["a/none.png"]))
    if found is not None:  # a server is not asked before the file is read
        with pytest.raises(FileNotFoundError):
            found[0].read(found[1])


def test_exclamation_marks_in_names_mislead_no_key(tmp_path: Path) -> None:
    fill(tmp_path / "wow!", {"a.zip!b.png": b"1"})
    archive = pack(tmp_path / "wow!" / "a.zip", {"c!d.png": b"2"})
    sources = [(FolderSource(str(tmp_path / "wow!")), "a.zip!b.png"), (archive, "c!d.png")]
    for source, path in sources:
        found = find_file(*source.file_keys([path]))
        assert found is not None
        assert found[0].read(found[1]) == source.read(path)


def test_a_missing_file_raises_file_not_found(source: Source) -> None:
    with pytest.raises(FileNotFoundError):
        source.read("a/none.png")


@pytest.mark.usefixtures("settled")
def test_a_missing_file_costs_no_other_its_fingerprint(source: Source) -> None:
    first, missing, again = source.fingerprints(["z.gif", "a/none.png", "z.gif"])
    assert isinstance(missing, FileNotFoundError)
    assert isinstance(first, str)
    assert first == again


def test_many_threads_read_the_right_bytes(source: Source, files: dict[str, bytes]) -> None:
    paths = list(files) * (20 if isinstance(source, RemoteSource) else 200)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, paths)) == [files[path] for path in paths]


def test_hashes_are_sha256_in_order_and_an_unreadable_file_costs_no_other(
    source: Source, files: dict[str, bytes]
) -> None:
    paths = ["z.gif", "none.png", *source.list_images()] * (
        2 if isinstance(source, RemoteSource) else 50
    )
    digests = hash_images(source, paths, workers=3)
    assert len(digests) == len(paths)
    for path, digest in zip(paths, digests, strict=True):
        if path == "none.png":
            assert isinstance(digest, FileNotFoundError)
        else:
            assert digest == hashlib.sha256(files[path]).digest()


def test_files_larger_than_a_block_are_hashed_whole(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_500_000)
    folder, archive = (
        fill(tmp_path / "f", {"a.png": content}),
        pack(tmp_path / "a.zip", {"a.png": content}),
    )
    assert max(map(len, folder.read_blocks("a.png"))) < len(content)
    assert max(map(len, archive.read_blocks("a.png"))) < len(content)
    expected = [hashlib.sha256(content).digest()]
    assert hash_images(folder, ["a.png"], workers=1) == expected
    assert hash_images(archive, ["a.png"], workers=1) == expected


def test_file_keys_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert FolderSource("../photos").file_keys(["cat/1.jpg"]) == [f"{tmp_path}/photos/cat/1.jpg"]
    assert ArchiveSource("../a.zip").file_keys(["cat/1.jpg"]) == [f"{tmp_path}/a.zip!cat/1.jpg"]


def test_however_a_file_is_named_its_key_is_the_same() -> None:
    names = ["a/b.png", "./a/b.png", "a//b.png", "x/../a/b.png", "../p/a/b.png", "/p/a/b.png"]
    for root in ("/p", "/p/", "/q/../p"):
        assert set(FolderSource(root).file_keys(names)) == {"/p/a/b.png"}
    odd = ["", "..", ".hidden/b.png", "...", "a/", "ü/b c.png", "a\\b.png"]
    expected = ["/p", "/", "/p/.hidden/b.png", "/p/...", "/p/a", "/p/ü/b c.png", "/p/a\\b.png"]
    assert FolderSource("/p").file_keys(odd) == expected
    assert FolderSource("/").file_keys(["a.png", "../a.png"]) == ["/a.png"] * 2


def test_an_edit_changes_the_fingerprint_even_at_equal_size(tmp_path: Path) -> None:
    folder = fill(tmp_path, {"a.png": b"one"})
    before = folder.fingerprints(["a.png"])
    status = (tmp_path / "a.png").stat()
    (tmp_path / "a.png").write_bytes(b"two")
    os.utime(tmp_path / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert folder.fingerprints(["a.png"]) != before


def test_a_rewritten_archive_is_parsed_anew(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.png": b"one"})
    before = archive.fingerprints(["a.png"])
    pack(tmp_path / "a.zip", {"a.png": b"other", "b.png": b"two"})
    assert archive.list_images() == ["a.png", "b.png"]
    assert archive.read("a.png") == b"other"
    assert archive.fingerprints(["a.png"]) != before


def test_names_that_are_not_utf8_or_very_long_are_listed_and_read(tmp_path: Path) -> None:
    latin, stray = os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"\x80.png")
    names = [latin, "new\nline.png", 'quo"te.png', "x" * 251 + ".png", stray, "日.png"]
    folder = fill(tmp_path, {name: os.fsencode(name) for name in names})
    assert folder.list_images() == names
    assert [folder.read(name) for name in names] == [os.fsencode(name) for name in names]


def test_a_pipe_or_folder_named_like_an_image_is_an_error_not_a_wait(tmp_path: Path) -> None:
    folder = fill(tmp_path, {"dir.jpg/inside.png": b"1"})
    os.mkfifo(tmp_path / "pipe.jpg")
    assert folder.list_images() == ["dir.jpg/inside.png", "pipe.jpg"]
    for path in ("pipe.jpg", "dir.jpg", "nul\0.jpg"):
        with pytest.raises(OSError):
            folder.read(path)
        assert isinstance(*folder.fingerprints([path]), OSError)


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", {"cat/1.png": b"1"})
    fill(tmp_path / "elsewhere", {"2.png": b"2"})
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "kitten").symlink_to("cat")
    (tmp_path / "photos" / "cat" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "itself.png").symlink_to("itself.png")
    assert folder.list_images() == ["cat/1.png", "dog/2.png", "itself.png", "kitten/1.png"]
    assert isinstance(hash_images(folder, ["itself.png"], workers=1)[0], OSError)


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_missing_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # deeper than the 4,096 bytes that a path may have
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    with pytest.raises(InputError, match="File name too long; make it readable"):
        FolderSource(str(tmp_path)).list_images()


def test_what_lies_there_decides_the_source(tmp_path: Path) -> None:
    pack(tmp_path / "photos.data", {"a.png": b"1"})
    (tmp_path / "table.CSV").write_text("path\n")
    assert open_source(str(tmp_path)) == FolderSource(str(tmp_path))
    assert open_source(str(tmp_path / "table.CSV")) == FolderSource(str(tmp_path))
    assert open_source(str(tmp_path / "photos.data")) == ArchiveSource(
        str(tmp_path / "photos.data")
    )


def test_an_unusable_location_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    pack(tmp_path / "cut.zip", {"a.png": b"1" * 1000})
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("none", "cut.zip", "notes.txt", "pipe.csv", "nul\0"):
        with pytest.raises(InputError) as caught:
            open_source(str(tmp_path / name))
        text = str(caught.value)
        assert repr(str(tmp_path / name)) in text
        assert "name a folder" in text
        assert "\n" not in text
