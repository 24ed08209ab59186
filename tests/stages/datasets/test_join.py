"""Rows of a table of labels, and the images that they speak of."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.splits import assign_splits
from permafrost.stages.errors import InputError
from tests.helpers.containers import KINDS, pack
from tests.helpers.manifests import build_manifest


def label(tmp_path: Path, paths: list[str], table: str, *, kind: str = "folder") -> Manifest:
    (tmp_path / "labels.csv").write_text(table)
    location = pack(kind, tmp_path / "p", paths)
    return build_manifest(location, labels=f"csv:{tmp_path / 'labels.csv'}")


def pack_table(tmp_path: Path, paths: list[str], **tables: str) -> str:
    """Make a zip of images and of tables."""
    import zipfile

    location = pack("zip", tmp_path / "p", paths)
    with zipfile.ZipFile(location, "a") as archive:
        for name, content in tables.items():
            archive.writestr(f"{name}.csv", content)
    return location


def test_repeated_rows_that_agree_keep_their_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = "path,label,split,who\n1.png,cat,test,ann\n./1.png,cat,,bob\n2.png,dog,,ann\n"
    manifest = label(tmp_path, ["1.png", "2.png"], table)
    assert (manifest.labels, manifest.splits) == (["cat", "dog"], ["test", ""])
    assert manifest.extra == {"who": ["", "ann"]}
    assert ["disagree about their who" in line for line in caplog.messages] == [True]


def test_repeated_rows_that_disagree_say_nothing_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = "path,label,age\n1.png,cat,7\n1.png,dog,7\n2.png,dog,8\n"
    manifest = label(tmp_path, ["1.png", "2.png"], table)
    assert (manifest.labels, manifest.extra) == (["", "dog"], {"age": ["7", "8"]})
    assert "the rows of 1 images disagree about their label" in caplog.messages[0]
    assert "the first is '1.png'" in caplog.messages[0]


def test_repeated_rows_in_an_archives_table_must_agree(tmp_path: Path) -> None:
    agreeing = pack_table(tmp_path, ["1.png", "2.png"], a="file,label\n1,x\n1,x\n2,y\n")
    assert build_manifest(agreeing).labels == ["x", "y"]
    for tables in (
        {"a": "file,label\n1,x\n1,y\n"},
        {"train": "file,label\n1.png,x\n", "test": "file,label\n1.png,x\n"},
    ):
        with pytest.raises(InputError, match=r"'1.*' several (label|split)s; correct the CSV"):
            build_manifest(pack_table(tmp_path, ["1.png", "2.png"], **tables))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_find_images_however_their_names_are_written(kind: str, tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Käse/é.png")
    composed = unicodedata.normalize("NFC", apart)
    table = f"image_id,label\n{composed},a\ncat\\1.png,b\ndog\\2,c\n"
    manifest = label(tmp_path, [apart, "cat/1.png", "dog/2.png", "x/1.png"], table, kind=kind)
    assert dict(zip(manifest.paths, manifest.labels, strict=True)) == {
        apart: "a",
        "cat/1.png": "b",
        "dog/2.png": "c",
        "x/1.png": "",
    }


def test_rows_and_images_that_find_no_other_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(tmp_path, ["1.png", "2.png", "3.png"], "id,label\n1,cat\n7,dog\n8,dog\n")
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "2 of the 3 rows name no image, or several, and are left out; the first is '7'",
        "2 of the 3 images have no label, so that no head is fitted on them; the first is '2.png'",
    ]


@pytest.mark.parametrize("header", ["set", "Subset", "partition"])
def test_a_column_of_splits_under_another_name_is_warned_of(
    header: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = f"path,label,{header}\n1.png,a,train\n2.png,b,Holdout\n"
    assert label(tmp_path, ["1.png", "2.png"], table).splits == ["", ""]
    (line,) = caplog.messages
    assert f"the column {header!r} looks like one of splits ('holdout', 'train')" in line


def test_labels_that_only_look_alike_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apart = unicodedata.normalize("NFD", "Käse")
    labels = ["Cat", "cat", "cat ", "hot dog", "hot  dog", "Käse", apart, "cow"]
    rows = [f"{row}.png,{name}\n" for row, name in enumerate(labels)]
    found = label(tmp_path, [f"{row}.png" for row in range(8)], "path,label\n" + "".join(rows))
    assert found.labels == labels
    assert "4 labels differ from others only by blanks, case" in caplog.messages[0]
    assert "'Ka\\u0308se' and 'K\\xe4se', for example" in caplog.messages[0]


def test_a_table_of_class_numbers_in_an_archive_is_about_no_images(tmp_path: Path) -> None:
    location = pack_table(tmp_path, ["cat/a.png", "dog/b.png"], classes="id,label\n0,cat\n1,dog\n")
    assert build_manifest(location).labels == ["cat", "dog"]
    ids = pack_table(tmp_path, ["all/a.png", "all/b.png"], t="id,label\na,cat\nb,dog\n")
    assert build_manifest(ids).labels == ["cat", "dog"]


def test_an_archives_table_that_is_not_utf8_is_refused_if_it_is_about_images(
    tmp_path: Path,
) -> None:
    import zipfile

    location = pack("zip", tmp_path / "p", ["cat/1.png", "dog/2.png"])
    with zipfile.ZipFile(location, "a") as archive:
        archive.writestr("notes.csv", "name,text\nx,Käse\n".encode("latin-1"))
    assert build_manifest(location).labels == ["cat", "dog"]
    with zipfile.ZipFile(location, "a") as archive:
        archive.writestr("labels.csv", "file,label\n1.png,Käse\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"'labels\.csv' is not UTF-8: .* is 'Käse'"):
        build_manifest(location)


@pytest.mark.parametrize("name", ["holdout", "hold-out", "my_eval"])
def test_a_csv_called_like_a_split_of_no_known_name_is_not_trained_on(
    name: str, tmp_path: Path
) -> None:
    tables = {"train": "file,label\n1,x\n", name: "file,label\n2,y\n"}
    location = pack_table(tmp_path, ["i/1.png", "i/2.png"], **tables)
    with pytest.raises(InputError, match=r"1 images .* of no known name: '(holdout|eval)' \(1\)"):
        assign_splits(build_manifest(location), None)
    said = "holdout=test,eval=test"
    assert build_manifest(location, split_names=said).splits == ["train", "test"]


def test_the_only_csv_may_be_called_evaluation(tmp_path: Path) -> None:
    location = pack_table(tmp_path, ["1.png", "2.png"], evaluation="file,label\n1,x\n2,y\n")
    assert build_manifest(location).splits == ["", ""]
    assert build_manifest(location, split_names="evaluation=test").splits == ["test", "test"]


def test_rows_of_a_csv_find_their_files_and_missing_ones_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apart = unicodedata.normalize("NFD", "Käse.png")
    pack("folder", tmp_path / "my p", ["cat/1.png", apart, "cat/3.png"])
    names = ["cat\\1", "gone.png", unicodedata.normalize("NFC", apart), "Cat/3.png"]
    names.append((tmp_path / "my p/cat/3.png").as_uri())
    table = tmp_path / "my p/t.csv"
    table.write_text("filepath;label\n" + "".join(f"{name};x\n" for name in names))
    found = list_dataset(str(table))
    absolute = f"{tmp_path}/my p/cat/3.png"
    assert found.manifest.paths == ["cat/1.png", "gone.png", apart, "Cat/3.png", absolute]
    assert found.missing == {"gone.png": "", "Cat/3.png": " (there is 'cat/3.png')"}
    (line,) = caplog.messages
    assert "2 of the 5 files named in" in line
    assert "the first is 'gone.png'; paths are relative to" in line


def test_a_csv_whose_files_are_all_missing_is_refused_with_the_nearest(tmp_path: Path) -> None:
    pack("folder", tmp_path / "p", ["cat/1.png"])
    (tmp_path / "p/t.csv").write_text("path\nCAT/1.png\n")
    with pytest.raises(InputError, match=r"1 of the 1 files .* 'CAT/1.png' \(there is 'cat/1.png'"):
        build_manifest(str(tmp_path / "p/t.csv"))
