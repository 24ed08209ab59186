from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import pytest

from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.errors import InputError
from permafrost.stages.sources.source import open_source
from tests.helpers import packing
from tests.helpers.manifests import build_manifest


def fill(folder: Path, *paths: str) -> str:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(os.fsencode(path))
    return str(folder)


def pack(archive: Path, *paths: str, **tables: str) -> str:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in paths:
            opened.writestr(path, path)
        for name, content in tables.items():
            opened.writestr(name.replace("__", "/") + ".csv", content)
    return str(archive)


def rows(manifest: Manifest) -> dict[str, tuple[str, str]]:
    found = zip(manifest.labels, manifest.splits, strict=True)
    return dict(zip(manifest.paths, found, strict=True))


def test_class_folders_are_labels_and_loose_images_have_none(tmp_path: Path) -> None:
    location = fill(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/er/2.png", "loose.png")
    assert build_manifest(location) == Manifest(
        root=location,
        paths=["cat/1.png", "cat/deep/er/2.png", "dog/1.png", "loose.png"],
        labels=["cat", "cat", "dog", ""],
        splits=[""] * 4,
        digests=[b""] * 4,
    )


@pytest.mark.parametrize(
    ("folder", "split"),
    [("Training", "train"), ("valid", "val"), ("VALIDATION", "val"), ("testing", "test")],
)
def test_split_folders_are_splits_and_the_next_folder_is_the_label(
    tmp_path: Path, folder: str, split: str
) -> None:
    location = fill(tmp_path, "train/cat/1.png", f"{folder}/dog/deep/2.png", f"{folder}/3.png")
    assert rows(build_manifest(location)) == {
        "train/cat/1.png": ("cat", "train"),
        f"{folder}/dog/deep/2.png": ("dog", split),
        f"{folder}/3.png": ("", split),
    }


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    location = fill(tmp_path, "train/1.png", "plane/1.png", "test/1.png")
    assert rows(build_manifest(location)) == {
        "plane/1.png": ("plane", ""),
        "test/1.png": ("test", ""),
        "train/1.png": ("train", ""),
    }


def test_other_folders_beside_nested_splits_are_classes_without_split(tmp_path: Path) -> None:
    location = fill(tmp_path, "train/cat/1.png", "test/cat/2.png", "more/3.png")
    assert rows(build_manifest(location))["more/3.png"] == ("more", "")
    assert rows(build_manifest(location))["test/cat/2.png"] == ("cat", "test")


def test_flat_images_have_no_labels(tmp_path: Path) -> None:
    assert build_manifest(fill(tmp_path, "1.png", "2.png")).labels == ["", ""]


def test_an_archive_is_labelled_as_its_folder_would_be(tmp_path: Path) -> None:
    paths = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png")
    expected = rows(build_manifest(fill(tmp_path / "photos", *paths)))
    assert rows(build_manifest(pack(tmp_path / "photos.zip", *paths))) == expected
    files = {f"./{path}": b"" for path in paths}
    assert rows(build_manifest(packing.pack_tar(tmp_path / "photos.tar", files))) == expected
    assert (
        rows(build_manifest(packing.pack_url(tmp_path.name, dict.fromkeys(paths, b"")))) == expected
    )


def test_the_folder_that_wraps_an_archive_is_no_label(tmp_path: Path) -> None:
    location = pack(tmp_path / "a.zip", "photos/v1/cat/1.png", "photos/v1/dog/2.png")
    assert build_manifest(location).labels == ["cat", "dog"]
    location = pack(tmp_path / "b.zip", "photos/train/cat/1.png", "photos/train/cat/2.png")
    assert set(rows(build_manifest(location)).values()) == {("cat", "train")}
    assert build_manifest(pack(tmp_path / "c.zip", "cat/1.png")).labels == ["cat"]


def test_tables_in_an_archive_give_labels_and_by_their_names_splits(tmp_path: Path) -> None:
    location = pack(
        tmp_path / "digits.zip",
        *("images/00.png", "images/01.png", "images/02.png", "images/sub/03.png"),
        train="filename,label\n00.png,7\n02.png,1\n",
        my_Test="file,target,note\nimages/01.png,4,odd\n",
        unrelated="name,score\nx,1\n",
    )
    manifest = build_manifest(location)
    assert rows(manifest) == {
        "images/00.png": ("7", "train"),
        "images/01.png": ("4", "test"),
        "images/02.png": ("1", "train"),
        "images/sub/03.png": ("", ""),
    }
    assert manifest.extra == {"note": ["", "odd", "", ""]}


def test_a_table_in_a_tar_is_read_as_in_a_zip(tmp_path: Path) -> None:
    files = {"./images/0.png": b"0", "./images/1.png": b"1", "./t.csv": b"file,label\n1,x\n0,y\n"}
    manifest = build_manifest(packing.pack_tar(tmp_path / "a.tar", files))
    assert rows(manifest) == {"images/0.png": ("y", ""), "images/1.png": ("x", "")}


def test_paths_in_an_archives_table_are_relative_to_it(tmp_path: Path) -> None:
    location = pack(
        tmp_path / "a.zip",
        *("a/1.png", "b/1.png"),
        a__labels="path,class,split\n1.png,cat,dev\n",
        b__labels="path,class,split\n../b/1.png,dog,holdout\n",
    )
    assert rows(build_manifest(location)) == {
        "a/1.png": ("cat", "val"),
        "b/1.png": ("dog", "holdout"),
    }


def test_an_archives_table_that_names_no_image_or_several_is_an_error(tmp_path: Path) -> None:
    for name in ("9.png", "1.png"):
        location = pack(
            *(tmp_path / "a.zip", "x/1.png", "y/1.png", "x/2.png"),
            train=f"path,label\n2.png,cat\n{name},dog\n",
        )
        with pytest.raises(InputError, match=rf"1 of the 2 rows of train\.csv .* is '{name}'"):
            build_manifest(location)


def test_a_csv_keeps_its_rows_order_labels_splits_and_columns(tmp_path: Path) -> None:
    fill(tmp_path, "photos/b.png", "photos/a.png", "elsewhere/c.png")
    (tmp_path / "photos" / "t.csv").write_text(
        f"image,class,split,age\nb.png,dog,training,3\n{tmp_path}/elsewhere/c.png,cat,other,4\n"
        "a.png,,test,5\n"
    )
    manifest = build_manifest(str(tmp_path / "photos" / "t.csv"))
    assert rows(manifest) == {
        "b.png": ("dog", "train"),
        f"{tmp_path}/elsewhere/c.png": ("cat", "other"),
        "a.png": ("", "test"),
    }
    assert manifest.paths[0] == "b.png"
    assert manifest.extra == {"age": ["3", "4", "5"]}
    source = open_source(manifest.root)
    assert source.read(manifest.paths[1]) == b"elsewhere/c.png"


def test_a_written_manifest_is_a_source_again(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    manifest = build_manifest(pack(tmp_path / "a.zip", "cat/1.png", "dog/2.png"))
    write_manifest(manifest, tmp_path / "tables" / "m.csv")
    assert build_manifest(str(tmp_path / "tables" / "m.csv")) == manifest


def test_a_csv_that_names_no_file_at_all_says_how_many_and_the_first(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "dir/x.png")
    (tmp_path / "t.csv").write_text("path\nnone.png\na.png/b\ndir\n")
    with pytest.raises(InputError, match=r"3 of the 3 files .* the first is 'none\.png'"):
        build_manifest(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        (r"filename:^(cat|dog)\.", ["cat", "dog", ""]),
        (r"filename:^[a-z]+", ["cat", "dog", "wolf"]),
        (r"filename:(?:cat|dog)\.(\d)?", ["1", "", ""]),
        ("folder", ["x", "x", "y"]),
    ],
)
def test_labels_follow_the_rule(tmp_path: Path, rule: str, labels: list[str]) -> None:
    location = fill(tmp_path, "x/cat.1.jpg", "x/dog.jpg", "y/wolf.jpg")
    assert build_manifest(location, labels=rule).labels == labels


def test_a_table_labels_by_path_then_base_name_then_stem(tmp_path: Path) -> None:
    location = fill(
        tmp_path / "p", "a/1.png", "b/1.png", "b/2.png", "b/v.3.png", "b/4.png", "c/5.png"
    )
    (tmp_path / "labels.csv").write_text(
        "filename,label,split\n./a/1.png,path,train\nold/2.png,base,valid\nv.3,stem,\n"
        "4.jpg,other suffix,test\nunused.png,x,test\n1.png,ambiguous,test\n"
        "c/5.png,exact,\nd/5.png,another,\n"
    )
    manifest = build_manifest(location, labels=f"csv:{tmp_path / 'labels.csv'}")
    assert rows(manifest) == {
        "a/1.png": ("path", "train"),
        "b/1.png": ("", ""),
        "b/2.png": ("base", "val"),
        "b/4.png": ("other suffix", "test"),
        "b/v.3.png": ("stem", ""),
        "c/5.png": ("exact", ""),
    }


def test_a_table_without_splits_leaves_those_of_the_folders(tmp_path: Path) -> None:
    location = fill(tmp_path / "p", "train/1.png", "test/2.png")
    (tmp_path / "labels.csv").write_text("file,label\n1,cat\n2,dog\n")
    manifest = build_manifest(location, labels=f"csv:{tmp_path / 'labels.csv'}")
    assert rows(manifest) == {"test/2.png": ("dog", "test"), "train/1.png": ("cat", "train")}


def test_folder_labels_of_a_csv_look_through_what_its_paths_share(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "train/cat/1.png", "test/dog/2.png")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text(
        "path\n../photos/train/cat/1.png\n../photos/test/dog/2.png\n"
    )
    manifest = build_manifest(str(tmp_path / "tables" / "t.csv"), labels="folder")
    assert list(rows(manifest).values()) == [("cat", "train"), ("dog", "test")]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("folder", "finds a label for none of the 1 images"),
        ("filename:^zebra", "finds a label for none of the 1 images"),
        ("filename:(", "bad regular expression '\\('"),
        ("csv:none.csv", "cannot read 'none.csv'"),
        ("csv:https://a.b/c.csv", "labels from 'https://a.b/c.csv'; download it"),
        ("coco:s3://a/b.json", "labels from 's3://a/b.json'; download it"),
        ("colour", "unknown labels 'colour'; write folder, filename:REGEX,"),
    ],
)
def test_labels_that_fail_are_one_line(tmp_path: Path, rule: str, complaint: str) -> None:
    location = fill(tmp_path, "1.png")
    with pytest.raises(InputError, match=complaint) as caught:
        build_manifest(location, labels=rule)
    assert "\n" not in str(caught.value)


