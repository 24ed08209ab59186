"""Archives that are damaged, odd or hostile, and those that are fine."""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from permafrost.stages.errors import InputError
from permafrost.stages.sources import folder
from permafrost.stages.sources.archive import ArchiveSource, load_members
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.source import open_source
from tests.helpers import crafting
from tests.helpers.packing import encode_digits, pack_tar, pack_zip


def test_the_archive_is_parsed_once_for_all_threads(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(10_000)})
    gate = threading.Barrier(8)

    def load(_: int) -> object:
        gate.wait()
        return load_members(archive)

    with ThreadPoolExecutor(8) as pool:
        members = list(pool.map(load, range(8)))
    assert all(each is members[0] for each in members)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_in_a_member_is_an_error_and_its_neighbours_are_read(
    tmp_path: Path, method: int
) -> None:
    digits = encode_digits(3)
    files = {f"{number}.png": digit for number, digit in enumerate(digits)}
    archive = pack_zip(tmp_path / "a.zip", files, method=method)
    source = ArchiveSource(archive)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        content[opened.getinfo("1.png").header_offset + 30 + len("1.png") + 40] ^= 0x10
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(OSError, match=r"cannot be unpacked.*a\.zip!1\.png"):
        source.read("1.png")
    assert [source.read("0.png"), source.read("2.png")] == [
        digits[0],
        digits[2],
    ]


def test_encrypted_and_oddly_packed_members_say_so(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"a.png": b"1" * 100}, method=zipfile.ZIP_BZIP2)
    with pytest.raises(OSError, match="unsupported compression method 12"):
        ArchiveSource(archive).read("a.png")
    pack_zip(tmp_path / "b.zip", {"a.png": b"1" * 100})
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(OSError, match="it is encrypted"):
        ArchiveSource(str(tmp_path / "b.zip")).read("a.png")


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


def read_all(archive: str) -> dict[str, bytes]:
    source = ArchiveSource(archive)
    return {path: source.read(path) for path in source.list_images()}


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_names_that_lead_out_are_left_out_and_others_stay_inside(
    pack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inside = {"/abs/1.png": b"1", "./dot/2.png": b"2", "a//./3.png": b"3", "...4/4.png": b"4"}
    outside = ["../5.png", "a/../../6.png", "C:/7.png", "d:8.png", "/e:\\9.png"]
    if pack is pack_zip:
        outside.append("nNUL.png")  # zipfile writes no NUL
    archive = pack(tmp_path / "a", inside | dict.fromkeys(outside, b"no"))
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content.replace(b"nNUL.png", b"n\0.j.png"))
    assert read_all(archive) == {"a/3.png": b"3", "abs/1.png": b"1", "dot/2.png": b"2"}
    (record,) = caplog.records
    assert f"{len(outside)} members are left out" in record.getMessage()
    assert "the first is '../5.png'" in record.getMessage()


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_of_two_members_of_one_name_the_last_is_read(
    pack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = pack(tmp_path / "a", {"a/1.png": b"old", "2.png": b"2", "./a/1.png": b"new"})
    assert read_all(archive) == {"2.png": b"2", "a/1.png": b"new"}
    assert "1 members replace others of the same name" in caplog.text
    assert "'./a/1.png'" in caplog.text


def test_a_tar_is_read_as_tarfile_reads_it(tmp_path: Path) -> None:
    digits = encode_digits(4)
    names = ["short.png", "ü" * 110 + "/long.png", os.fsdecode(b"caf\xe9.png"), "d/e.png"]
    for number, layout in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        chosen = [name for name in names if layout != tarfile.USTAR_FORMAT or len(name) < 100]
        archive = tmp_path / f"{number}.tar"
        for name, digit in zip(chosen, digits, strict=False):
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tree" / name).write_bytes(digit)
        with tarfile.open(archive, "w", format=layout) as opened:
            for name in chosen:
                opened.add(tmp_path / "tree" / name, name)
        with tarfile.open(archive) as opened:
            expected = {name: opened.extractfile(name).read() for name in chosen}
        assert read_all(str(archive)) == expected


def test_a_tar_that_was_cut_off_between_members_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = pack_tar(tmp_path / "a.tar", {f"{n}.png": b"%d" % n for n in range(3)})
    whole = Path(archive).read_bytes()
    Path(archive).write_bytes(whole[: 3 * 1024 + 512])  # half of its end
    assert len(read_all(str(archive))) == 3
    assert not caplog.text
    Path(archive).write_bytes(whole[: 2 * 1024])
    assert len(read_all(str(archive))) == 2
    assert "has no mark of its end" in caplog.text


def test_hard_links_in_a_tar_are_their_files_and_other_links_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "1.png").write_bytes(b"one")
    os.link(tmp_path / "t" / "1.png", tmp_path / "t" / "2.png")
    (tmp_path / "t" / "3.png").symlink_to("1.png")
    os.mkfifo(tmp_path / "t" / "4.png")
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.add(tmp_path / "t", "t")
        dangling = tarfile.TarInfo("5.png")
        dangling.type, dangling.linkname = tarfile.LNKTYPE, "/etc/passwd"
        opened.addfile(dangling)
    assert read_all(str(tmp_path / "a.tar")) == {"t/1.png": b"one", "t/2.png": b"one"}
    assert "3 members are left out: links, devices or sparse files" in caplog.text


