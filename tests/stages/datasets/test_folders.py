"""Folders as labels and splits, alike in every kind of source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.splits import assign_splits
from permafrost.stages.errors import InputError
from tests.helpers.containers import KINDS, pack
from tests.helpers.manifests import build_manifest

Rows = dict[str, tuple[str, str]]


def rows(manifest: Manifest) -> Rows:
    found = zip(manifest.labels, manifest.splits, strict=True)
    return dict(zip(manifest.paths, found, strict=True))


# Paths → (label, split).
LAYOUTS: dict[str, Rows] = {
    "classes": {"cat/1.png": ("cat", ""), "dog/deep/2.png": ("dog", "")},
    "a folder around classes": {
        "archive/cats/1.png": ("cats", ""),
        "archive/dogs/2.png": ("dogs", ""),
    },
    "two folders around classes": {"a/b/cat/1.png": ("cat", ""), "a/b/dog/2.png": ("dog", "")},
    "a folder around splits": {
        "archive/train/cat/1.png": ("cat", "train"),
        "archive/test/cat/2.png": ("cat", "test"),
    },
    "a folder around one split": {"archive/Training/cat/1.png": ("cat", "train")},
    "one class": {"cats/1.png": ("cats", ""), "cats/2.png": ("cats", "")},
    "one class with one folder in it": {"cats/2019/1.png": ("cats", "")},
    "one class with images beside its folders": {
        "cats/1.png": ("cats", ""),
        "cats/2019/1.png": ("cats", ""),
        "cats/2020/1.png": ("cats", ""),
    },
    "classes called like splits": {
        "plane/1.png": ("plane", ""),
        "test/1.png": ("test", ""),
        "train/1.png": ("train", ""),
    },
    "a test beside classes that has them inside": {
        "cat/1.png": ("cat", ""),
        "dog/1.png": ("dog", ""),
        "test/cat/2.png": ("cat", "test"),
    },
    "a split of no known name": {
        "holdout/cat/1.png": ("cat", "holdout"),
        "test/cat/1.png": ("cat", "test"),
        "train/cat/1.png": ("cat", "train"),
    },
    "splits of no known names alone": {
        "train2017/1.png": ("", "train2017"),
        "val2017/1.png": ("", "val2017"),
    },
    "flat splits, one of no known name": {
        "test/1.png": ("", "test"),
        "eval_set/1.png": ("", "eval_set"),
        "train/1.png": ("", "train"),
    },
    "a folder beside splits with a class of theirs inside": {
        "extra/cat/1.png": ("cat", "extra"),
        "train/cat/1.png": ("cat", "train"),
    },
    "a folder beside splits with nothing of theirs": {
        "more/1.png": ("more", ""),
        "train/cat/1.png": ("cat", "train"),
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_mean_the_same_in_every_container(layout: str, kind: str, tmp_path: Path) -> None:
    expected = LAYOUTS[layout]
    assert rows(build_manifest(pack(kind, tmp_path / "p", expected))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_taken_for_a_wrapper_is_named_and_paths_keep_it(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    location = pack(kind, tmp_path / "p", ["archive/cats/1.png", "archive/dogs/2.png"])
    assert build_manifest(location).paths == ["archive/cats/1.png", "archive/dogs/2.png"]
    (line,) = caplog.messages
    assert "the folder 'archive' holds everything, so labels and splits come" in line


def test_a_folder_of_unreadable_images_makes_a_wrapper_too(tmp_path: Path) -> None:
    paths = ["archive/cats/1.png", "archive/dogs/2.heic", "cover.psd", "docs/film.mp4"]
    assert build_manifest(pack("folder", tmp_path / "p", paths)).labels == ["cats"]


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["all/0.png", "all/cat/1.png", "all/dog/2.png"], "of one class, 'all'; .*'cat', 'dog'"),
        (
            ["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"],
            "not read as splits: 'test', 't",
        ),
        (["cat/1.png", "holdout/2.png"], "taken for classes: 'holdout'; .* --split-names holdout="),
    ],
)
def test_folders_that_may_mean_something_else_are_warned_of(
    paths: list[str], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_manifest(pack("folder", tmp_path / "p", paths))
    (line,) = caplog.messages
    assert re.search(says, line)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_like_a_split_is_refused_unless_its_split_is_said(
    kind: str, tmp_path: Path
) -> None:
    location = pack(kind, tmp_path / "p", LAYOUTS["a split of no known name"])
    with pytest.raises(InputError, match=r"1 images of .*: 'holdout' \(1\); say .* --split-names"):
        assign_splits(build_manifest(location), None)
    named = build_manifest(location, split_names="Holdout=val")
    assert assign_splits(named, None).splits == ["val", "test", "train"]
    # What is drawn anew needs no names.
    assert set(assign_splits(build_manifest(location), "test=0.3").labels) == {"cat"}


def test_any_folder_is_the_split_that_it_is_said_to_be(tmp_path: Path) -> None:
    location = pack("folder", tmp_path / "p", ["cat/1.png", "dog/2.png", "unseen/3.png"])
    assert rows(build_manifest(location, split_names="unseen=test"))["unseen/3.png"] == ("", "test")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_counted_by_suffix_and_class_and_warned_of(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ["cat/1.png", "cat/2.heic", "dog/deep/3.HEIC", "dog/4.webm", "5", "cow/6.png"]
    ignored = list_dataset(pack(kind, tmp_path / "p", paths)).ignored
    assert ignored.files == 4
    assert ignored.suffixes == {".heic": 2, ".webm": 1, "no suffix": 1}
    assert ignored.folders == {"dog": 2, "cat": 1, ".": 1}
    (line,) = caplog.messages
    assert "4 files are left out" in line
    assert ".heic (2), no suffix (1), .webm (1); in the folders dog (2)" in line
    assert "convert them to JPEG" in line


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_empty_class_folders_are_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ["train/cat/1.png", "test/cat/1.png", "train/dog/1.png"]
    folders = ["train/cat", "test/dog", "train/cow", "train/cat/deep", "val"]
    found = list_dataset(pack(kind, tmp_path / "p", paths, folders=folders))
    assert found.ignored.empty_folders == ["test/dog", "train/cow", "val"]
    assert "no classes: 'test/dog', 'train/cow', 'val'; fill or remove" in caplog.messages[0]


def test_of_many_suffixes_and_folders_only_some_are_listed(tmp_path: Path) -> None:
    paths = [f"{number:02d}/1.x{number}" for number in range(50)]
    ignored = list_dataset(pack("folder", tmp_path / "p", ["cat/1.png", *paths])).ignored
    assert (ignored.files, len(ignored.suffixes), len(ignored.folders)) == (50, 20, 20)
    assert len(ignored.describe()[0]) < 500


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_of_nothing_but_unreadable_suffixes_says_which(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match="no images in"):
        build_manifest(pack(kind, tmp_path / "p", ["cat/1.heic", "dog/2.heic"]))
    assert ".heic (2)" in caplog.messages[0]


def test_ordinary_datasets_are_listed_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        "train/cat/1.png",
        "test/cat/1.png",
        "train/cat/1.xml",
        "README.md",
        "train/labels.csv",
    ]
    build_manifest(pack("folder", tmp_path / "p", paths))
    build_manifest(pack("folder", tmp_path / "q", ["1.png", "2.png", "notes.txt"]))
    assert caplog.messages == []