def test_a_table_without_labels_leaves_those_there_are_and_adds_its_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,age,Group\n1.png,31,ann\n2.png,54,bob\n9.png,0,\n")
    rule = f"csv:{tmp_path / 't.csv'}"
    nested = build_manifest(fill(tmp_path / "p", "f/1.png", "m/2.png", "m/3.png"), labels=rule)
    assert nested.labels == ["f", "m", "m"]
    assert nested.extra == {"age": ["31", "54", ""], "Group": ["ann", "bob", ""]}
    flat = build_manifest(fill(tmp_path / "q", "1.png", "2.png"), labels=rule)
    assert (flat.labels, flat.extra["age"]) == (["", ""], ["31", "54"])


def test_a_table_in_an_archive_that_tells_only_splits_leaves_the_folders_labels(
    tmp_path: Path,
) -> None:
    location = pack(
        *(tmp_path / "a.zip", "cat/1.png", "dog/2.png"),
        t="path,split\ncat/1.png,train\ndog/2.png,test\n",
    )
    assert list(rows(build_manifest(location)).values()) == [("cat", "train"), ("dog", "test")]


@pytest.mark.parametrize("header", ["path,label", "path,age"])
def test_a_table_that_names_none_of_the_images_says_so(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\nx.png,3\n")
    with pytest.raises(InputError, match=r"no row of '.*t\.csv' names one of the 1 images .*'1"):
        build_manifest(fill(tmp_path / "p", "1.png"), labels=f"csv:{tmp_path / 't.csv'}")


def test_a_table_for_labels_needs_paths_and_something_to_say(tmp_path: Path) -> None:
    location = fill(tmp_path / "p", "1.png")
    for header, missing in (("path,digest", "label or class or target"), ("name,label", "path or")):
        (tmp_path / "t.csv").write_text(f"{header}\n1,\n")
        with pytest.raises(InputError, match=f"has no column {missing}"):
            build_manifest(location, labels=f"csv:{tmp_path / 't.csv'}")


def test_places_without_images_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "notes", "a.txt", ".hidden.png")
    (tmp_path / "t.csv").write_text("path,label\n")
    places = [str(tmp_path / name) for name in ("empty", "notes", "t.csv")]
    for location in (*places, pack(tmp_path / "a.zip", "a.txt")):
        with pytest.raises(InputError, match="no images in") as caught:
            build_manifest(location)
        assert repr(location) in str(caught.value)


def test_odd_names_survive_from_folder_and_csv_to_manifest(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), 'a,"b"\nc.png', "d\r.png", "x" * 251 + ".png"]
    location = fill(tmp_path / "photos", *(f"cat, wild/{name}" for name in names))
    manifest = build_manifest(location)
    with (tmp_path / "photos" / "mine.csv").open(
        "w", encoding="utf-8", errors="surrogateescape", newline=""
    ) as stream:
        csv.writer(stream).writerows(
            [["path", "label"], *zip(manifest.paths, manifest.labels, strict=True)]
        )
    assert build_manifest(str(tmp_path / "photos" / "mine.csv")) == manifest
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest
    source = open_source(read_manifest(tmp_path / "m.csv").root)
    assert [source.read(path) for path in manifest.paths] == [*map(os.fsencode, manifest.paths)]
