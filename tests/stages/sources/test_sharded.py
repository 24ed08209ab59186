"""Rows of WebDataset's tars, of Parquet and Arrow files, against Python's and Arrow's readers."""

import builtins
import hashlib
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.sharded.pattern import find_base, list_files
from permafrost.stages.sources.source import find_file, open_source
from permafrost.stages.sources.tar import list_tar
from tests.helpers.packing import encode_digits, fill, pack_tar
from tests.helpers.sharding import make_samples, make_table, write_arrow, write_parquet

N = 10


def write_shards(folder: Path, kind: str) -> str:
    """Write two shards of ten digits; return their pattern."""
    digits = encode_digits(N)
    for shard, rows in enumerate((slice(0, 6), slice(6, N))):
        file = folder / f"train-{shard:05d}-of-00002.{kind}"
        if kind == "tar":
            pack_tar(file, make_samples(rows.stop - rows.start, first=rows.start))
        else:
            table = make_table(digits[rows], first=rows.start)
            (write_parquet if kind == "parquet" else write_arrow)(file, table)
    return str(folder / f"train-*.{kind}")


@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow"])
def test_rows_of_shards_are_read_in_order_and_found_again_by_their_keys(
    tmp_path: Path, kind: str
) -> None:
    source = open_source(write_shards(tmp_path, kind))
    paths, digits = source.list_images(), encode_digits(N)
    assert paths == sorted(paths, key=os.fsencode)
    assert [source.read(path) for path in paths] == digits
    expected = [hashlib.sha256(digit).digest() for digit in digits]
    assert hash_images(source, paths, workers=3) == expected
    for path, key, digit in zip(paths, source.file_keys(paths), digits, strict=True):
        assert key == f"{tmp_path}/{path}".replace(f".{kind}/", f".{kind}!")
        found = find_file(key)
        assert found is not None
        assert found[0].read(found[1]) == digit
    assert len(set(map(str, source.fingerprints(paths)))) == N
    gone = [f"{paths[0]}0", "train-9.tar/0.png", "x"]
    assert all(isinstance(told, FileNotFoundError) for told in source.fingerprints(gone))
    for path in gone:
        with pytest.raises(FileNotFoundError):
            source.read(path)


@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow"])
def test_many_threads_read_shards_in_any_order(tmp_path: Path, kind: str) -> None:
    source = open_source(write_shards(tmp_path, kind))
    paths, digits = source.list_images(), encode_digits(N)
    order = [7 * row % N for row in range(20 * N)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: source.read(paths[row]) == digits[row], order))


def test_a_row_group_is_read_once_for_its_rows(tmp_path: Path, monkeypatch) -> None:
    source = open_source(write_shards(tmp_path, "parquet"))
    groups = []
    read = pa.parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        pa.parquet.ParquetFile,
        "read_row_group",
        lambda *a, **options: groups.append(a[1]) or read(*a, **options),
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.read, source.list_images()))
    assert sorted(groups) == [0, 0, 1]


def test_a_changed_shard_is_read_anew(tmp_path: Path) -> None:
    file, digits = tmp_path / "a.parquet", encode_digits(8)
    source = open_source(write_parquet(file, make_table(digits[:4])))
    before = source.fingerprints(["000000"])
    assert source.read("000000") == digits[0]
    write_parquet(file, make_table(digits[4:]))
    assert source.read("000000") == digits[4]
    assert source.fingerprints(["000000"]) != before


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path, compression: str) -> None:
    digits, file = encode_digits(N), tmp_path / "a.parquet"
    table = make_table(digits)
    write_parquet(file, table, compression=compression, write_page_checksum=True)
    content = bytearray(file.read_bytes())
    column = pa.parquet.read_metadata(file).row_group(1).column(0)
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 0x10
    file.write_bytes(content)
    source = open_source(str(file))
    read = hash_images(source, source.list_images(), workers=2)
    assert [isinstance(one, OSError) for one in read] == [4 <= row < 8 for row in range(N)]
    assert "row group 1 cannot be read" in str(read[4])


@pytest.mark.parametrize("is_file", [False, True])
def test_offsets_of_an_arrow_file_that_lead_out_of_it_cost_their_batch(
    tmp_path: Path, is_file: bool
) -> None:
    digits, file = encode_digits(N), tmp_path / "a.arrow"
    write_arrow(file, make_table(digits), is_file=is_file)
    lengths = [sum(map(len, digits[4 : 4 + n])) for n in range(5)]
    offsets = b"".join(n.to_bytes(4, "little") for n in lengths)
    content = file.read_bytes()
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:12] + b"\xff\xff\xff\x7f" + offsets[16:]))
    source = open_source(str(file))
    read = hash_images(source, source.list_images(), workers=2)
    assert [isinstance(one, OSError) for one in read] == [4 <= row < 8 for row in range(N)]


