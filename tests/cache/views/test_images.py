"""Columns of a view: any name, any text, little room."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import NotAViewError
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.views.features import Features
from tests.helpers.conv_layer import make_digests, make_rows, write_shard, write_whole_view

COLUMNS = {
    "age": ["31", "", "54"],
    "": ["no", "name", ""],
    ".": ["a", "b", "c"],
    "..": ["d", "e", "f"],
    "a/b/../c": ["Größe", "x" * 10_000, "\udce9"],
    "%2F": ["1", "2", "3"],
    "Größe, cm\udce9": ["", "", ""],
    "Label": ["other", "than", "label"],
}


def test_columns_under_any_name_are_kept(tmp_path: Path, layout: CacheLayout, index: Index) -> None:
    digests = make_digests(3)
    write_shard(layout, digests, make_rows(3))
    write_whole_view(tmp_path / "f.h5", layout, index, digests, columns=COLUMNS)
    with Features(tmp_path / "f.h5") as features:
        assert features.columns == sorted(COLUMNS)
        assert {name: features.column(name) for name in features.columns} == COLUMNS
        assert features.column("label") == features.column("path") == features.paths
        assert features.column("split") == ["", "", ""]
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["images/columns/age"].asstr()[()].tolist() == COLUMNS["age"]
        assert file["images/columns/a%2Fb%2F..%2Fc"].asstr()[0] == "Größe"


def test_an_unknown_column_names_those_that_exist(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(2)
    write_shard(layout, digests, make_rows(2))
    write_whole_view(tmp_path / "f.h5", layout, index, digests)
    with Features(tmp_path / "f.h5") as features:
        assert features.columns == []
        with pytest.raises(
            NotAViewError, match="no column 'age'; it has: 'path', 'label', 'split'"
        ):
            features.column("age")


def test_the_order_of_the_columns_changes_no_byte(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(3)
    write_shard(layout, digests, make_rows(3))
    contents = []
    for columns in (COLUMNS, dict(reversed(COLUMNS.items()))):
        write_whole_view(tmp_path / "f.h5", layout, index, digests, columns=columns)
        contents.append((tmp_path / "f.h5").read_bytes())
    assert contents[0] == contents[1]


def test_images_are_found_from_any_folder_and_after_a_move(
    tmp_path: Path, layout: CacheLayout, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = make_digests(3)
    write_shard(layout, digests, make_rows(3))
    old, elsewhere = tmp_path / "old", tmp_path / "elsewhere"
    for folder in (old / "project" / "photos", old / "runs", elsewhere / "photos"):
        folder.mkdir(parents=True)
    write_whole_view(old / "runs/f.h5", layout, index, digests, base=old / "project")
    write_whole_view(old / "project/first.h5", layout, index, digests)  # as the first versions did

    def find(file: Path) -> str:
        with Features(file) as features:
            assert features.root == "photos"
            return features.place

    monkeypatch.chdir(old / "project")
    assert find(old / "runs/f.h5") == find(Path("../runs/f.h5")) == find(Path("first.h5"))
    assert find(old / "runs/f.h5") == "photos"
    # Where others of that name lie.
    monkeypatch.chdir(elsewhere)
    assert find(old / "runs/f.h5") == str(old / "project/photos")
    assert find(old / "project/first.h5") == "photos"
    monkeypatch.chdir(tmp_path)
    assert find(old / "project/first.h5") == str(old / "project/photos")
    (elsewhere / "f.h5").symlink_to(old / "runs/f.h5")
    assert find(elsewhere / "f.h5") == str(old / "project/photos")
    old.rename(tmp_path / "new")
    assert find(tmp_path / "new/runs/f.h5") == str(tmp_path / "new/project/photos")
    (tmp_path / "new/project/photos").rmdir()
    assert find(tmp_path / "new/runs/f.h5") == str(tmp_path / "new/project/photos")


def test_long_texts_beside_short_ones_take_little_room(
    tmp_path: Path, layout: CacheLayout, index: Index
) -> None:
    digests = make_digests(3)[np.arange(9000) % 3]
    write_shard(layout, digests[:3], make_rows(3))
    texts = ["caption " * 300, *[str(row) for row in range(8999)]]
    write_whole_view(tmp_path / "f.h5", layout, index, digests, columns={"caption": texts})
    assert (tmp_path / "f.h5").stat().st_size < 2_000_000
    with Features(tmp_path / "f.h5") as features:
        assert features.column("caption") == texts
