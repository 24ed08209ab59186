"""A features.h5 that travels without its cache is refused with the remedy, and `show` says why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.errors import MissingShardError
from permafrost.cache.views import writer
from permafrost.cache.views.features import Features
from permafrost.pipeline.api.reader import open_features
from tests.helpers.answers import Command

LAYER = "last:avg"


@pytest.fixture
def view(extract: Command, tmp_path: Path) -> Path:
    """Extract into a folder beside that of the cache, which is named relatively in the file."""
    out = tmp_path / "work/features.h5"
    assert extract("--split", "test=0.3", out=out).status == 0
    return out


def move(view: Path, to: Path) -> None:
    view.rename(to)


def link_hard(view: Path, to: Path) -> None:
    os.link(view, to)


def copy(view: Path, to: Path) -> None:
    shutil.copy(view, to)


@pytest.mark.parametrize("travel", [move, link_hard, copy])
def test_a_view_that_travelled_is_refused_with_the_remedy(
    view: Path, command: Command, tmp_path: Path, travel: Callable[[Path, Path], None]
) -> None:
    to = tmp_path / "elsewhere/deep/features.h5"
    to.parent.mkdir(parents=True)
    travel(view, to)
    with Features(to) as features, pytest.raises(MissingShardError, match="--materialize"):
        features.read(LAYER)
    with open_features(to) as features, pytest.raises(MissingShardError, match="--materialize"):
        features.to_numpy(LAYER)
    fit = ("fit", "--features", to, "--layer", LAYER, "--head", "ridge", "--out", tmp_path / "m")
    answer = command(*fit)
    assert answer.status == 3
    assert answer.err.splitlines()[-1].startswith(f"permafrost: {str(to)!r} holds no values")
    (first, _) = command("show", to, "--json").figures["layers"]
    assert (first["shards"], first["shards_there"]) == (1, 0)
    assert first["folder"].startswith(str(tmp_path / "elsewhere"))
    assert "--materialize" in command("show", to).out
    verify = ("verify", "--cache", tmp_path / "cache", "--features")
    assert command(*verify, view if view.exists() else to, "--features", to).status == 3


def test_a_symbolic_link_to_a_view_is_the_view(view: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere/deep/features.h5"
    link.parent.mkdir(parents=True)
    link.symlink_to(view)
    with Features(view) as features, Features(link) as linked:
        np.testing.assert_array_equal(linked.read(LAYER), features.read(LAYER))


def test_a_link_into_a_store_of_files_is_the_view_where_it_was_written(
    view: Path, tmp_path: Path
) -> None:
    """As DVC leaves it: the file lies in its cache under another name, a link in its place."""
    with Features(view) as features:
        expected = features.read(LAYER)
    stored = tmp_path / "store/md5/ab/cdef"
    stored.parent.mkdir(parents=True)
    view.rename(stored)
    view.symlink_to(stored)
    with Features(view) as features:
        np.testing.assert_array_equal(features.read(LAYER), expected)


def test_a_materialized_view_travels(
    extract: Command, command: Command, view: Path, tmp_path: Path
) -> None:
    with Features(view) as features:
        expected = features.read(LAYER)
    assert extract("--split", "test=0.3", "--materialize", out=view).status == 0
    to = tmp_path / "elsewhere.h5"
    view.rename(to)
    (tmp_path / "cache").rename(tmp_path / "gone")
    with Features(to) as features:
        np.testing.assert_array_equal(features.read(LAYER), expected)
    found = command("show", to, "--json").figures
    assert (found["what"], found["images"]) == ("features", 12)
    assert [(one["kind"], one["folder"]) for one in found["layers"]] == [
        ("self-contained", None)
    ] * 2


def test_show_tells_virtual_pieces_from_pointers_only(
    extract: Command, command: Command, view: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, other) = command("show", view, "--json").figures["layers"]
    assert (one["layer"], one["shape"], one["dtype"]) == ("first", [15, 15, 8], "float32")
    assert one["kind"] == other["kind"] == "virtual pieces"
    assert Path(one["folder"]).parent.parent == tmp_path / "cache"
    assert "needs 1 shard in" in command("show", view).out
    monkeypatch.setattr(writer, "MAX_VIRTUAL_RUNS", 0)
    view.unlink()
    extract(out=view)
    assert {one["kind"] for one in command("show", view, "--json").figures["layers"]} == {
        "pointers only"
    }
    verified = command("verify", "--cache", tmp_path / "cache", "--features", view, "--json")
    assert [one["shards_there"] for one in verified.figures["features"]] == [1, 1]


def test_show_lists_the_feature_sets_of_a_cache(
    command: Command, view: Path, tmp_path: Path
) -> None:
    found = command("show", tmp_path / "cache", "--json").figures
    assert (found["what"], len(found["feature_sets"])) == ("cache", 2)
    for one in found["feature_sets"]:
        files = list((tmp_path / "cache" / one["name"]).glob("shard-*.h5"))
        assert one["bytes"] == sum(file.stat().st_size for file in files)
    for nothing in (tmp_path / "photos", tmp_path / "no.h5", __file__):
        answer = command("show", nothing)
        assert (answer.status, str(nothing) in answer.err) == (2, True)