def test_rows_without_bytes_are_failures(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "a.png"}, None, {"bytes": b"x", "path": None}]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, image)})
    for source in (
        open_source(write_parquet(tmp_path / "a.parquet", table)),
        open_source(write_arrow(tmp_path / "a.arrow", table)),
    ):
        read = hash_images(source, source.list_images(), workers=1)
        assert ["holds no bytes" in str(one) for one in read] == [True, True, False]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"x" * 1000, "half"])
def test_garbage_is_one_line(tmp_path: Path, name: str, content: bytes | str) -> None:
    file = tmp_path / name
    if isinstance(content, str):
        (write_parquet if "parquet" in name else write_arrow)(file, make_table(encode_digits(N)))
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot open .*damaged") as caught:
        open_source(str(file))
    assert "\n" not in str(caught.value)


def test_tables_without_images_say_which_columns_they_have(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", pa.table({"age": [1], "name": ["x"]}))
    with pytest.raises(InputError, match=r"no column of images.*'age' \(int64\), 'name'"):
        open_source(file)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"1"]), pa.array([b"2"])], names=["image", "image"])
    with pytest.raises(InputError, match=r"two columns 'image'; rename one"):
        open_source(write_parquet(tmp_path / "a.parquet", table))


def test_of_several_columns_of_bytes_a_line_says_which_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"depth": [b"1"], "view": pa.array([b"2"], pa.binary_view())})
    source = open_source(write_arrow(tmp_path / "a.arrow", table))
    assert source.read("000000") == b"1"
    assert "'depth', 'view'; 'depth' is read" in caplog.text
    image = open_source(write_arrow(tmp_path / "b.arrow", table.rename_columns(["mask", "img"])))
    assert image.read("000000") == b"2"
    assert "'mask'" not in caplog.text


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    file = write_parquet(tmp_path / "a.parquet", make_table(encode_digits(2)))
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r'pip install "permafrost\[parquet\]"'):
        open_source(file)


def test_braces_are_expanded_as_a_shell_does(tmp_path: Path) -> None:
    names = ["x-008.tar", "x-009.tar", "x-010.tar", "b/y-1.tar", "c/y-1.tar"]
    fill(tmp_path, dict.fromkeys(names, b""))
    assert list_files(f"{tmp_path}/x-{{008..010}}.tar") == names[:3]
    assert list_files(f"{tmp_path}/{{b,c}}/y-{{1..1}}.tar") == names[3:]
    assert list_files(f"{tmp_path}/**/*-?.tar") == names[3:]
    assert find_base("a/b-{0..1}/c*.tar") == "a"
    with pytest.raises(InputError, match=r"no file .*x-011\.tar"):
        list_files(f"{tmp_path}/x-{{008..011}}.tar")
    with pytest.raises(InputError, match="no file"):
        open_source(f"{tmp_path}/z-*.tar")
    (tmp_path / "d.zip").touch()
    with pytest.raises(InputError, match="no shard that can be read"):
        open_source(f"{tmp_path}/**/*")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("time", [0, 1.5])
def test_members_of_every_form_are_where_tarfile_finds_them(
    tmp_path: Path, form: int, time: float
) -> None:
    names = ["a.jpg", f"{'d' * 90}/{'e' * 60}.jpg", "ü.jpg", "b" * 100, "z/y.jpg"]
    names += [f"{'l' * 300}.jpg"] if form != tarfile.USTAR_FORMAT else []
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", format=form) as archive:
        for number, name in enumerate([*names, "last.jpg"]):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 300 * number, time
            with (tmp_path / "content").open("wb") as stream:
                stream.write(bytes(member.size))
            with (tmp_path / "content").open("rb") as stream:
                archive.addfile(member, stream)
            member.type, member.size = tarfile.DIRTYPE, 0
            member.name = f"{number}.folder"
            archive.addfile(member)
    with tarfile.open(file) as archive:
        expected = [(one.name, one.offset_data, one.size) for one in archive if one.isreg()]
    found = [(name, span.start, span.size_bytes) for name, span in list_tar(str(file)) if span]
    assert found == expected


def test_the_digest_of_an_image_is_known_by_the_tar_and_by_the_pattern(tmp_path: Path) -> None:
    pattern = open_source(write_shards(tmp_path, "tar"))
    alone = ArchiveSource(str(tmp_path / "train-00000-of-00002.tar"))
    paths = [f"train-00000-of-00002.tar/{path}" for path in alone.list_images()]
    assert pattern.file_keys(paths) == alone.file_keys(alone.list_images())
    told = [str(one).rpartition(":seen")[0] or one for one in pattern.fingerprints(paths)]
    known = alone.fingerprints(alone.list_images())
    assert told == [str(one).rpartition(":seen")[0] or one for one in known]
