"""CSV files as spreadsheets and other people's tools write them."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.datasets.table import COLUMN_NAMES, read_table
from permafrost.stages.errors import InputError
from tests.helpers.manifests import build_manifest


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator_is_found(mark: str, separator: str, tmp_path: Path) -> None:
    lines = [
        ["note", "File_Name", "label"],
        ["1", "a.png", "cat"],
        ["", "b c.png", '"x, y; z\tw"'],
    ]
    text = mark + "\r\n".join(map(separator.join, lines))
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.known == {"path": ["a.png", "b c.png"], "label": ["cat", "x, y; z\tw"]}
    assert table.extra == {"note": ["1", ""]}


def test_commas_separate_where_they_do_whatever_else_a_header_holds(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "path,a;b\tc\nx;y.png,1\n"))
    assert (table.known["path"], table.extra) == (["x;y.png"], {"a;b\tc": ["1"]})
    assert read_table(write(tmp_path / "t.csv", "path\nx;y.png\n")).known["path"] == ["x;y.png"]


def test_empty_rows_and_empty_columns_of_a_spreadsheet_are_ignored(tmp_path: Path) -> None:
    text = "path,label,,\na.png,cat,,\n,,,\n , ,\nb.png,dog,,\n,,,\n\n\n"
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.known == {"path": ["a.png", "b.png"], "label": ["cat", "dog"]}
    assert table.extra == {}
    with pytest.raises(InputError, match=r"row 1 of .* has 4 fields instead of 2"):
        read_table(write(tmp_path / "t.csv", "path,label,,\na.png,cat,,note\n"))


@pytest.mark.parametrize("header", COLUMN_NAMES["path"])
def test_columns_of_paths_have_many_names(header: str, tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", f"{header.upper()},label\na.png,x\n"))
    assert table.known["path"] == ["a.png"]


def test_of_several_columns_of_paths_the_plainest_is_taken(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "id,image_id,file_name,label\n1,2,3.png,x\n"))
    assert (table.known["path"], table.extra) == (["3.png"], {"id": ["1"], "image_id": ["2"]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\na.png,Käse\n", r"column 'label' has 'K\\udce4se', which in the .* is 'Käse'"),
        ("path,größe\na.png,1\n", "is 'größe'; save the table as UTF-8"),
        ("path,label,note\na.png,x,müde\n", "column 'note' .* is 'müde'"),
        ("path;label\na.png;Ü\n", "iconv -f WINDOWS-1252 -t UTF-8"),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_what_it_may_mean(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    file = write(tmp_path / "t.csv", text.encode("latin-1"))
    for read in (read_manifest, lambda file: build_manifest(str(file))):
        with pytest.raises(InputError, match=says) as caught:
            read(file)
        assert "is not UTF-8" in str(caught.value)
        assert "encoding" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_refused_with_and_without_its_mark(encoding: str, tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "path,label\na.png,x\n".encode(encoding))
    with pytest.raises(InputError, match="is in UTF-16; save it as UTF-8"):
        read_table(file)


def test_a_path_of_any_bytes_is_read_if_there_is_such_a_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"1")
    file = write(tmp_path / "t.csv", b"path,label\ncaf\xe9.png,x\n")
    assert build_manifest(str(file)).paths == [name]
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"do not exist, .* is 'café\.png'; save the table as UTF"):
        build_manifest(str(file))


def test_what_index_wrote_may_hold_any_bytes(tmp_path: Path) -> None:
    stray = os.fsdecode(b"K\xe4se")
    manifest = Manifest(
        root=str(tmp_path),
        paths=[f"{stray}/1.png"],
        labels=[stray],
        splits=[""],
        digests=[b""],
        extra={stray: [stray]},
    )
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest


def test_labels_of_an_npz_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x=images, y=np.array([b"Kuh", "Käse".encode("latin-1")]))
    with pytest.raises(InputError, match=r"y in .* holds b'K\\xe4se', .* encoding UTF-8"):
        build_manifest(str(tmp_path / "a.npz"))


def test_arrays_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[1, 2], X_holdout=images)
    assert len(build_manifest(str(tmp_path / "a.npz"))) == 2
    assert "1 arrays are not read; the first is 'X_holdout'" in caplog.messages[0]


# Where a quote, a carriage return, an empty row or one with nothing first comes, or none of them.
@pytest.mark.parametrize("odd", ["", '"9,9.png",x,y\n', "9.png,x,y\r\n", "\n", ",,\n", " ,x,y\n"])
@pytest.mark.parametrize("n_before", [0, 7000])
def test_rows_are_those_of_the_csv_module(odd: str, n_before: int, tmp_path: Path) -> None:
    rows = [f"{number}.png,é{number % 3},note {number}\n" for number in range(8000)]
    text = "path,label,note\n" + "".join([*rows[:n_before], odd, *rows[n_before:]])
    with io.StringIO(text, newline="") as stream:
        expected = [row for row in csv.reader(stream) if any(map(str.strip, row))][1:]
    table = read_table(write(tmp_path / "t.csv", text))
    columns = (table.known["path"], table.known["label"], table.extra["note"])
    assert [list(row) for row in zip(*columns, strict=True)] == expected
    broken = write(tmp_path / "t.csv", text + '1.png,"x\n')
    with pytest.raises(InputError, match=rf"\(line {text.count(chr(10)) + 1}\)"):
        read_table(broken)


def test_rows_that_together_have_the_right_number_of_cells_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "path,label,note\na.png,x\nb.png,y,z,1\n")
    with pytest.raises(InputError, match=r"row 1 of .* has 2 fields instead of 3"):
        read_table(file)
    with pytest.raises(InputError, match=r"row 1 of .* has 1 fields instead of 3"):
        read_table(write(file, "path,label,note\na.png\nb.png\n"))


def test_a_table_in_a_zip_is_named_as_if_that_were_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        archive.writestr("lists/train.csv", "filename,label\n0.png,7\n1.png,2\n")
    table = read_table(tmp_path / "digits.zip/lists/train.csv")
    assert list(table.require("path")) == ["0.png", "1.png"]
    with pytest.raises(InputError, match=r"other.csv': there is no such file in the archive"):
        read_table(tmp_path / "digits.zip/other.csv")
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"File is not a zip file; check the path"):
        read_table(tmp_path / "broken.zip/train.csv")
