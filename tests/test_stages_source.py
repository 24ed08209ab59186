from __future__ import annotations

import hashlib
import io
import os
import pickle
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stages.archive import load_members
from stages.errors import InputError
from stages.source import FolderSource, Source, ZipSource, find_file, hash_images, open_source


def encode_digits(count: int) -> list[bytes]:
    return [encode(digit) for digit in load_digits().images[:count]]


def encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def fill(folder: Path, files: dict[str, bytes]) -> FolderSource:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return FolderSource(str(folder))


def pack(
    archive: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED
) -> ZipSource:
    with zipfile.ZipFile(archive, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return ZipSource(str(archive))


@pytest.fixture
def files() -> dict[str, bytes]:
    names = ["b/2.png", "a/1.PNG", "a/é.jpeg", "a/B.webp", "a/a b,c.tiff", "z.gif"]
    return dict(zip(names, encode_digits(len(names)), strict=True))


@pytest.fixture(params=["folder", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path, files: dict[str, bytes]) -> Source:
    noise = dict.fromkeys(
        [".hidden.png", ".git/x.png", "__MACOSX/a/1.png", "a/._1.png", "png", "notes.txt"], b"no"
    )
    if request.param == "folder":
        return fill(tmp_path / "photos", files | noise)
    return pack(tmp_path / "photos.zip", files | noise)


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
    (gone,) = source.file_keys(["a/none.png"])
    assert find_file(gone) is None


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


def test_a_missing_file_costs_no_other_its_fingerprint(source: Source) -> None:
    first, missing, again = source.fingerprints(["z.gif", "a/none.png", "z.gif"])
    assert isinstance(missing, FileNotFoundError)
    assert isinstance(first, str)
    assert first == again


def test_many_threads_read_the_right_bytes(source: Source, files: dict[str, bytes]) -> None:
    paths = list(files) * 200
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, paths)) == [files[path] for path in paths]


def test_hashes_are_sha256_in_order_and_an_unreadable_file_costs_no_other(
    source: Source, files: dict[str, bytes]
) -> None:
    paths = ["z.gif", "none.png", *source.list_images()] * 50
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
    assert ZipSource("../a.zip").file_keys(["cat/1.jpg"]) == [f"{tmp_path}/a.zip!cat/1.jpg"]


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


def test_the_archive_is_parsed_once_for_all_threads(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(10_000)})
    gate = threading.Barrier(8)

    def load(_: int) -> object:
        gate.wait()
        return load_members(archive.root)

    with ThreadPoolExecutor(8) as pool:
        members = list(pool.map(load, range(8)))
    assert all(each is members[0] for each in members)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_in_a_member_is_an_error_and_its_neighbours_are_read(
    tmp_path: Path, method: int
) -> None:
    digits = encode_digits(3)
    files = {f"{number}.png": digit for number, digit in enumerate(digits)}
    archive = pack(tmp_path / "a.zip", files, method=method)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        content[opened.getinfo("1.png").header_offset + 30 + len("1.png") + 40] ^= 0x10
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(OSError, match=r"cannot be unpacked.*a\.zip!1\.png"):
        archive.read("1.png")
    assert [archive.read("0.png"), archive.read("2.png")] == [digits[0], digits[2]]


def test_encrypted_and_oddly_packed_members_say_so(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.png": b"1" * 100}, method=zipfile.ZIP_BZIP2)
    with pytest.raises(OSError, match="unsupported compression method 12"):
        archive.read("a.png")
    pack(tmp_path / "b.zip", {"a.png": b"1" * 100})
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(OSError, match="it is encrypted"):
        ZipSource(str(tmp_path / "b.zip")).read("a.png")


def test_undeclared_utf8_and_backslashes_in_an_archive_are_understood(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("Katze/ü.png", b"1")  # declared
        info = zipfile.ZipInfo("KXXtzchen/1.png")
        opened.writestr(info, b"2")
        windows = zipfile.ZipInfo("dog\\1.png")
        windows.create_system = 0
        opened.writestr(windows, b"3")
    archive.write_bytes(archive.read_bytes().replace(b"KXXtzchen", "Kätzchen".encode()))
    source = open_source(str(archive))
    assert source.list_images() == ["Katze/ü.png", "Kätzchen/1.png", "dog/1.png"]
    assert source.read("Kätzchen/1.png") == b"2"


def test_what_lies_there_decides_the_source(tmp_path: Path) -> None:
    pack(tmp_path / "photos.data", {"a.png": b"1"})
    (tmp_path / "table.CSV").write_text("path\n")
    assert open_source(str(tmp_path)) == FolderSource(str(tmp_path))
    assert open_source(str(tmp_path / "table.CSV")) == FolderSource(str(tmp_path))
    assert open_source(str(tmp_path / "photos.data")) == ZipSource(str(tmp_path / "photos.data"))


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
