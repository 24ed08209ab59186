"""What lies beside images: counted, not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.stages.sources.source import open_source
from tests.helpers.containers import KINDS, pack

IMAGES = ["cat/1.jpg", "cat/2.PNG"]
COMPANIONS = [
    *("labels.csv", "notes.txt", "cat/1.json", "cat/1.xml", "README", "README.md", "LICENSE"),
    *(".DS_Store", "cat/._1.jpg", "cat/Thumbs.db", "__MACOSX/cat/1.heic", ".git/HEAD"),
]
OTHERS = ["cat/3.HEIC", "dog/1.heic", "dog/2.avif", "dog/3", "dog/4.jpg.part"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_may_be_meant_as_images_are_listed_and_others_not(
    kind: str, tmp_path: Path
) -> None:
    listing = open_source(pack(kind, tmp_path / "p", IMAGES + COMPANIONS + OTHERS)).list_files()
    assert listing.images == IMAGES
    assert listing.others == OTHERS
    assert listing.empty == []


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_without_a_file_are_listed(kind: str, tmp_path: Path) -> None:
    files = [*IMAGES, "deep/er/1.jpg", "bird/Thumbs.db", "notes/1.txt"]
    folders = ["cat", "cow", "deep", "deep/er", "deep/none", "bird", "notes", ".hidden"]
    listing = open_source(pack(kind, tmp_path / "p", files, folders=folders)).list_files()
    assert listing.empty == ["bird", "cow", "deep/none"]


def test_backslashes_are_slashes_in_an_archive_without_slashes(tmp_path: Path) -> None:
    """Zip programs on Windows have written them, and some say they are of Unix."""
    windows = pack("zip", tmp_path / "windows", ["cat\\1.jpg", "dog\\2.jpg"], folders=[])
    assert open_source(windows).list_images() == ["cat/1.jpg", "dog/2.jpg"]
    assert open_source(windows).read("cat/1.jpg") == b"cat\\1.jpg"
    mixed = pack("tar", tmp_path / "mixed", ["cat/a\\b.jpg", "cat/2.jpg"])
    assert open_source(mixed).list_images() == ["cat/2.jpg", "cat/a\\b.jpg"]


def test_backslashes_lead_no_further_than_slashes(tmp_path: Path) -> None:
    archive = pack("zip", tmp_path / "a", ["..\\..\\x.jpg", "C:\\y.jpg", "ok\\z.jpg"])
    assert open_source(archive).list_images() == ["ok/z.jpg"]


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_url_is_a_path(host: str, tmp_path: Path) -> None:
    location = pack("folder", tmp_path / "my photos", IMAGES)
    for path in (location, location.replace(" ", "%20")):
        assert open_source(f"file://{host}{path}").list_images() == IMAGES


def test_a_percent_sign_in_a_name_is_itself(tmp_path: Path) -> None:
    location = pack("folder", tmp_path / "100%20", IMAGES)
    assert open_source(f"file://{location}").root == location