def test_a_symbolic_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
        opened.writestr("1.png", b"1")
    assert read_all(str(tmp_path / "a.zip")) == {"1.png": b"1"}


def test_sparse_members_of_a_tar_are_left_out(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse.png")
    sparse.size = 512
    sparse.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000001000\0"  # its map: 512 bytes at 0
    header[483:495] = b"00077777777\0"  # its real size: 16 MB
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + b"x" * 512 + b"\0" * 1024)
    with tarfile.open(tmp_path / "a.tar") as opened:
        assert opened.getmembers()[0].issparse()
    assert read_all(str(tmp_path / "a.tar")) == {}


@pytest.mark.parametrize(
    ("suffix", "mode", "unpacker"),
    [("tar.gz", "w:gz", "gunzip"), ("tgz", "w:gz", "gunzip"), ("tar.bz2", "w:bz2", "bunzip2"),
     ("tar.xz", "w:xz", "unxz")],
)  # fmt: skip
def test_a_compressed_tar_is_a_line_that_says_how_to_unpack_it(
    suffix: str, mode: str, unpacker: str, tmp_path: Path
) -> None:
    archive = pack_tar(tmp_path / f"a.{suffix}", {"1.png": b"1"}, mode=mode)
    with pytest.raises(InputError, match=f"cannot be read in place.*{unpacker} '.*{suffix}'$"):
        open_source(archive)


def test_a_tar_cut_off_anywhere_is_an_error_or_ends_between_members(tmp_path: Path) -> None:
    files = {"1.png": b"1" * 700, "2.png": b"2" * 10, "3.png": b"3" * 600}
    archive = tmp_path / "a.tar"
    pack_tar(archive, files)
    content = archive.read_bytes()
    ends = {1536: 1, 2560: 2}  # behind the padding of each but the last, whose end is the end
    for size_bytes in range(1, 4096, 37):
        archive.write_bytes(content[:size_bytes])
        with pytest.raises((InputError, OSError)):
            open_source(str(archive))
    for size_bytes, n_members in ends.items():
        archive.write_bytes(content[:size_bytes])
        assert len(read_all(str(archive))) == n_members


def test_a_broken_header_inside_a_tar_is_an_error_not_the_end(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    pack_tar(archive, {f"{number}.png": b"x" * 100 for number in range(5)})
    content = bytearray(archive.read_bytes())
    content[3 * 1024 + 5] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"no header at byte 3072.*there and whole"):
        open_source(str(archive))


@pytest.mark.parametrize("name", crafting.TARS)
def test_impossible_sizes_in_a_tar_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(crafting.TARS[name])
    with pytest.raises(InputError, match="no tar archive, or damaged") as caught:
        open_source(str(tmp_path / "a.tar"))
    assert "\n" not in str(caught.value)


def test_a_member_that_unpacks_to_more_than_declared_costs_what_it_declares(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "bomb.zip"
    crafting.ZIPS["unpacks to more than declared"](archive)
    source = ArchiveSource(str(archive))
    blocks = []
    with pytest.raises(OSError, match="Bad CRC-32"):
        blocks.extend(source.read_blocks("bomb.png"))
    assert sum(map(len, blocks)) <= 100
    assert source.read("1.png") == b"1"


def test_a_member_that_declares_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    pack_zip(archive, {"big.png": b"1" * 1000, "1.png": b"1"})
    crafting.declare(archive, "big.png", size=3_000_000_000)
    with pytest.raises(OSError, match="larger than 2 GB"):
        ArchiveSource(str(archive)).read("big.png")
    crafting.declare(archive, "big.png", size=1_999_999_999)
    assert ArchiveSource(str(archive)).read("big.png") == b"1" * 1000
    assert ArchiveSource(str(archive)).read("1.png") == b"1"


def test_members_that_share_their_data_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    crafting.ZIPS["runs over its neighbours"](archive)
    source = ArchiveSource(str(archive))
    with pytest.raises(OSError, match="overlap"):
        source.read("0.png")
    assert source.read("2.png") == b"\2" * 100


@pytest.mark.parametrize("suffix", ["zip", "tar", "npz"])
def test_random_damage_to_an_archive_is_an_error_of_ours_or_other_bytes(
    suffix: str, tmp_path: Path
) -> None:
    import numpy as np

    archive = tmp_path / f"a.{suffix}"
    files = {f"c/{number}.png": digit for number, digit in enumerate(encode_digits(3))}
    if suffix == "npz":
        pixels = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
        np.savez_compressed(archive, x=pixels, y=np.arange(3))
    else:
        (pack_zip if suffix == "zip" else pack_tar)(archive, files)
    content = archive.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        archive.write_bytes(damaged[: rng.integers(1, len(content) + 1)] or b"x")
        try:
            source = open_source(str(archive))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        hash_images(source, source.list_images(), workers=1)


def test_a_file_of_many_gigabytes_is_refused_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(60_000_000_000)
    with pytest.raises(OSError, match="larger than 2 GB, so not read"):
        folder.FolderSource(str(tmp_path)).read("huge.jpg")


def test_a_file_that_grows_while_it_is_read_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 5_000_000)
    (tmp_path / "growing.jpg").write_bytes(b"x")
    with (tmp_path / "growing.jpg").open("ab", buffering=0) as writer, pytest.raises(OSError):
        for _ in folder.FolderSource(str(tmp_path)).read_blocks("growing.jpg"):
            writer.write(b"x" * folder.BLOCK_BYTES)
