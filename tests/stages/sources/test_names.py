"""Names written on another system, or without a suffix."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from permafrost.stages.sources.names import find_names
from permafrost.stages.sources.source import open_source
from tests.helpers.containers import KINDS, pack

COMPOSED = unicodedata.normalize("NFC", "Käse/é.jpg")
APART = unicodedata.normalize("NFD", COMPOSED)
FILES = [APART, "cat/1.jpg", "cat/v.2.png", "dog/3.jpg", "dog/3.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "path"),
    [
        (COMPOSED, APART),
        (COMPOSED.removesuffix(".jpg"), APART),
        (COMPOSED.replace("/", "\\"), APART),
        ("cat\\1.jpg", "cat/1.jpg"),
        (".\\cat\\1", "cat/1.jpg"),
        ("cat/1", "cat/1.jpg"),
        ("./cat//v.2", "cat/v.2.png"),
    ],
)
def test_a_name_that_means_one_file_finds_it(
    kind: str, name: str, path: str, tmp_path: Path
) -> None:
    source = open_source(pack(kind, tmp_path / "p", FILES))
    found = find_names(source, [name]).found
    assert found == {name: path}
    assert source.read(found[name]) == path.encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Cat/1.JPG", "cat/1.jpg"),
        ("cat/1.png", "cat/1.jpg"),
        ("dog/3", "dog/3.jpg"),
        ("cat/9.jpg", None),
        ("cow/1.jpg", None),
        ("", None),
        ("cat\0/1.jpg", None),
    ],
)
def test_a_name_that_only_may_mean_a_file_is_told_but_not_taken(
    kind: str, name: str, near: str | None, tmp_path: Path
) -> None:
    found = find_names(open_source(pack(kind, tmp_path / "p", FILES)), [name])
    assert found.found == {}
    assert found.near.get(name) == near


def test_absolute_names_and_names_outside_are_found(tmp_path: Path) -> None:
    source = open_source(pack("folder", tmp_path / "p", ["1.jpg"]))
    pack("folder", tmp_path / "q", ["2.jpg"])
    names = [f"{tmp_path}/q/2", "../q/2"]
    assert find_names(source, names).found == dict(
        zip(names, [f"{tmp_path}/q/2.jpg", "../q/2.jpg"], strict=True)
    )
